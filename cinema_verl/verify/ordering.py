"""An order of things.

Answer and gold are sequences: items separated by commas, semicolons, ">", "->", "→", "|", "then" or line
breaks, a JSON list, letters or digits separated by spaces, or letters or digits run together ("BCA",
"213"). An item is compared as words without a leading "image", "frame", "picture", "step" or "option" and
without brackets. Right is the same sequence; nothing is given for a part of it or for the reverse, and "<"
is no separator because it reverses the order. A gold of fewer than two items or with an item twice
abstains.
"""

import re
from functools import lru_cache

from cinema_verl.verify.reading import fold, peel, words
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

_SEPARATOR = re.compile(
    r"\s*(?:,\s*(?:and\b\s*)?(?:then\b)?|-{1,3}>|={1,3}>|→|⇒|\\(?:right|Right|long)?arrow\b|\\to\b|[;>|\n]|\b(?:and\s)?then\b"
    r"|\band\b)\s*",
    re.IGNORECASE,
)
_SHORT_ITEMS = re.compile(r"(?:[A-Za-z]|\d{1,3})(?:(?:\s+|\s*-\s*)(?:[A-Za-z]|\d{1,3}))+")
_KIND = re.compile(r"(?:the\s+)?(?:image|frame|picture|photo|figure|step|option|图片?|帧)\s*#?\s*(?=\S)", re.IGNORECASE)

_LEAD_IN = re.compile(r"(?:the\s)?(?:correct\s|right\s)?(?:order|sequence)(?:\sis)?\s?:?\s(?=\S)", re.IGNORECASE)


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def read(text: str) -> tuple[str, ...] | None:
    """The items in folded text, or None when there are fewer than two or one comes twice."""
    text = peel(_LEAD_IN.sub("", peel(text), count=1))
    parts = _SEPARATOR.split(text)
    if len(parts) == 1:
        if _SHORT_ITEMS.fullmatch(text):
            parts = re.split(r"[\s-]+", text)
        elif text.isascii() and (text.isdigit() or (text.isalpha() and text.isupper())):
            parts = list(text)
    items = [words(peel(_KIND.sub("", peel(part), count=1))) for part in parts]
    if len(items) < 2 or not all(items) or len(set(items)) != len(items):
        return None
    return tuple(items)


def check(answer: str, gold: Gold) -> Verdict:
    expected = read(fold(gold.text))
    if expected is None:
        return ABSTAIN
    found = read(fold(answer))
    if found is None:
        return UNREADABLE
    return RIGHT if found == expected else DIFFERENT
