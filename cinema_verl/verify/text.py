"""Free text with aliases.

Correct is the gold or one of its aliases, word for word: after folding of scripts and case, with single spaces and
without wrapping, LaTeX's looks or a leading article. Nothing is given for containing the gold, so that text around it
does not help.

Numbers of statements (①③, "(1)(3)", "①、③") are the same numbers in the same order, and are not the number 13. A gold
that its source wrote as a formula ("sqrt(2)", ``\\frac{3}{4}\\pi{inches}``, "S:T=7:32") is also met by what the rule
of ``latex`` accepts for it. A gold that is empty abstains; empty aliases are ignored.
"""

import re
from functools import lru_cache

from cinema_verl.verify import latex
from cinema_verl.verify.reading import (
    fold,
    named,
    peel,
    same_name,
    statements,
    without_looks,
    without_math_marks,
    words,
)
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

_FORMULA = re.compile(
    r"\\[A-Za-z]|(?<![A-Za-z])sqrt\(|\d\s?\{|\}\s?\{|[\w)}]\s?\^\s?[\w({]|^(?=.*\d)(?:\(?[A-Z][a-z]?\d{0,2}(?:\)\d{0,2})?){2,}$"
)
_CLOCK = re.compile(r"(?<=\d)\s?([ap])\.?\s?m\b\.?", re.IGNORECASE)  # 3:15 p.m.
_BRACED_WORD = re.compile(r"\{\s?([A-Za-z]{2,}[A-Za-z ]*)\}\s*$")


def _readings(text: str) -> set[str]:
    """Folded text as it stands and peeled: a gold such as "(None)" or "Option" may be meant literally."""
    text = _CLOCK.sub(r"\1m", fold(text))
    if numbers := statements(text):
        return {numbers}
    plain = peel(without_looks(without_math_marks(text)))
    return {reading for reading in (words(text), words(peel(text)), words(plain)) if reading}


def _is_formula(text: str) -> bool:
    """Whether a text is written as a formula: with LaTeX's signs, or as the value of a symbol."""
    return bool(_FORMULA.search(text)) or ("=" in text and named(fold(text))[0].strip() == named(fold(text))[0] != "")


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def _gold(text: str) -> tuple[set[str], bool]:
    return _readings(text), _is_formula(text)


def check(answer: str, gold: Gold) -> Verdict:
    expected, is_formula = _gold(gold.text)
    if not expected:
        return ABSTAIN
    found = _readings(answer)
    if not found:
        return UNREADABLE
    if found & expected or any(found & _readings(alias) for alias in gold.aliases):
        return CORRECT
    return _as_formula(answer, gold.text) if is_formula else DIFFERENT


def _as_formula(answer: str, gold: str) -> Verdict:
    """By the rule of ``latex``, without what both are said to be the value of."""
    # A word in braces is a unit that lost its command.
    gold_name, formula = named(_BRACED_WORD.sub(r"\\text{ \1}", fold(gold)))
    name, found = named(fold(answer))
    if not same_name(name, gold_name):
        return DIFFERENT
    verdict = latex.check(found, Gold(formula))
    return DIFFERENT if verdict.correct is None else verdict
