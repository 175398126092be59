#!/usr/bin/env bash
# Packages: quantile-estimator 0.1.3 (PyPI) and github.com/beorn7/perks v1.0.1 (Go). Both implement the
#           same algorithm for the quantiles of a Prometheus summary, with targets of rank and error.
# Expected: the answer's rank is within the error that was asked for, in whatever order the values come.
#           That bound is the point of the algorithm.
# Happens:  fed by two sources in turn, one rising and one falling, the Python package answers the 0.9
#           quantile of 10,000 values with a value of rank 0.05, asked for an error of 0.01. Its median is
#           off by 0.2. The Go package keeps every bound on the same values. Sorted input, the usual test,
#           is answered well by both.
# Matters:  a summary of latencies can show as its p90 a value that 94 % of the requests exceed, with no
#           sign of it. A test with sorted values does not find that, and a histogram does not have it.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check quantile-estimator==0.1.3

cat > run.py <<'PY'
import sys
from quantile_estimator import Estimator

order, n = sys.argv[1], 10_000
estimator = Estimator((0.5, 0.01), (0.9, 0.01), (0.99, 0.001))
for i in range(n):
    estimator.observe(i if order == "sorted" else i // 2 if i % 2 == 0 else n - 1 - i // 2)
print(*(f"{abs(estimator.query(q) / n - q):.4f}" for q in (0.5, 0.9, 0.99)))
PY

mkdir perks
cd perks
cat > go.mod <<'MOD'
module finding

go 1.21
MOD
cat > main.go <<'GO'
package main

import (
	"fmt"
	"math"
	"os"

	"github.com/beorn7/perks/quantile"
)

func main() {
	const n = 10_000
	stream := quantile.NewTargeted(map[float64]float64{0.5: 0.01, 0.9: 0.01, 0.99: 0.001})
	for i := 0; i < n; i++ {
		value := i
		if os.Args[1] != "sorted" {
			value = i / 2
			if i%2 == 1 {
				value = n - 1 - i/2
			}
		}
		stream.Insert(float64(value))
	}
	for _, q := range []float64{0.5, 0.9, 0.99} {
		fmt.Printf("%.4f ", math.Abs(stream.Query(q)/n-q))
	}
	fmt.Println()
}
GO
GOFLAGS=-mod=mod go get github.com/beorn7/perks@v1.0.1 2> go-get.log || { cat go-get.log >&2; exit 2; }
go build -o ../perks-run .
cd ..

sorted_python=$(venv/bin/python run.py sorted)
mixed_python=$(venv/bin/python run.py mixed)
sorted_go=$(./perks-run sorted)
mixed_go=$(./perks-run mixed)
echo "version: quantile-estimator 0.1.3, perks v1.0.1"
echo "expected: errors of rank of at most 0.01, 0.01 and 0.001, for the quantiles 0.5, 0.9 and 0.99"
echo "seen, sorted input:  Python $sorted_python | Go $sorted_go"
echo "seen, two sources:   Python $mixed_python | Go $mixed_go"

# Args: the three errors. Succeeds if each is within its bound, rounded as printed.
within() { awk -v a="$1" -v b="$2" -v c="$3" 'BEGIN { exit !(a <= 0.01 && b <= 0.01 && c <= 0.001) }'; }
read -r median p90 _ <<< "$mixed_python"
# shellcheck disable=SC2086 # three numbers, split on purpose
if within $sorted_python && within $sorted_go && within $mixed_go &&
  awk -v m="$median" -v p="$p90" 'BEGIN { exit !(m > 0.1 && p > 0.5) }'; then
  echo "still so"
else
  echo "CHANGED"
  exit 1
fi
