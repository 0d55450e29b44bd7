"""What a source's answer is: unwrapped, typed by stated rules, and read by the verifier that will score against it.

A gold is never guessed and has no default: what no rule of `cinema_verl.verify` can check is rejected by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cinema_verl.data.canonical import IMAGE, Rejected
from cinema_verl.prepare.sources.options import listed_in
from cinema_verl.verify import MAX_CHARS, answer_types, mcq, mcq_multi, number, verify, yesno
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
    3. several circled numbers are ``text``: the statements that hold;
    4. yes, no, true, false and their Chinese forms: ``yesno``;
    5. a number, with a known unit or none: ``number``;
    6. digits, operators or LaTeX, with no word of four letters: ``latex`` (also times and ratios);
    7. at most `max_words` words: ``text``.

    ``##`` separates alternatives; they must be of one type, and other words for the first: see `one_of`.

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
    text = unwrap(text)
    if not text or (not options and text.casefold() in _NONE):
        raise Rejected("no_answer", f"the answer is {text!r}")
    if "##" in text:
        parts = [part.strip() for part in text.split("##") if part.strip()]
        return one_of(
            parts, question=question, options=options, answer_type=answer_type, tolerance=tolerance, max_words=max_words
        )
    if answer_type not in ("", "mcq", "mcq_multi"):
        return Gold(answer_type, text, tuple(options), tolerance=tolerance)
    listed = tuple(options) or listed_in(question)
    if any(IMAGE in option for option in listed):
        listed = ()  # pictures have no text that an answer could name; their letters remain
    found = _choice(text, listed, several=answer_type != "mcq") if listed else None
    if found is None and not listed and (answer_type or _LETTERS.fullmatch(text)):
        found = _choice(text, (), several=answer_type != "mcq")
    if found is None and (options or answer_type or _LETTERS.fullmatch(text)):
        raise Rejected("not_an_option", f"{text[:80]!r} is none of {list(listed)!r}"[:300])
    return found or _open(text, max_words, tolerance)


def one_of(golds: Sequence[str], **how: object) -> Gold:
    """The gold of a row that gives several: the first, if the others are of its type.

    ``text`` and ``judge`` keep the others as aliases. For the other types each must be a correct answer to the first by
    the rule itself, because such a rule knows one gold.

    Raises:
        Rejected: ``no_answer``, ``several_golds``, and what `read` raises.
    """
    if not golds:
        raise Rejected("no_answer", "the list of answers is empty")
    first, *others = [read(gold, **how) for gold in golds]  # type: ignore[arg-type]
    if kinds := {other.answer_type for other in others} - {first.answer_type}:
        raise Rejected(
            "several_golds", f"of types {first.answer_type}, {', '.join(sorted(kinds))}: {list(golds)!r}"[:300]
        )
    if first.answer_type in ("text", "judge"):
        aliases = dict.fromkeys(other.answer for other in others if other.answer != first.answer)
        return replace(first, aliases=(*first.aliases, *aliases))
    for other in others:
        how_read = {"options": first.options, "tolerance": first.tolerance}
        if verify(other.answer, first.answer, first.answer_type, **how_read) is False:  # type: ignore[arg-type]
            raise Rejected("several_golds", f"{other.answer!r} is another answer than {first.answer!r}"[:300])
    return first


def as_list(text: str) -> list[str] | None:
    """The items of a list that was written as text (``['cat', 'tabby']``), or None."""
    if not (text.startswith("[") and text.endswith("]") and len(text) < 10_000):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [str(item) for item in value] if isinstance(value, list) else None


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
_NONE: Final = frozenset(("-", "?", "n/a", "nan", "null"))
_CIRCLED = re.compile(r"[①-⑳][①-⑳\s,，、和]*[①-⑳]")  # statements that hold: ①③ is not 13
_LETTERS = re.compile(r"[(\[]?[A-H](?:\s?[,&]\s?[A-H])*[)\]]?")
_YES_NO_REMARK = re.compile(r"(yes|no)\s?[,.;:]\s", re.IGNORECASE)  # "Yes, both do."
_PARTS = re.compile(r"(?:^|\s)[(（]?[1i①][)）.].*[\s;,；，][(（]?(?:2|ii|②)[)）.]|①.*②|[;；]", re.DOTALL)
_JOINED = re.compile(r"\b(?:and|or)\b|[或和]")
_MATH = re.compile(r"\\[A-Za-z]+|[\d^=<>≤≥≠√π°∠△±∞+*/|]")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textrm|mbox|operatorname)\s?\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{4}|[\u3400-\u9fff]{2}")
_DATE = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}")
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


def _open(text: str, max_words: int, tolerance: float | None) -> Gold:
    if text.casefold().rstrip("!") in _YES_NO:
        return Gold("yesno", text)
    if (remark := _YES_NO_REMARK.match(text)) and yesno.read(text) is not None:
        return Gold("yesno", remark[1])
    if _CIRCLED.fullmatch(text):
        return Gold("text", text)
    quantity = None if _BRACKETED_LIST.fullmatch(text) else number.read(fold(text))
    if quantity is not None and quantity.is_plain:
        return Gold("number", text, tolerance=tolerance)
    if _PARTS.search(text):
        raise Rejected("multi_part", f"{text[:80]!r}")
    if _MATH.search(text) and not _DATE.fullmatch(text) and not _WORD.search(_TEXT_COMMAND.sub(" ", text)):
        if _JOINED.search(text):
            raise Rejected("multi_part", f"{text[:80]!r}")
        if len(text) <= _MAX_MATH:
            return Gold("latex", text)
    if len(text.split()) > max_words or len(text) > MAX_TEXT * max(1, max_words // MAX_WORDS) or "\n" in text:
        raise Rejected("free_text", f"{len(text.split())} words: {text[:80]!r}")
    return Gold("text", text)
