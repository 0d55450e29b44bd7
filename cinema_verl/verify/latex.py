"""A mathematical expression.

Right is the same expression after removal of what LaTeX does for looks only (spacing, ``\\left``,
``\\dfrac``, braces around one character, ``\\text{}``, "x ="), or the same number by the rule of
``number``. Where neither decides, the engine does, if one is set: a function that judges mathematical
equivalence, and None gives no opinion. Without an engine what is not shown equal is wrong, so that verdicts
err on the side of refusing. A gold may give several forms separated by "##" (MV-MATH); any of them is
right. A gold that is empty or whose braces do not match abstains.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from cinema_verl.verify import number
from cinema_verl.verify.reading import fold, peel
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

Engine = Callable[[str, str], Verdict | None]
"""``engine(answer, gold)`` on peeled text; it must bound its own time and memory and may be called from any
thread."""

_engine: Engine | None = None


def set_engine(engine: Engine | None) -> None:
    """Choose who decides what normalisation cannot; None for nobody. For this process."""
    global _engine
    _engine = engine


_FOR_LOOKS = (
    (re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad|big|Big|bigg|Bigg)(?![A-Za-z])"), ""),
    (re.compile(r"\\[,!;:> ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|textrm|mbox)\s?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])|×|·"), "*"),
    (re.compile(r"\\le(?:q|qslant)?(?![A-Za-z])|≤"), "<="),
    (re.compile(r"\\ge(?:q|qslant)?(?![A-Za-z])|≥"), ">="),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(r"\\([$%])"), r"\1"),
)
_FRAC_OF_DIGITS = re.compile(r"\\frac\s?(\d)\s?(\d)")
_ONE_IN_BRACES = re.compile(r"(?<=[\^_])\{\s?(\w)\s?\}|(?<=\\sqrt)\{\s?(\d)\s?\}")
# White space goes, but not between two letters or two digits, where it separates.
_IDLE_SPACE = re.compile(r"(?<![A-Za-z])\s(?=\D)|(?<!\d)\s(?![A-Za-z])|\s$")
_NAMED = re.compile(r"[A-Za-z]\s?=\s?(?=[^=])")


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def normal_form(text: str) -> str:
    """The spelling by which two expressions are compared; takes folded text, keeps case."""
    text = peel(text)
    for pattern, replacement in _FOR_LOOKS:
        text = pattern.sub(replacement, text)
    text = _FRAC_OF_DIGITS.sub(r"\\frac{\1}{\2}", text)
    text = _ONE_IN_BRACES.sub(lambda m: m[1] or m[2], text)
    if (name := _NAMED.match(text)) and text.count("=") == 1:
        text = text[name.end() :]
    text = re.sub(r"\s+", " ", text)
    return _IDLE_SPACE.sub("", peel(text)).strip()


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def check(answer: str, gold: Gold) -> Verdict:
    forms = [form for form in (fold(part) for part in gold.text.split("##")) if peel(form) and _balanced(form)]
    if not forms:
        return ABSTAIN
    found = fold(answer)
    normal = normal_form(found)
    if not normal:
        return UNREADABLE
    for form in forms:
        if normal == normal_form(form) or number.check(found, Gold(form)).correct:
            return RIGHT
    if _engine is not None:
        for form in forms:
            verdict = _engine(peel(found), peel(form))
            if verdict is not None and verdict.correct:
                return verdict
    return DIFFERENT
