"""What a source's answer is: unwrapped, typed by stated rules, and read by the verifier that will score against it.

A gold is never guessed and has no default: what no rule of `cinema_verl.verify` can check is rejected by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from cinema_verl.data.canonical import IMAGE, Rejected
from cinema_verl.prepare.sources import gold_parts, gold_spelling
from cinema_verl.prepare.sources.options import listed_in
from cinema_verl.verify import MAX_CHARS, answer_types, mcq, mcq_multi, number, units, verify, yesno
from cinema_verl.verify.reading import fold, peel

MAX_WORDS: Final = 3
"""Of a gold that is compared word for word. Our choice: names and noun phrases; a sentence can be said in many ways,
and a correct answer in other words would be scored incorrect."""
MAX_TEXT: Final = 40
"""Characters of such a gold. Our choice, for scripts without spaces."""
_MAX_CHOICE: Final = 300  # characters of a gold that may be an option's text with its letter; our choice
_MAX_MATH: Final = 200  # characters of a mathematical gold. Our choice: above the longest of Geometry3K and MV-MATH


@dataclass(frozen=True, slots=True)
class Gold:
    """An answer, and how it is compared; that it is a correct answer to itself is checked in `prepare.convert`.

    Attributes:
        answer_type, answer, aliases, tolerance: As in `canonical.Question`.
        options: The choices that the answer is one of, with those that the question's text lists.
    """

    answer_type: str
    answer: str
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tolerance: float | None = None


def read(
    text: str,
    *,
    question: str = "",
    options: Sequence[str] = (),
    answer_type: str = "",
    tolerance: float | None = None,
    max_words: int = MAX_WORDS,
) -> Gold:
    """The gold that a source's text is.

    Without `answer_type` the first of these rules that fits decides:

    1. options, given or listed in the question: a letter, an option's text or both is ``mcq``, several ``mcq_multi``;
    2. one capital letter from A to H: ``mcq`` whose choices are in the picture; several with commas: ``mcq_multi``;
    3. numbers of statements that hold (①③, (1)(3), "1.3.4.") are ``text``, with the other ways to write them;
    4. yes, no, true, false and their Chinese forms: ``yesno``;
    5. a number, with a known unit, with what is counted ("360 sets") or alone: ``number``;
    6. an order of 1 to n that is not the natural one: ``ordering``;
    7. digits, operators or LaTeX, with no word of four letters: ``latex`` (also times and ratios);
    8. at most `max_words` words: ``text``.

    Alternatives (``##``, "4/5 m / 0.8 m", ``['a', 'b']``) must be one answer: see `one_of`. Answers of several blanks
    (a line each, formulas side by side, a list that is no set) are ``multi_part``. The spelling that files mangle is
    mended first: see `gold_spelling`.

    Args:
        text: As the source writes it: in ``<answer>``, ``\\boxed{}``, behind "Answer:", in brackets, …
        question: For the choices that it lists.
        options: The row's choices, without letters.
        answer_type: Where the source states it.
        max_words: Of a ``text``; more is prose, unless the source states ``text`` or ``ocr``.

    Raises:
        Rejected: ``no_answer``, ``not_an_option``, ``multi_part``, ``several_golds``, ``free_text``, ``answer_type``.
    """
    if answer_type and answer_type not in answer_types():
        raise Rejected("answer_type", f"{answer_type!r} is unknown; known are {', '.join(answer_types())}")
    if len(text) > MAX_CHARS:
        raise Rejected("free_text", f"{len(text)} characters: {text[:80]!r}")
    listed = tuple(options) or listed_in(question)
    if any(IMAGE in option for option in listed):
        listed = ()  # pictures have no text that an answer could name; their letters remain
    chosen = listed and answer_type in ("", "mcq", "mcq_multi")  # as it is written: an option may hold any sign
    if chosen and (found := _choice(unwrap(text), listed, several=answer_type != "mcq")):
        return found
    if answer_type in ("", "latex", "number"):
        text = gold_spelling.plain(text)
    if not answer_type and not options and (numbers := gold_parts.statements(text.strip(), question)):
        return _of_statements(numbers)
    text = unwrap(text)
    if not text or (not options and (text.casefold() in _NONE or _LEFT_OUT.fullmatch(text))):
        raise Rejected("no_answer", f"the answer is {text!r}")
    if answer_type not in _LITERAL and (parts := gold_parts.alternatives(text)) is not None:
        return one_of(
            parts, question=question, options=options, answer_type=answer_type, tolerance=tolerance, max_words=max_words
        )
    if answer_type not in ("", "mcq", "mcq_multi"):
        return Gold(answer_type, text, listed if answer_type == "ordering" else tuple(options), tolerance=tolerance)
    found = _choice(text, listed, several=answer_type != "mcq") if listed else None
    if found is None and not listed and (answer_type or _LETTERS.fullmatch(text)):
        found = _choice(text, (), several=answer_type != "mcq")
    if found is None and (options or answer_type or _LETTERS.fullmatch(text)):
        raise Rejected("not_an_option", f"{text[:80]!r} is none of {list(listed)!r}"[:300])
    found = found or _open(gold_spelling.closed(text), question, max_words, tolerance)
    return replace(found, options=listed) if found.answer_type == "ordering" else found


def one_of(golds: Sequence[str], **how: object) -> Gold:
    """The gold of a row that gives several: the first, if the others are the same answer.

    ``text`` and ``judge`` keep the others as aliases. For the other types each must be a correct answer to the first by
    the rule itself, because such a rule knows one gold; numbers may also be the first one rounded, which then has a
    tolerance of half a unit of their last decimal.

    Raises:
        Rejected: ``no_answer``, ``several_golds``, and what `read` raises.
    """
    if not golds:
        raise Rejected("no_answer", "the list of answers is empty")
    if len(golds) > 1 and gold_parts.several_blanks(golds[0]):
        return _restated(golds)
    first, *others = [read(gold, **how) for gold in golds]  # type: ignore[arg-type]
    kinds = {gold.answer_type for gold in (first, *others)}
    if wider := _WIDER.get(frozenset(kinds)):
        first, *others = (replace(gold, answer_type=wider) for gold in (first, *others))
    elif len(kinds) > 1:
        raise Rejected("several_golds", f"of types {', '.join(sorted(kinds))}: {list(golds)!r}"[:300])
    if first.answer_type in ("text", "judge"):
        also = (alias for other in others for alias in (other.answer, *other.aliases))
        aliases = dict.fromkeys((*first.aliases, *(alias for alias in also if alias != first.answer)))
        return replace(first, aliases=tuple(aliases))
    if first.answer_type == "number" and first.tolerance is None and (rounded := _rounded([first, *others])):
        return rounded
    for other in others:
        how_read = {"options": first.options, "tolerance": first.tolerance}
        if verify(other.answer, first.answer, first.answer_type, **how_read) is False:  # type: ignore[arg-type]
            raise Rejected("several_golds", f"{other.answer!r} is another answer than {first.answer!r}"[:300])
    return first


# 8:25 and 8/25 are one value; H_2O and water are one thing, written as a formula and in words.
_WIDER: Final = {frozenset(("latex", "number")): "latex", frozenset(("latex", "text")): "text"}


def _restated(golds: Sequence[str]) -> Gold:
    """Several blanks, of which the alternatives write only the last another way: compared as they are written."""
    first, *others = (unwrap(gold) for gold in golds)
    last = re.split(r"\\q?quad(?![A-Za-z])|\n", first)[-1]
    for other in others:
        if not any(gold_parts.same_value(other, part) for part in (last, first)):
            raise Rejected("multi_part", f"{other!r} is no other spelling of the last of {first!r}"[:300])
    return Gold("text", first, aliases=tuple(others))


def _rounded(golds: Sequence[Gold]) -> Gold | None:
    """The one of several numbers that all others are rounded from, with the tolerance that they show."""
    quantities = [number.read(fold(gold.answer)) for gold in golds]
    values = [quantity.value for quantity in quantities if quantity]
    if len(values) < len(golds) or len(set(values)) == 1:
        return None
    steps = [_half_unit(gold.answer) for gold in golds]
    for gold, exact in zip(golds, values, strict=True):
        others = [(value, step) for value, step in zip(values, steps, strict=True) if value != exact]
        if all(step is not None and abs(value - exact) <= step for value, step in others):
            return replace(gold, tolerance=float(max(step for _, step in others if step)))
    return None


def _half_unit(text: str) -> Fraction | None:
    """Half a unit of the last decimal of a decimal number; None for what is not rounded: an integer, a fraction."""
    decimals = re.search(r"\d\.(\d+)(?!.*\d)", text)
    return Fraction(1, 2 * 10 ** len(decimals[1])) if decimals else None


def _of_statements(numbers: list[int]) -> Gold:
    return Gold("text", gold_parts.circled(numbers), aliases=gold_parts.spellings_of_statements(numbers))


# --- Unwrapping -----------------------------------------------------------------------------------------------------

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ANSWER_LINE = re.compile(
    r"(?:^|\n)[ \t*]*(?:the )?(?:final |correct )?answer(?: is)?[ \t*]*[:：]([^\n]+)\s*$", re.IGNORECASE
)


def unwrap(text: str) -> str:
    """The answer itself: out of ``<answer>``, ``\\boxed{}`` and a closing "Answer: …" line, without what only wraps it.

    Raises:
        Rejected: ``multi_part`` for several answers in tags or boxes.
    """
    text = text.strip()
    tagged = _TAGGED.findall(text)
    if len(tagged) > 1:
        raise Rejected("multi_part", f"{len(tagged)} answers in tags: {text[:80]!r}")
    if tagged:
        text = tagged[0].strip()
    boxed = boxes(text)
    if len(boxed) > 1:
        raise Rejected("multi_part", f"{len(boxed)} boxed answers: {text[:80]!r}")
    if boxed:
        text = boxed[0].strip()
    elif line := _ANSWER_LINE.search(text):
        text = line[1].strip()
    return peel(text, brackets=False).strip()


def boxes(text: str) -> list[str]:
    """What each outermost ``\\boxed{…}`` holds, braces inside counted; one that is never closed holds nothing."""
    found, position = [], 0
    while match := _BOX.search(text, position):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            if text[end] in "{}" and text[end - 1] != "\\":
                depth += 1 if text[end] == "{" else -1
            end += 1
        if depth:
            break
        found.append(text[match.end() : end - 1])
        position = end
    return found


# --- The rules ------------------------------------------------------------------------------------------------------

# Not verify.yesno's whole list: "right" is a direction, "y" and "n" are variables.
_YES_NO: Final = frozenset(
    ("yes", "no", "true", "false", "是", "否", "不是", "真", "假", "对", "错", "不对", "正确", "错误", "不正确")
)
# What people and pandas write for no answer; not "none", which counts something.
_NONE: Final = frozenset(("-", "?", "n/a", "nan", "null", "[]", "{}"))
_LEFT_OUT = re.compile(
    r"[(（]?\s?(?:omitted|略|(?:see|refer to) (?:the )?(?:analysis|solution|explanation|proof|figure|diagram)"
    r"|(?:the )?(?:proof|solution|figure|diagram) (?:is )?omitted|见解析|如图)\s?[.。)）]*",
    re.IGNORECASE,
)
_OPEN_ENDED = re.compile(
    r"\bnot\s+(?:be\s+)?unique\b|\banswers?\s+(?:may|can|will|could)?\s*(?:vary|varies|differ)\b|\bopen[- ]ended\b"
    r"|不唯一|合理即可|\b(?:any|other)\s+(?:reasonable|correct|valid)\b",
    re.IGNORECASE,
)
_LITERAL: Final = frozenset(("text", "ocr", "ordering", "judge"))  # stated types whose golds may hold any sign
_UNIT_BEHIND = re.compile(r"\\(?:mathrm|text)\s?\{[\s~]*([^{}]+?)\s*\}(\s?(?:\^\s?\{?\d\}?)?)$")
_COUNTED = re.compile(r"(-?[\d,.]+(?:\s?/\s?\d+)?)\s?(?:\\(?:text|mathrm)\s?\{\s?)?([A-Za-z]+)\s?\}?")
_PLURAL = re.compile(r"[a-z]{3,}s|children|(?:wo)?men|mice|geese|sheep|fish|teeth", re.IGNORECASE)
_NO_PLURAL = re.compile(
    r"(?:four|fif|six|seven|eigh|nin|ten|hundred|thousand)ths|thirds|halves|quarters"
    r"|tens|dozens|scores|hundreds|thousands|lakhs|crores|myriads|\w*illions",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"[(\[]?[A-H](?:\s?[,&，、]\s?[A-H])*[)\]]?")
_YES_NO_REMARK = re.compile(r"(yes|no)\s?[,.;:]\s(?!\d)", re.IGNORECASE)  # "Yes, both do."
_PARTS = re.compile(
    r"(?:^|\s)[(（]?[1i①][)）.].*[\s;,；，][(（]?(?:2|ii|②)[)）.]|^[(（]1[)）][^()（）]+[(（]2[)）]|①.*②|[;；]",
    re.DOTALL,
)
_JOINED = re.compile(r"\b(?:and|or)\b|[或和]")
_MATH = re.compile(r"\\[A-Za-z]+|[\d^=<>≤≥≠√π°∠△±∞+*/|]")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textrm|mbox|operatorname|begin|end)\s?\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{4}|[\u3400-\u9fff]{2}")
_DATE = re.compile(
    r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}|(?:the\s)?\d{3}0'?s|\d{1,2}(?::\d{2})?\s?[ap]\.?\s?m\.?|no\.\s?\d+", re.IGNORECASE
)
_ABOUT = re.compile(
    r"(?:(?:about|approximately|approx\.|around|roughly)\s|大?约)(?=[-$\\\d])|(?<=\d)左右$|\s?[(（](?:approx\.?|approximately|rounded[^()]*|(?:结果)?(?:精确|保留)[^()（）]*)[)）]$",
    re.IGNORECASE,
)
_BRACKETED_LIST = re.compile(r"[(\[{].*[,，].*[)\]}]", re.DOTALL)


def _choice(text: str, options: tuple[str, ...], *, several: bool) -> Gold | None:
    """One option or, if `several`, a set of options; None if the text is neither."""
    if len(text) > _MAX_CHOICE:
        return None
    known = mcq.options_of(options)
    letter = mcq.read(text, known) if options else _letter(text)
    if letter:
        return Gold("mcq", letter, options)
    letters = mcq_multi.read_set(fold(text), known) if several else None
    if letters and len(letters) > 1:
        return Gold("mcq_multi", ", ".join(sorted(letters)), options)
    return None


def _letter(text: str) -> str | None:
    peeled = peel(fold(text))
    return peeled.upper() if len(peeled) == 1 and peeled.isascii() and peeled.isalpha() else None


def _open(text: str, question: str, max_words: int, tolerance: float | None) -> Gold:
    text = _ABOUT.sub("", text)
    if text.casefold().rstrip("!") in _YES_NO:
        return Gold("yesno", text)
    if (remark := _YES_NO_REMARK.match(text)) and yesno.read(text) is not None:
        return Gold("yesno", remark[1])
    if numbers := gold_parts.statements(text, question):
        return _of_statements(numbers)
    if _OPEN_ENDED.search(text):
        raise Rejected("several_golds", f"others are correct, too: {text[:80]!r}")
    if gold_parts.several_blanks(text, question):
        raise Rejected("multi_part", f"the answers of several blanks: {text[:80]!r}")
    if pair := gold_parts.exact_and_rounded(text):
        exact, rounded = (Gold("number", part) for part in pair)
        return _rounded([exact, rounded]) or Gold("text", exact.answer, aliases=(rounded.answer,))
    if text in ("=", "＝"):  # fill in a sign
        return Gold("text", "=")
    if gold_parts.permutation(text):
        return Gold("ordering", text)
    quantity = None if _BRACKETED_LIST.fullmatch(text) else number.read(fold(text))
    if quantity is not None and quantity.is_plain:
        return Gold("number", text, tolerance=tolerance)
    if counted := _counted(text):
        return counted
    if _PARTS.search(text) or gold_parts.has_formula_among_words(text):
        raise Rejected("multi_part", f"{text[:80]!r}")
    if _MATH.search(text) and not _DATE.fullmatch(text) and not _WORD.search(_TEXT_COMMAND.sub(" ", text)):
        if _JOINED.search(text) or gold_parts.is_list(text, question):
            raise Rejected("multi_part", f"{text[:80]!r}")
        if len(text) <= _MAX_MATH:
            return _formula(" ".join(text.split("\n")))
    if len(text.split()) > max_words or len(text) > MAX_TEXT * max(1, max_words // MAX_WORDS) or "\n" in text:
        raise Rejected("free_text", f"{len(text.split())} words: {text[:80]!r}")
    return Gold("text", text)


def _formula(text: str) -> Gold:
    """A formula; where ``latex`` does not know the unit behind it, it is right with the unit as written, or without."""
    unit = _UNIT_BEHIND.search(text)
    value = text[: unit.start()].strip() if unit else ""
    is_unit = unit and value and units.read(fold(unit[1] + unit[2])).standing is units.Standing.SURE
    if is_unit and verify(value, text, "latex") is not True:
        return Gold("text", value, aliases=(text,))
    return Gold("latex", text)


def _counted(text: str) -> Gold | None:
    """A number of things that are no unit, "360 sets": the number alone is an answer, too."""
    counted = _COUNTED.fullmatch(text)
    if counted and _PLURAL.fullmatch(counted[2]) and not _NO_PLURAL.fullmatch(counted[2]):
        gold = f"{counted[1]} {counted[2]}"
        if verify(counted[1], gold, "number"):
            return Gold("number", gold)
        return Gold("text", gold, aliases=(counted[1],))
    return None
