// Reads Extended JSON with npm's bson, a document in each line, and writes each as BSON in hexadecimal. With
// `relaxed: false` numbers keep their types, if the text has them.

import { readFileSync } from "node:fs";
import { BSON, EJSON } from "bson";

function read(text) {
  try {
    return Buffer.from(BSON.serialize(EJSON.parse(text, { relaxed: false }))).toString("hex");
  } catch (error) {
    return `error: ${String(error).replaceAll("\n", " ")}`;
  }
}

const lines = readFileSync(0, "utf8").split("\n").slice(0, -1);
process.stdout.write(lines.map((line) => `${read(line)}\n`).join(""));
