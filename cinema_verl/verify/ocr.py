"""Text read off an image.

Correct is an edit distance (insertions, deletions, substitutions of characters, after folding of scripts,
spaces and case) of at most ``tolerance`` times the gold's length, rounded down; the default is 0.1. Digits
are no slips: both texts must hold the same digits in the same order, for 0.001 is not 0.004. The slack is
measured by the gold, so that a longer answer gets no more of it. A gold that is empty abstains.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

from cinema_verl.verify.reading import fold, peel
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

TOLERANCE: Final = 0.1
"""Our choice: one slip in ten characters forgives spacing and punctuation in long texts, and asks words of
fewer than ten characters to be exact."""


_DIGIT = re.compile(r"\d")


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def _read(text: str) -> tuple[str, str, list[str]]:
    """Text folded, then peeled as well, and its digits."""
    folded = fold(text).casefold()
    return folded, peel(folded), _DIGIT.findall(folded)


def check(answer: str, gold: Gold) -> Verdict:
    expected, expected_peeled, digits = _read(gold.text)
    if not expected:
        return ABSTAIN
    found = fold(answer).casefold()
    if found == expected or (found := peel(found)) == expected_peeled:
        return CORRECT
    if not found:
        return UNREADABLE
    tolerance = TOLERANCE if gold.tolerance is None else gold.tolerance
    allowed = min(int(tolerance * len(expected)), len(expected) - 1)
    if not allowed or _DIGIT.findall(found) != digits:
        return DIFFERENT
    return CORRECT if _distance()(found, expected, score_cutoff=allowed) <= allowed else DIFFERENT


@cache
def _distance() -> Callable[..., int]:
    from rapidfuzz.distance import Levenshtein  # here, so that reading a trajectory does not load it

    return Levenshtein.distance
