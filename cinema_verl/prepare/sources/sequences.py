"""Golds of several items: which order they say, or which set of options, in any of the forms that people write.

An order is written as ``[3, 2, 1, 4]``, "2,1", "BADC" or "2, 3, 4, 1". Without a stated answer type such a gold could
also be a set of options or a list of numbers, and scoring it as the wrong one trains on a gold that nobody can hit. So
it is an order where the question asks for one, and rejected where only the writer can know.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from cinema_verl.data.canonical import LETTERS, Rejected
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.gold_parts import as_list
from cinema_verl.verify import mcq, ordering
from cinema_verl.verify.reading import fold

_ASKS_FOR_ORDER: Final = re.compile(
    r"\border\b(?!\s(?:to|that)\b)|\b(?:re)?order(?:ed|ing)\b|\bsequence\b|\b(?:re)?arranged?\b|\bsort(?:ed)?\b"
    r"|\brank(?:ed|ing)?\b|\bchronolog\w+|\bfrom\s(?:\w+\s){1,3}to\s|顺序|排序|排列|次序|先后",
    re.IGNORECASE,
)
_STATE_IT: Final = (
    "state answer_type: ordering for an order, mcq_multi for a set of options; further ways to say one answer go into "
    "aliases"
)


def gold_of(value: Any, *, question: str, options: Sequence[str], answer_type: str, images: int) -> tuple[str, str]:
    """The text of a gold and its answer type, "" where the usual rules decide (`gold_answers.read`).

    Args:
        value: As the row has it: text, a number, or a list of these; None where it has none.
        answer_type: As the row states it; "" if it does not.
        images: Of the question: an order is one of all images, or of all options.

    Raises:
        Rejected: ``answer_type`` for a gold that may be an order or a set; ``bad_record`` for a list whose items are
            no texts; ``not_an_option`` for a set with an item that is no option; ``no_answer`` for none, and for an
            empty list.
    """
    if value is None:
        raise Rejected("no_answer", "the row has no field answer, or null in it")
    if isinstance(value, (list, tuple)):
        items: list[str] | None = fields.texts({"answer": value}, "answer")
        if not items:
            raise Rejected("no_answer", "the list of answers is empty")
    else:
        text = fields.text({"answer": value}, "answer")
        items = as_list(text.strip()) if answer_type in ("ordering", "mcq_multi") or options else None
    if items is not None:
        return _of_items(items, question, options, answer_type, images)
    labels = () if answer_type or text.strip() in options else _labels(text, max(images, len(options)))
    asked = _ASKS_FOR_ORDER.search(question)
    whole = len(labels) in (images, len(options)) and labels and max(map(_place, labels)) == len(labels)
    if asked and whole:
        return ", ".join(labels), "ordering"
    as_a_set = list(labels) == sorted(labels)  # "A, C" of four options
    if labels and (whole or asked) and not (as_a_set and (options or not asked)):
        raise Rejected("answer_type", f"{text[:80]!r} may be an order: {_STATE_IT}")
    return text, answer_type


def _of_items(
    items: list[str], question: str, options: Sequence[str], answer_type: str, images: int
) -> tuple[str, str]:
    if len(items) == 1:
        return items[0], answer_type
    if answer_type == "ordering" or (not answer_type and _ASKS_FOR_ORDER.search(question)):
        read = ordering.read(fold(", ".join(items)))
        if read is None or len(read) != len(items):
            detail = f"the order {items!r} cannot be read: give each item once, as a letter, a number or a short name"
            raise Rejected("gold_unreadable", detail[:300])
        return ", ".join(items), "ordering"
    if options and answer_type in ("", "mcq_multi"):
        known = mcq.options_of(tuple(options))
        letters = [mcq.read(item, known) for item in items]
        if None in letters:
            wrong = items[letters.index(None)]
            raise Rejected("not_an_option", f"{wrong[:80]!r} is none of {list(options)!r}"[:300])
        return ", ".join(str(letter) for letter in letters), "mcq_multi"
    if answer_type == "mcq_multi":  # the question lists its options itself, or the picture shows them
        return ", ".join(items), answer_type
    stated = f"answer_type {answer_type} takes one text" if answer_type else "no answer_type is stated"
    raise Rejected("answer_type", f"a list of {len(items)} answers, and {stated}: {_STATE_IT}")


def _place(label: str) -> int:
    return int(label) if label.isdigit() else LETTERS.index(label) + 1


def _labels(text: str, most: int) -> tuple[str, ...]:
    """The numbers or letters that a text names in turn, if each is one of the first `most` and comes once; else ().

    Digits that run together need to be three and all of the first ones: "21" is a number, "2134" hardly.
    """
    items = ordering.read(fold(text)) or ()
    digits = text.strip().isdigit()
    if len(items) < (3 if digits else 2) or most > len(LETTERS):
        return ()
    numbers = {str(number) for number in range(1, (len(items) if digits else most) + 1)}
    letters = set(LETTERS[:most])
    upper = tuple(item.upper() for item in items)
    return upper if set(upper) <= numbers or set(upper) <= letters else ()
