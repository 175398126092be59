#!/usr/bin/env bash
# Package:  common-expression-language 0.10.0 (PyPI), bindings of CEL, the language of the validation rules
#           in Kubernetes resource definitions.
# Expected: string(duration("-1s")) is "-1s", and reading it back gives the same duration, as
#           string(duration("1s")) does for "1s".
# Happens:  the text of every negative duration is a distance to 2^64 nanoseconds: "-1s" becomes
#           "-5124095h34m32.709551616s". The value itself is right: it compares, adds and converts to
#           Python as minus one second. Only its text is wrong, and that text is read as another duration.
# Matters:  a rule or a message that prints the difference of two timestamps is right until a clock runs
#           behind, and then shows 584 years instead of one second.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check common-expression-language==0.10.0

cat > run.py <<'PY'
import sys
from importlib.metadata import version

from cel import evaluate

print("version: common-expression-language", version("common-expression-language"))
durations = ["1s", "-1s", "-500ms", "-90m"]
texts = [evaluate(f'string(duration("{d}"))') for d in durations]
late = 'string(timestamp("2024-03-01T00:00:00Z") - timestamp("2024-03-01T00:00:01Z"))'
value = evaluate('duration("-1s")').total_seconds()
below_zero = evaluate('duration("-1s") < duration("0s")')
reads_back = [evaluate(f'duration(string(duration("{d}"))) == duration("{d}")') for d in ("1s", "-1s")]
print("expected: 1s, -1s, -500ms or -0.5s, -1h30m0s or -5400s")
print("seen:    ", ", ".join(texts))
print("expected: a timestamp minus one a second later is -1s")
print("seen:    ", evaluate(late))
print("the value of -1s:", value, "below zero:", below_zero)
print("reads back as itself: 1s", reads_back[0], "and -1s", reads_back[1])

holds = (
    texts == ["1s", "-5124095h34m32.709551616s", "-5124095h34m33.209551616s", "-5124094h4m33.709551616s"]
    and evaluate(late) == texts[1]
    and value == -1
    and below_zero
    and reads_back == [True, False]
)
print("still so" if holds else "CHANGED")
sys.exit(not holds)
PY
venv/bin/python run.py
