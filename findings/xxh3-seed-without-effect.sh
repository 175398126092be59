#!/usr/bin/env bash
# Package:  xxh3-ts 2.0.1 (npm), XXH64 and XXH3-128 in TypeScript, which its page calls input and output
#           compatible with xxHash 0.8.3. Compared with xxhash 4.1.0 (PyPI), bindings of the C library.
# Expected: both give the same XXH3-128 of the same bytes and seed, at every length.
# Happens:  with a seed, it depends on the length. 0 to 3 and 17 to 240 bytes of ASCII agree. 4 to 16 bytes get
#           another value. From 241 bytes on the seed has no effect: the value is that of seed 0. Without a
#           seed ASCII agrees at every length, but 1 to 3 bytes do not if the only, the second of two or the middle
#           one is 0x80 or more, as in "é" in UTF-8: their lower 64 bits differ. XXH64 of the same package
#           agrees everywhere.
# Matters:  who spreads keys over workers by a hash that two languages compute tests it with some short ASCII
#           keys and no seed, where both agree. With other keys or a seed two workers take the same key, or none.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check xxhash==4.1.0
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --no-package-lock xxh3-ts@2.0.1

cat > reference.py <<'PY'
import json
import xxhash

seeds = (0, 1, 42)
lengths = {
    str(seed): [str(xxhash.xxh3_128_intdigest(b"a" * n, seed)) for n in range(1025)] for seed in seeds
}
old = {str(seed): [str(xxhash.xxh64_intdigest(b"a" * n, seed)) for n in range(1025)] for seed in seeds}


def with_byte(length, byte):
    text = bytearray(b"a" * length)
    text[length // 2] = byte
    return bytes(text)


short = [[str(xxhash.xxh3_128_intdigest(with_byte(n, byte))) for byte in range(256)] for n in range(1, 6)]
print(json.dumps({"lengths": lengths, "old": old, "short": short}))
PY
venv/bin/python reference.py > reference.json

cat > run.cjs <<'JS'
const { XXH3_128, XXH64 } = require("xxh3-ts");
const expected = require("./reference.json");

// The lengths at which two lists agree, as ranges.
function agreement(seen, wanted) {
  const ranges = [];
  for (let n = 0; n < wanted.length; n++) {
    if (seen[n] !== wanted[n]) continue;
    if (ranges.length && ranges.at(-1)[1] === n - 1) ranges.at(-1)[1] = n;
    else ranges.push([n, n]);
  }
  return ranges.map(([from, to]) => `${from}-${to}`).join(" ");
}

const all = (hash, seed) => expected.lengths[0].map((_, n) => String(hash(Buffer.alloc(n, "a"), BigInt(seed))));
console.log("version: xxh3-ts", require("xxh3-ts/package.json").version);
console.log("expected: agreement at 0-1024 bytes, whatever the seed");
const seen = {};
for (const seed of [0, 1, 42]) {
  seen[seed] = agreement(all(XXH3_128, seed), expected.lengths[seed]);
  console.log(`seen:     XXH3-128, seed ${seed}: ${seen[seed]}`);
}
const old = [0, 1, 42].map((seed) => agreement(all(XXH64, seed), expected.old[seed]));
console.log(`seen:     XXH64, the same seeds: ${old.join(", ")}`);
const unseeded = agreement(all(XXH3_128, 42), expected.lengths[0]);
console.log(`seed 42 gives the value of seed 0 at: ${unseeded}`);

const short = expected.short.map((values, index) =>
  values.flatMap((value, byte) => {
    const bytes = Buffer.alloc(index + 1, "a");
    bytes[bytes.length >> 1] = byte;
    const found = XXH3_128(bytes);
    return String(found) === value ? [] : [{ byte, high: found >> 64n === BigInt(value) >> 64n }];
  }),
);
console.log("expected: no byte in the middle gives another value");
for (const [index, wrong] of short.entries()) {
  const which = wrong.length ? `${wrong.length}, from ${wrong[0].byte} to ${wrong.at(-1).byte}` : "none";
  console.log(`seen:     ${index + 1} bytes without a seed, middle bytes with another value: ${which}`);
}

const holds =
  seen[0] === "0-1024" &&
  seen[1] === "0-3 17-240" &&
  seen[42] === seen[1] &&
  old.every((it) => it === "0-1024") &&
  unseeded === "241-1024" &&
  short.slice(0, 3).every((wrong) => wrong.length === 128 && wrong[0].byte === 128 && wrong.every((it) => it.high)) &&
  short.slice(3).every((wrong) => wrong.length === 0);
console.log(holds ? "still so" : "CHANGED");
process.exit(holds ? 0 : 1);
JS
node run.cjs
