"""A mathematical expression.

Right is the same expression after removal of what LaTeX does for looks only (spacing, ``\\left``,
``\\dfrac``, braces around one character, ``\\text{}``, "x ="), or the same number by the rule of
``number``, or, where neither decides, an equivalent one in the opinion of the engine: math-verify, in a
worker process. The engine is asked only about an answer that is one expression of the gold's kind: the same
letters in the same case, the same units (one side may leave them out), the same brackets around as many items, as
many relation signs, and no ratio, integral, sum, hedge or prose; and never where the gold is a number, which
wants a number and not the sum that the question asked for. Decimals are handed over as fractions, so nothing
is rounded: 0.333333 is not 1/3. What is not shown equal is wrong. A gold may give several forms separated by
"##" (MV-MATH); any of them is right. A gold that is empty or whose braces do not match abstains.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cinema_verl.verify import math_pool, number
from cinema_verl.verify.reading import fold, hedges, peel, without_math_marks
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

Engine = Callable[[str, str], Verdict | None]
"""``engine(answer, gold)`` on LaTeX, None for no opinion; it bounds its own time and memory and may be called from any
thread."""

MAX_ASKED: Final = 500
"""Longest expression that the engine is asked about. Our choice: several times the longest golds of MV-MATH and
Geometry3K; parsing takes longer than linear time."""

_engine: Engine | None = math_pool.equivalent


def set_engine(engine: Engine | None) -> None:
    """Choose who decides what spelling cannot; None for nobody. For this process."""
    global _engine
    _engine = engine


_FOR_LOOKS = (
    (re.compile(r"\\(?:left|right|displaystyle|limits|quad|qquad|big|Big|bigg|Bigg)(?![A-Za-z])"), " "),
    (re.compile(r"\\[,!;:> ]|~"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|textrm|mbox|operatorname|mathit|mathbf|rm)\s?\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\times(?![A-Za-z])"), "×"),
    (re.compile(r"\\cdot(?![A-Za-z])|\*"), "·"),
    (re.compile(r"\\le(?:q|qslant)?(?![A-Za-z])|≤"), "<="),
    (re.compile(r"\\ge(?:q|qslant)?(?![A-Za-z])|≥"), ">="),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s?(?:\(([^()]*)\)|(\w))"), lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (re.compile(r"\\([$%])"), r"\1"),
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FRAC_OF_DIGITS = re.compile(r"\\frac\s?(\d)\s?(\d)")
_ONE_IN_BRACES = re.compile(r"(?<=[\^_])\{\s?(\w)\s?\}|(?<=\\sqrt)\{\s?(\d)\s?\}")
# White space goes, but not between two letters or two digits, where it separates.
_IDLE_SPACE = re.compile(r"(?<![A-Za-z])\s(?=\D)|(?<!\d)\s(?![A-Za-z])|\s$")
_NAME = re.compile(r"([A-Za-z])\s?(?:=|\\in(?![A-Za-z])|∈)\s?(?=[^=]+$)")


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression in the spelling by which it is compared, and the variable that it is said to be ("" for none)."""

    name: str
    body: str


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def read(text: str) -> Expression:
    """Normalise folded text; case stays."""
    text = without_math_marks(peel(text, brackets=False))
    for pattern, replacement in _FOR_LOOKS:
        text = pattern.sub(replacement, text)
    text = _FRAC_OF_DIGITS.sub(r"\\frac{\1}{\2}", text)
    text = _ONE_IN_BRACES.sub(lambda m: m[1] or m[2], text)
    text = " ".join(text.split())
    name = _NAME.match(text)
    if name and re.search(rf"(?<![A-Za-z]){name[1]}(?![A-Za-z])", _COMMAND.sub(" ", text[name.end() :])):
        name = None  # x = x + 1 is an equation
    body = text[name.end() :] if name else text
    return Expression(name[1] if name else "", _IDLE_SPACE.sub("", peel(body, brackets=False)).strip())


def _same(answer: Expression, gold: Expression) -> bool:
    """Equal by spelling or as one number; x = 5 is 5, and is not y = 5."""
    if answer.body == gold.body:
        return True
    if any("," in body and body[0] in "([" for body in (answer.body, gold.body)):
        return False  # an interval or a point, not a number in brackets: (1,200)
    return number.check(answer.body, Gold(gold.body)).correct is True


# ---- what the engine is asked ---------------------------------------------------------------------------------------

