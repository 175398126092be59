#!/usr/bin/env bash
# Package:  protobuf-fieldmask 2.0.0 (npm), which makes field masks and applies them to objects.
# Expected: applying a mask only removes fields. What the source does not have, the result does not have,
#           and a path that goes on below a list keeps the list, or is refused: field masks forbid it.
# Happens:  a path below a message that is absent or null adds that message, empty. A path below a list
#           replaces the list by an empty object, which no repeated field can hold. In the other direction,
#           the mask made from an object leaves out its empty messages, although it keeps its empty lists,
#           so an object under its own mask loses them.
# Matters:  in protobuf an empty message is present and an absent one is not. An update under such a mask
#           sets what it should leave alone, and one made from the object can't clear a message.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts protobuf-fieldmask@2.0.0

cat > run.js <<'JS'
const { readFileSync } = require('fs');
const { applyFieldMask, generateFieldMask } = require('protobuf-fieldmask');
const { version } = JSON.parse(readFileSync('node_modules/protobuf-fieldmask/package.json'));

console.log('version: protobuf-fieldmask', version);
let holds = true;
const check = (what, expected, wrong, seen) => {
  console.log(`${what}: expected ${expected}, seen ${JSON.stringify(seen)}`);
  holds = holds && JSON.stringify(seen) === wrong;
};

check('fields of a present message', '{"a":{"b":1}}', '{"a":{"b":1}}',
  applyFieldMask({ a: { b: 1, c: 2 } }, ['a.b']));
check('field of an absent message', '{"d":1}', '{"a":{},"d":1}',
  applyFieldMask({ d: 1 }, ['a.b', 'd']));
check('field of a null message', '{"d":1}, or null for a', '{"a":{},"d":1}',
  applyFieldMask({ a: null, d: 1 }, ['a.b', 'd']));
check('field below a list', 'the list, or an error', '{"items":{}}',
  applyFieldMask({ items: [{ b: 1, c: 2 }, { b: 3 }] }, ['items.b']));
check('mask of an object', '["empty","list"]', '["list"]',
  generateFieldMask({ empty: {}, list: [] }));
const source = { empty: {}, list: [] };
check('an object under its own mask', JSON.stringify(source), '{"list":[]}',
  applyFieldMask(source, generateFieldMask(source)));

console.log(holds ? 'still so' : 'CHANGED');
process.exit(holds ? 0 : 1);
JS
node run.js
