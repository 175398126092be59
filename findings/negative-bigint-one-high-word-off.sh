#!/usr/bin/env bash
# Package:  @deepkit/bson 1.0.19 (npm), a BSON encoder and decoder, judged by the official bson package 6.10.4.
# Expected: a bigint within 64 bits and a date are stored as they are, and read back as they were.
# Happens:  a negative bigint that is a multiple of 2^32 is stored as the multiple below it: -4294967296
#           becomes -8589934592, and the least 64-bit integer becomes a number above zero, 2^63 - 2^32.
#           Their neighbours, and the same multiples above zero, are right. Dates before 1970 have the same
#           fault: one millisecond in every 50 days is stored 49 days and 17 hours too early. The low half
#           of these numbers is zero, so negating the halves one by one loses a carry. Reading is right, and
#           nothing is raised.
# Matters:  numbers that are round in binary are just those which bounds of ranges and fixed-point amounts
#           have. A test with -1, with random values or with positive numbers does not find it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts \
  @deepkit/bson@1.0.19 @deepkit/core@1.0.19 @deepkit/type@1.0.19 bson@6.10.4

cat > run.js <<'JS'
const { readFileSync } = require('fs');
const { serializeBSONWithoutOptimiser, deserializeBSONWithoutOptimiser } = require('@deepkit/bson');
const { serialize, deserialize, Long } = require('bson');
const version = (name) => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;

console.log('version: @deepkit/bson', version('@deepkit/bson'), 'and bson', version('bson'));
const stored = (value) =>
  deserialize(serializeBSONWithoutOptimiser({ value }), { useBigInt64: true }).value;
const read = (bytes) => deserializeBSONWithoutOptimiser(bytes).value;

let wrong = 0;
let exact = 0;
const check = (value, expectWrong) => {
  const seen = stored(value);
  console.log('expected:', value, ' seen:', seen);
  if (seen === value && !expectWrong) exact++;
  if (seen === value - 2n ** 32n && expectWrong) wrong++;
};
for (const multiple of [1n, 2n, 1000n, 2n ** 30n]) {
  const value = -multiple * 2n ** 32n;
  check(value, true);
  check(value - 1n, false);
  check(value + 1n, false);
  check(-value, false);
}
const least = -(2n ** 63n);
const storedLeast = stored(least);
console.log('expected:', least, ' seen:', storedLeast);
const readsLeast = read(serialize({ value: Long.fromBigInt(least) })) === least;
console.log('the same number from the other encoder is read as it is:', readsLeast);

const days = [-(2 ** 32) - 1, -(2 ** 32), -(2 ** 32) + 1, 2 ** 32].map((milliseconds) => {
  const date = new Date(milliseconds);
  const seen = stored(date);
  console.log('expected:', date.toISOString(), ' seen:', seen.toISOString());
  return seen - date;
});

const holds = wrong === 4 && exact === 12 && storedLeast === 2n ** 63n - 2n ** 32n && readsLeast &&
  days.join() === [0, -(2 ** 32), 0, 0].join();
console.log(holds ? 'still so' : 'CHANGED');
process.exit(holds ? 0 : 1);
JS
node run.js
