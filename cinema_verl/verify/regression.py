"""An estimated quantity.

Numbers and units are read as for ``number``. Correct is a relative error of at most ``tolerance`` (default
0.05), measured by the gold; a gold of zero needs an exact zero. A gold that is no number abstains.
"""

from fractions import Fraction
from typing import Final

from cinema_verl.verify.number import on_scale_of, read
from cinema_verl.verify.reading import fold
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

TOLERANCE: Final = 0.05
"""Our choice: the strictest threshold of mean relative accuracy (VSI-Bench), whose mean Video-R1 rewards;
ours is 0 or 1."""


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(fold(gold.text))
    if expected is None:
        return ABSTAIN
    found = read(fold(answer))
    if found is None:
        return UNREADABLE
    tolerance = Fraction(repr(TOLERANCE if gold.tolerance is None else gold.tolerance))
    slack = tolerance * abs(expected.value)
    close = any(abs(value - expected.value) <= slack for value in on_scale_of(expected, found))
    return CORRECT if close else DIFFERENT
