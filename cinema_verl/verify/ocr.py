"""Text read off an image.

Right is an edit distance (insertions, deletions, substitutions of characters, after folding of scripts,
spaces and case) of at most ``tolerance`` times the gold's length, rounded down; the default is 0.1. Digits
are no slips: both texts must hold the same digits in the same order, for 0.001 is not 0.004. The slack is
measured by the gold, so that a longer answer gets no more of it. A gold that is empty abstains.
"""

from typing import Final

from cinema_verl.verify.reading import fold, peel
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

TOLERANCE: Final = 0.1
"""Our choice: one slip in ten characters forgives spacing and punctuation in long texts, and asks words of
fewer than ten characters to be exact."""


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def check(answer: str, gold: Gold) -> Verdict:
    expected = fold(gold.text).casefold()
    if not expected:
        return ABSTAIN
    found = fold(answer).casefold()
    if found == expected or peel(found) == peel(expected):
        return RIGHT
    found = peel(found)
    if not found:
        return UNREADABLE
    tolerance = TOLERANCE if gold.tolerance is None else gold.tolerance
    allowed = min(int(tolerance * len(expected)), len(expected) - 1)
    if not allowed or _digits(found) != _digits(expected):
        return DIFFERENT

    from rapidfuzz.distance import Levenshtein  # here, so that reading a trajectory does not load it

    return RIGHT if Levenshtein.distance(found, expected, score_cutoff=allowed) <= allowed else DIFFERENT
