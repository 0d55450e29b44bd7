"""Whether a correct answer, written as people and models write one, would be found correct against a gold.

A gold is a correct answer to itself even where only its own spelling is: such a gold would make every rollout
incorrect. Here the answer is written in the ways that are natural for its type, from what the gold means and not from
how it is spelled, and the verifier is asked about each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Final

from cinema_verl.data.canonical import LETTERS
from cinema_verl.prepare.draft import Draft
from cinema_verl.prepare.sources import gold_parts
from cinema_verl.verify import decide, mcq, mcq_multi, number, ordering, yesno
from cinema_verl.verify.reading import fold, without_looks, without_math_marks

STRICT: Final = "gold_strict"
"""Flag of a question whose gold refuses some natural ways to write the correct answer."""


def refused(draft: Draft) -> tuple[list[str], int]:
    """The natural ways to write the correct answer that the verifier refuses, and how many ways were tried.

    Types without ways of their own (``judge``, those of other packages) are not tried.
    """
    write = _WAYS.get(draft.answer_type)
    tried = list(dict.fromkeys(way for way in write(draft) if way.strip())) if write else []
    how = {"options": draft.options, "aliases": draft.aliases, "tolerance": draft.tolerance}
    bad = [way for way in tried if decide(way, draft.answer, draft.answer_type, **how).correct is not True]  # type: ignore[arg-type]
    return bad, len(tried)


def _mcq(draft: Draft) -> Iterator[str]:
    letter = mcq.read(draft.answer, mcq.options_of(draft.options))
    if letter:
        yield from (letter, f"({letter})", f"{letter}.", rf"\boxed{{{letter}}}")
        text = draft.options[LETTERS.index(letter)] if draft.options else ""
        if text and draft.options.count(text) == 1:
            yield f"{letter}. {text}"


def _mcq_multi(draft: Draft) -> Iterator[str]:
    letters = sorted(mcq_multi.read_set(fold(draft.answer), mcq.options_of(draft.options)) or ())
    yield from (", ".join(letters), "".join(letters), " and ".join(letters) if len(letters) == 2 else "")


def _yesno(draft: Draft) -> Iterator[str]:
    said = yesno.read(draft.answer)
    if said is not None:
        yield from ("Yes", "yes.") if said else ("No", "no.")


def _number(draft: Draft) -> Iterator[str]:
    quantity = number.read(fold(draft.answer))
    if quantity is None:
        yield draft.answer
        return
    value = _written(quantity.value)
    yield from (value, f"${value}$", rf"\boxed{{{value}}}")
    if quantity.unit and quantity.unit.isascii():
        yield f"{value} {quantity.unit}"


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    decimal = repr(float(value))
    return decimal if "e" not in decimal and Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"


_SIGNS = re.compile(r"\s*([-+=<>/]|\\(?:times|cdot|le|ge|leq|geq)(?![A-Za-z]))\s*")
_TIGHT = re.compile(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])")
_UNIT = re.compile(
    r"\s?\\(?:text|mathrm|rm)\s?\{[^{}]*\}(?:\s?\^\s?\{?\s?\d\s?\}?)?$|\s?(?:\^\s?\{?\s?\\circ\s?\}?|°)$"
)
_BETWEEN_FORMULAS = re.compile(r"[$\n]+[\s,;]*[$\n]*|\\q?quad(?![A-Za-z])")
_SPACES = re.compile(r"\s+")
_NAME = re.compile(r"[A-Za-z]\s?=\s?(?=[^=<>]+$)")


def _latex(draft: Draft) -> Iterator[str]:
    if gold_parts.several_blanks(draft.answer):
        between = _BETWEEN_FORMULAS if _BETWEEN_FORMULAS.search(draft.answer) else _SPACES
        yield ", ".join(filter(None, map(str.strip, between.split(draft.answer))))
        return
    formula = without_math_marks(draft.answer).strip()
    spaced = _SIGNS.sub(r" \1 ", formula).strip()
    yield from (spaced, rf"$\displaystyle {spaced}$", _TIGHT.sub("", formula).replace("\\frac", "\\dfrac"))
    value = _UNIT.sub("", formula)
    if value != formula and any(character.isdigit() for character in value):
        yield value
    if named := _NAME.match(formula):
        yield formula[named.end() :]


def _ordering(draft: Draft) -> Iterator[str]:
    items = ordering.read(fold(draft.answer)) or ()
    yield from (", ".join(items), json.dumps(items, ensure_ascii=False), " > ".join(items), " -> ".join(items))
    if draft.options and (places := ordering.places(items, draft.options)) is not None:
        yield ", ".join(LETTERS[place] for place in places)
        yield ", ".join(str(place + 1) for place in places)


_REMARK = re.compile(r"\s*[(（][^()（）]*[)）]\s*$")
_STATEMENTS = re.compile("[①-⑳]{2,}")
_BRACED = re.compile(r"[{}]")


def _text(draft: Draft) -> Iterator[str]:
    if _STATEMENTS.fullmatch(draft.answer):
        numbers = [str(ord(sign) - ord("①") + 1) for sign in draft.answer]
        yield from (", ".join(numbers), "".join(f"({item})" for item in numbers), "、".join(draft.answer))
        return
    if "\\" in draft.answer:
        yield from _latex(draft)
        return
    plain = " ".join(_BRACED.sub("", without_looks(without_math_marks(fold(draft.answer)))).split())
    yield from (plain, f"{plain}.", rf"\boxed{{{plain}}}", _REMARK.sub("", plain))


def _as_it_is(draft: Draft) -> Iterator[str]:
    yield from (draft.answer, draft.answer.lower(), f"{draft.answer}.")


_WAYS: Final[dict[str, Callable[[Draft], Iterator[str]]]] = {
    "mcq": _mcq,
    "mcq_multi": _mcq_multi,
    "yesno": _yesno,
    "number": _number,
    "regression": _number,
    "latex": _latex,
    "ordering": _ordering,
    "text": _text,
    "ocr": _as_it_is,
}
