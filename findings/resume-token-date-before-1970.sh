#!/usr/bin/env bash
# Package:  mongodb-resumetoken-decoder 1.1.2 (npm), which shows what is in a change stream's resume token.
# Expected: a token whose document key has a date is decoded to that date, before 1970 as well as after.
#           Dates are 64-bit milliseconds with the sign bit flipped, so that their bytes sort.
# Happens:  every date before 1970 becomes an Invalid Date, from the last millisecond of 1969 on. The sign
#           is flipped back, but the number is then read as unsigned. All other fields of the token are
#           right, nothing is raised, and JSON shows the key as null.
# Matters:  a document key holds the shard key, which may well be a day of birth or a day of record. Who
#           finds the document of a token this way, to skip or repeat its event, finds none, and only for
#           old dates.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts mongodb-resumetoken-decoder@1.1.2

cat > run.js <<'JS'
const { decodeResumeToken } = require('mongodb-resumetoken-decoder');
const { readFileSync } = require('fs');
const { version } = JSON.parse(readFileSync('node_modules/mongodb-resumetoken-decoder/package.json'));

// A version 1 token of an event with the document key {day: DATE}.
const token = (milliseconds) => {
  const date = Buffer.alloc(8);
  date.writeBigInt64BE(BigInt(milliseconds));
  date[0] ^= 0x80;
  return [
    '82', '65e1000000000001', // cluster time
    '2b02', '2c0100', '29', '6e', // version, token type, transaction index, not from an invalidate
    '5a1004', '00112233445566778899aabbccddeeff', // collection UUID
    '46', '78', Buffer.from('day\0').toString('hex'), '78', date.toString('hex'), '00', '04', // key
  ].join('');
};

console.log('version: mongodb-resumetoken-decoder', version);
let holds = true;
for (const day of ['2024-03-01', '1970-01-01', '1969-12-31', '1958-07-09']) {
  const milliseconds = Date.parse(`${day}T00:00:00Z`);
  const decoded = decodeResumeToken(token(milliseconds));
  const seen = decoded.documentKey.day;
  console.log('expected:', day, ' seen:', String(JSON.stringify(seen)), ' time:', String(seen.getTime()));
  holds = holds && decoded.timestamp.getHighBits() === 0x65e10000 && decoded.version === 1 &&
    seen instanceof Date && (milliseconds < 0 ? Number.isNaN(seen.getTime()) : seen.getTime() === milliseconds);
}
console.log(holds ? 'still so' : 'CHANGED');
process.exit(holds ? 0 : 1);
JS
node run.js