_FUNCTION = re.compile(r"(?<![A-Za-z])(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp)(?![A-Za-z])")
_LETTER = re.compile(r"[^\W\d_]")
_WORDS = re.compile(r"[^\W\d_]{4}|[^\W\d_]{2}\s[^\W\d_]{2}")
_RELATION = re.compile(r"<=|>=|[<>=≠≈∈]|\\(?:neq?|in|approx|equiv|sim|cong|subset|mid)(?![A-Za-z])")
_CROSS = re.compile(r"[A-Za-z}]\s?×\s?[A-Za-z\\]")  # of vectors a product that is not the other
_NOT_ONE = re.compile(r"[$']|\\(?:boxed|int|sum|prod|lim)(?![A-Za-z])|\d\s\d|\d\s?:\s?\d|[;?|&]\s|\\\\")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?!\.)")
_TO_LATEX = str.maketrans({"×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "≠": r"\ne "})
# Units of one letter are left to the comparison of letters: a letter may be a variable.
_UNIT = re.compile(
    r"(?<=[\d)}\s])\s?(?P<unit>"
    + "|".join(re.escape(u) for u in sorted(number.units(), key=len, reverse=True) if len(u) > 1)
    + r")$"
)


def _is_number(body: str) -> bool:
    quantity = number.read(body)
    return quantity is not None and quantity.is_plain


def _without_unit(body: str) -> tuple[str, str]:
    unit = _UNIT.search(body)
    return (body[: unit.start()].rstrip(), number.units()[unit["unit"]]) if unit else (body, "")


def _letters(body: str) -> set[str] | None:
    """The variables; e may be written as exp, and is left out. None for words: as products they would commute."""
    body = _FUNCTION.sub(" ", _COMMAND.sub(" ", body))
    return None if _WORDS.search(body) else set(_LETTER.findall(body)) - {"e"}


def _frame(body: str) -> tuple[str, int]:
    """The outer brackets of a list, interval or point, and its commas; a set is a list, for neither has an order."""
    commas = body.count(",")
    if not commas or (body.startswith(r"\{") and body.endswith(r"\}")):
        return "", commas
    return (body[0] if body[0] in "([" else "") + (body[-1] if body[-1] in ")]" else ""), commas


def _question(answer: Expression, gold: Expression) -> tuple[str, str] | None:
    """What to ask the engine, or None where the answer is not one expression of the gold's kind."""
    if max(len(answer.body), len(gold.body)) > MAX_ASKED or _NOT_ONE.search(answer.body) or hedges(answer.body):
        return None
    if _is_number(gold.body):
        return None  # it wants a number, which the rule above has compared, and not the sum that the question asked for
    (found, unit), (expected, gold_unit) = _without_unit(answer.body), _without_unit(gold.body)
    if not found or not expected or (unit and gold_unit and unit != gold_unit):
        return None
    letters = _letters(found)
    if (
        letters is None
        or letters != _letters(expected)
        or _frame(found) != _frame(expected)
        or bool(_CROSS.search(found)) != bool(_CROSS.search(expected))
        or len(_RELATION.findall(found)) != len(_RELATION.findall(expected))
        or len(set(found.split(","))) != len(found.split(","))  # the engine's sets have forgotten what came twice
        or len(set(expected.split(","))) != len(expected.split(","))
    ):
        return None
    return _to_engine(found), _to_engine(expected)


def _to_engine(body: str) -> str:
    body = _DECIMAL.sub(lambda m: rf"(\frac{{{int(m[1] + m[2])}}}{{1{'0' * len(m[2])}}})", body)
    return body.translate(_TO_LATEX).replace("<=", r"\le ").replace(">=", r"\ge ")


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def check(answer: str, gold: Gold) -> Verdict:
    texts = [form for form in (fold(part) for part in gold.text.split("##")) if peel(form) and _balanced(form)]
    forms = [form for form in map(read, texts) if form.body]
    if not forms:
        return ABSTAIN
    found = read(fold(answer))
    if not found.body:
        return UNREADABLE
    # x = 5 is no answer to what y is.
    forms = [form for form in forms if not (found.name and form.name and found.name != form.name)]
    if any(_same(found, form) for form in forms):
        return RIGHT
    if _engine is None or not _balanced(found.body):
        return DIFFERENT
    verdict = DIFFERENT
    for question in filter(None, (_question(found, form) for form in forms)):
        opinion = _engine(*question) or DIFFERENT
        if opinion.correct:
            return opinion
        if opinion.reason != DIFFERENT.reason:
            verdict = opinion  # "timeout": wrong, and why
    return verdict
