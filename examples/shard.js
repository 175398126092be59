// Computes the shard of an _id, as docs/shards.md defines it (version 1).
//
//   npm install bson hash-wasm
//   node examples/shard.js 5 '{"$oid": "64b7f1c2a9d3e45f60718293"}' '"order-17"' 17
//
// prints a line for each _id in Extended JSON: its shard among 5, its hash and its canonical form.
const { BSON, Code, Decimal128, Double, EJSON, Long } = require("bson");
const { createXXHash3 } = require("hash-wasm");

const MAX_EXPONENT = 6111;

// An int64 if it has the number's value, else a double if it has, else the shortest decimal.
function canonicalNumber(number) {
  const text = String(number);
  const parts = /^(-?)(\d+)(?:\.(\d*))?(?:e([+-]?\d+))?$/i.exec(text);
  if (!parts) return new Double(Number(text)); // NaN and infinities
  const [, sign, whole, fraction = "", power = "0"] = parts;
  let digits = BigInt(whole + fraction);
  let exponent = Number(power) - fraction.length;
  if (digits === 0n) return Long.ZERO;
  while (digits % 10n === 0n && exponent < MAX_EXPONENT) {
    digits /= 10n;
    exponent += 1;
  }
  if (exponent >= 0) {
    const integer = BigInt(`${sign}1`) * digits * 10n ** BigInt(exponent);
    if (BigInt.asIntN(64, integer) === integer) return Long.fromBigInt(integer);
  }
  const isDouble = number._bsontype === "Double" || hasDouble(digits, exponent);
  if (isDouble) return new Double(Number(text));
  return Decimal128.fromString(`${sign}${digits}E${exponent}`);
}

// Whether a double has exactly the value digits * 10^exponent: one with 53 significant bits.
function hasDouble(digits, exponent) {
  const fives = 5n ** BigInt(Math.abs(exponent));
  if (exponent < 0 && digits % fives !== 0n) return false;
  let odd = exponent < 0 ? digits / fives : digits * fives;
  while (odd % 2n === 0n) odd /= 2n;
  return odd < 2n ** 53n;
}

// The value with all numbers in it in the form that equal ones share.
function canonical(value) {
  if (typeof value === "number") return canonicalNumber(new Double(value));
  if (typeof value === "bigint") return Long.fromBigInt(value);
  if (Array.isArray(value)) return value.map(canonical);
  switch (value?._bsontype) {
    case "Int32":
    case "Long":
    case "Double":
    case "Decimal128":
      return canonicalNumber(value);
    case "BSONSymbol":
      return value.value;
    case "Code":
      return value.scope ? new Code(value.code, canonical(value.scope)) : value;
    case "DBRef": {
      const { collection: $ref, oid: $id, db: $db, fields } = value;
      return canonical({ $ref, $id, ...($db && { $db }), ...fields });
    }
  }
  if (value?.constructor !== Object) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, canonical(inner)]));
}

// The number of the BSON type, and the bytes that BSON has for the value.
function canonicalBytes(value) {
  // Four bytes of length, the type, an empty name with its end, the value, and the document's end.
  const document = BSON.serialize({ "": canonical(value) });
  return Buffer.concat([document.subarray(4, 5), document.subarray(6, -1)]);
}

async function main() {
  const hasher = await createXXHash3();
  const count = BigInt(process.argv[2]);
  for (const text of process.argv.slice(3)) {
    const form = canonicalBytes(EJSON.parse(text, { relaxed: false }));
    const hash = hasher.init().update(form).digest("hex");
    console.log(`${BigInt(`0x${hash}`) % count} ${hash} ${form.toString("hex")}`);
  }
}

main();
