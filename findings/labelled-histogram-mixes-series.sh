#!/usr/bin/env bash
# Package:  parse-prometheus-text-format 1.1.1 (npm), a reader of the Prometheus text format.
# Expected: one entry for each label set of a histogram, with its labels, its buckets, its sum and its
#           count. A service with two methods has two series, and both are in the answer.
# Happens:  all series of one histogram become a single entry. Its labels, its sum and its count are gone,
#           and each bucket is that of the series which came last. A histogram whose first series has no
#           labels is worse: its sum and count stand beside the buckets of the other series, so that
#           `+Inf` no longer equals the count. Nothing is raised. Counters and gauges keep their labels.
# Matters:  a test or a dashboard that reads /metrics through it sees one latency histogram for all
#           methods, and the numbers of one method under the name of all.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts parse-prometheus-text-format@1.1.1

cat > run.js <<'JS'
const parse = require('parse-prometheus-text-format');
const { version } = require('parse-prometheus-text-format/package.json');

const series = (labels, one, all, sum) => {
  const braces = labels ? `{${labels}}` : '';
  const le = (bound) => `{${labels ? labels + ',' : ''}le="${bound}"}`;
  return [
    `wait_seconds_bucket${le('1')} ${one}`,
    `wait_seconds_bucket${le('+Inf')} ${all}`,
    `wait_seconds_sum${braces} ${sum}`,
    `wait_seconds_count${braces} ${all}`,
  ];
};
const page = (...all) => ['# TYPE wait_seconds histogram', ...all.flat(), ''].join('\n');
const read = (text) => parse(text)[0].metrics;

const labelled = read(page(series('method="get"', 1, 2, 3), series('method="watch"', 5, 6, 9)));
const mixed = read(page(series('', 1, 2, 3), series('method="watch"', 5, 6, 9)));
const gauge = parse('# TYPE open gauge\nopen{method="get"} 1\nopen{method="watch"} 2\n')[0].metrics;

console.log('version: parse-prometheus-text-format', version);
console.log('expected: 2 entries with labels, sum and count, as for a gauge:', JSON.stringify(gauge));
console.log('seen, both series labelled:  ', JSON.stringify(labelled));
console.log('seen, first series unlabelled:', JSON.stringify(mixed));

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const holds = gauge.length === 2 &&
  same(labelled, [{ buckets: { 1: '5', '+Inf': '6' } }]) &&
  mixed.length === 1 && mixed[0].count === '2' && mixed[0].buckets['+Inf'] === '6';
console.log(holds ? 'still so' : 'CHANGED');
process.exit(holds ? 0 : 1);
JS
node run.js
