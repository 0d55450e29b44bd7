"""Multiple choice, several letters.

Answer and gold are sets of options: letters run together in capitals ("ACD"), or letters, labelled letters
and option texts separated by commas, semicolons, slashes, "+", "&", "|", line breaks, "and", "和" or "、"; a
JSON list too; with "both", "only", "are correct" around them. Correct is the same set, in any order; a missing or an
extra letter is incorrect, so listing everything scores only where everything is correct. "or", doubt and any other
prose make it unreadable, and so do a letter named twice and a letter beside another option's text. A gold that names no
option abstains.
"""

import re
from functools import lru_cache

from cinema_verl.verify.mcq import Options, options_of, read_exact
from cinema_verl.verify.reading import fold, peel
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

# From strong to weak: a comma or an "and" inside an option's text does no harm where semicolons separate.
_SEPARATORS = (
    re.compile(r"[;|\n]"),
    re.compile(r",(?:\s(?:and|&)(?=\s))?", re.IGNORECASE),
    re.compile(r"[/+&]|\b(?:and|plus|as\swell\sas)\b|以?及|和|与|(?<=[)\]])\s?(?=[(\[])", re.IGNORECASE),
)
_BULLET = re.compile(r"^[-*•]\s")
_CAPITALS = re.compile(r"[A-Z](?:\s?[A-Z])*")
_LEAD_IN = re.compile(
    r"(?:the\s)?(?:correct\s|right\s)?(?:answers|options|choices|statements|letters)\b(?:\sare)?\s?:?\s?"
    r"|(?:both|only|just|all\sof)\s(?=\S)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?:\s(?:only|together)|,?\s(?:are|is)(?:\s(?:both|all))?(?:\sthe)?\s(?:correct|right|true)"
    r"(?:\s(?:answers?|options?|choices?|ones?))?|都?(?:是)?(?:正确|对)的?)$",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def read_set(text: str, options: Options) -> frozenset[str] | None:
    """The options that folded text names, or None when a part of it names none or one is named twice."""
    text = _REMARK.sub("", peel(text))
    for _ in range(2):  # "options: both A and C"
        if lead_in := _LEAD_IN.match(text):
            text = peel(text[lead_in.end() :])
    letters = _letters(text, options, _SEPARATORS)
    if not letters or len(set(letters)) != len(letters) or not set(letters) <= set(options.letters):
        return None
    return frozenset(letters)


def _letters(text: str, options: Options, separators: tuple[re.Pattern[str], ...]) -> list[str] | None:
    text = peel(text)
    whole = read_exact(text, options)
    if whole:
        return [whole]
    text = _BULLET.sub("", text)
    if _CAPITALS.fullmatch(text):
        return [letter for letter in text if not letter.isspace()]
    if not separators:
        return None
    found: list[str] = []
    for part in separators[0].split(text):
        letters = _letters(part, options, separators[1:])
        if letters is None:
            return None
        found += letters
    return found


def check(answer: str, gold: Gold) -> Verdict:
    options = options_of(gold.options)
    expected = read_set(fold(gold.text), options)
    if expected is None:
        return ABSTAIN
    found = read_set(fold(answer), options)
    if found is None:
        return UNREADABLE
    return CORRECT if found == expected else DIFFERENT
