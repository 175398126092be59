// Reads the events of the tutorial in Node, with the proto loaded at run time.
//
// Usage: client.mjs PROTO_FOLDER HOST:PORT DATABASE COLLECTION [AUTHORITY CERTIFICATE KEY]
//
// With PEM files it connects over mutual TLS.
// Prints READY once the watch is open; the test then inserts, updates, replaces, deletes and drops.
// Prints one line per event and DONE at the end. Exits with 1 and a stack trace when anything
// differs from the API.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

// Limits one call as a whole; the test has its own limit.
const CALL_LIMIT_MS = 60_000;

const [protoFolder, address, database, collection, ...tls] = process.argv.slice(2);

const definition = loadSync("weir/v1/watch.proto", {
  includeDirs: [protoFolder],
  keepCase: true,
  longs: String,
  enums: String,
  oneofs: true,
});
const { WatchService } = grpc.loadPackageDefinition(definition).weir.v1;

// The part of google.rpc that a client needs to read the reason.
const { root } = protobuf.parse(
  `
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  `,
  { keepCase: true },
);

function errorInfo(error) {
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  assert.ok(bytes, "the status carries no details");
  const status = root.lookupType("Status").decode(bytes);
  const detail = status.details.find(({ type_url }) => type_url.endsWith("/google.rpc.ErrorInfo"));
  assert.ok(detail, "the details hold no ErrorInfo");
  return root.lookupType("ErrorInfo").decode(detail.value);
}

// Reads a watch until it has seen its end, and returns the events. When a call fails, grpc-js drops the
// messages that it has not handed over yet (so also in its version 1.14); decompression makes it slow
// enough for that. What was dropped comes again after the last token.
async function readToTheEnd(client, start) {
  const events = [];
  let from = start;
  for (let calls = 0; calls < 20; calls += 1) {
    const { token, sawTheEnd } = await readOnce(client, from, events);
    if (sawTheEnd) return events;
    from = { resume_token: token };
  }
  throw new Error("the watch never showed its end");
}

// Reads one call, adds its events, and returns its last token and whether it was read to its end.
async function readOnce(client, start, events) {
  const request = {
    database,
    collections: [collection],
    document_format: "DOCUMENT_FORMAT_JSON",
    ...start,
  };
  const call = client.Watch(request, { deadline: Date.now() + CALL_LIMIT_MS });
  const kinds = [];
  let token;
  let error;
  try {
    for await (const message of call) {
      assert.ok(message.resume_token?.length > 0, "a message carries no token");
      if (kinds.length === 0) {
        assert.equal(message.kind, "opened");
        if (!start) console.log("READY");
      }
      kinds.push(message.kind);
      token = message.resume_token;
      for (const event of message.changes?.changes ?? []) {
        console.log("EVENT", event.operation);
        events.push(event);
      }
      if (message.kind === "invalidated") {
        assert.equal(message.invalidated.cause, "OPERATION_TYPE_DROP");
      }
    }
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, "a watch of a dropped collection ended with OK");
  assert.equal(error.code, grpc.status.ABORTED, error.stack);
  const { domain, reason } = errorInfo(error);
  assert.deepEqual({ domain, reason }, { domain: "weir", reason: "WATCH_INVALIDATED" });
  return { token, sawTheEnd: kinds.at(-1) === "invalidated" };
}

// Checks the five events of the tutorial with their contents.
function check(events) {
  assert.deepEqual(
    events.map(({ operation }) => operation),
    ["INSERT", "UPDATE", "REPLACE", "DELETE", "DROP"].map((name) => `OPERATION_TYPE_${name}`),
  );
  for (const event of events) {
    assert.ok(event.resume_token.length > 0);
    assert.equal(event.namespace.database, database);
    assert.equal(event.namespace.collection, collection);
  }
  for (const event of events.slice(0, 4)) {
    assert.deepEqual(JSON.parse(event.document_key.json), { _id: 1 });
  }
  const [insert, update, replace, remove, drop] = events;
  const json = (document) => JSON.parse(document.json);
  assert.deepEqual(json(insert.insert.full_document), { _id: 1, status: "new" });
  assert.deepEqual(json(update.update.update_description.updated_fields), { status: "paid" });
  assert.equal(update.update.full_document ?? null, null);
  assert.deepEqual(json(replace.replace.full_document), { _id: 1, total: 5 });
  assert.equal(remove.change, "delete");
  assert.equal(drop.change, "drop");
  assert.equal(drop.document_key ?? null, null);
}

const [authority, certificate, key] = tls.map((path) => readFileSync(path));
const credentials = authority
  ? grpc.credentials.createSsl(authority, key, certificate)
  : grpc.credentials.createInsecure();
const client = new WatchService(address, credentials);
const events = await readToTheEnd(client);
check(events);
const resumed = await readToTheEnd(client, { resume_token: events[1].resume_token });
assert.deepEqual(resumed, events.slice(2));
client.close();
console.log("DONE");
