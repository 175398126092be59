// Follows shop.orders. Started again, it continues after the last handled message.
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const address = process.argv[2] ?? "127.0.0.1:50051";
const tokenFile = "orders.token";

const definition = loadSync("weir/v1/watch.proto", {
  includeDirs: [`${__dirname}/../proto`],
  enums: String,
  oneofs: true,
});
const { WatchService, ChangeEvent } = grpc.loadPackageDefinition(definition).weir.v1;

const request = {
  database: "shop",
  collections: ["orders"],
  fullDocument: "FULL_DOCUMENT_UPDATE_LOOKUP",
  documentFormat: "DOCUMENT_FORMAT_JSON",
};
if (fs.existsSync(tokenFile)) request.resumeToken = fs.readFileSync(tokenFile);

async function main() {
  const pieces = [];
  const client = new WatchService(address, grpc.credentials.createInsecure());
  for await (const message of client.Watch(request)) {
    if (message.opened) console.log("watching");
    const changes = message.changes?.changes ?? [];
    if (message.eventChunk) {
      // A large event comes in pieces. A piece with index 0 starts it again.
      const piece = message.eventChunk;
      pieces.length = piece.index ?? 0;
      pieces.push(piece.data);
      if (piece.last) changes.push(ChangeEvent.deserialize(Buffer.concat(pieces)));
    }
    for (const event of changes) {
      // event.change names the field that holds the change: "insert", "update", ...
      console.log(event.operation, event[event.change].fullDocument?.json);
    }
    // Everything up to this message is handled now.
    fs.writeFileSync(tokenFile, message.resumeToken);
  }
}

main();
