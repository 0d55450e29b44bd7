#!/usr/bin/env bash
# math-verify 0.9.0: LaTeX answers that mean different things are equal.
#
# parse() drops a number's base, takes both derivatives of two unknown names for derivatives that are 0, reads letters of an
# angle or a formula as commuting factors, reads "\quad" between two equations as a product, and verify() compares a chain of
# equations by its last part. In reinforcement learning each is a reward for a wrong answer.
# Seen: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0, antlr4 4.9.3, Python 3.11; output "equal" six times, and
# "different" for the control.
# Exit code 0 while that is so; 1 when it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'math-verify[antlr4_9_3]==0.9.0' latex2sympy2_extended==1.11.0 sympy==1.14.0
cat > "$work/compare.py" <<'PYTHON'
from math_verify import parse, verify

PAIRS = [
    (r"$204_5$", r"$204_6$"),
    (r"$\frac{dy}{dx}$", r"$\frac{dx}{dy}$"),
    (r"$\angle ACB$", r"$\angle ABC$"),
    (r"$H_2O$", r"$OH_2$"),
    (r"$x=5 \quad y=2$", r"$x=1 \quad y=2$"),
    (r"$a=2b=c$", r"$a=b=c$"),
]
found = [verify(parse(gold), parse(answer)) for gold, answer in PAIRS]
for (gold, answer), equal in zip(PAIRS, found):
    print(f"{gold} and {answer}: {'equal' if equal else 'different'}")
control = verify(parse("$5$"), parse("$6$"))
print(f"$5$ and $6$: {'equal' if control else 'different'}")
assert all(found) and not control
PYTHON
"$work/venv/bin/python" "$work/compare.py"
