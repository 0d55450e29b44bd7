"""The choices of a question: from a list, from lines of one text, or from the question itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cinema_verl.data.canonical import LETTERS, Rejected

_POINT: Final = r"[.:、．：](?![A-Z]\.)"  # behind a letter; "A.D." and "B.C." are words and not two labels
_LABEL = re.compile(rf"[(\[]?([A-Za-z])(?:[)\]][.:]?|{_POINT})\s*")
_LINE = re.compile(rf"^[ \t]*[(\[]?([A-Z])(?:[)\]][.:]?|{_POINT})[ \t]*(\S[^\n]*)$", re.MULTILINE)
_INLINE: Final = (
    re.compile(r"(?<!\w)[(\[]([A-Z])[)\]][.:]?\s*"),
    re.compile(rf"(?<![\w.])([A-Z]){_POINT}\s*"),
    re.compile(r"(?<![\w.])([A-Z])\)\s*"),
)


def clean(options: Sequence[str]) -> tuple[str, ...]:
    """Option texts without their letters; the letters go only if every option has its own.

    Raises:
        Rejected: ``options``: fewer than two, more than the alphabet, or one without text.
    """
    texts = [option.strip() for option in options]
    labels = [_LABEL.match(text) for text in texts]
    if all(label and label[1].upper() == LETTERS[i % 26] for i, label in enumerate(labels)):
        texts = [text[label.end() :].strip() for text, label in zip(texts, labels, strict=True) if label]
    if not 2 <= len(texts) <= len(LETTERS):
        raise Rejected("options", f"{len(texts)} option(s)")
    if not all(texts):
        raise Rejected("options", f"an option without text: {list(options)!r}"[:200])
    return tuple(texts)


def are_letters(options: Sequence[str]) -> bool:
    """Whether the options are their own letters and nothing else: the choices are drawn in the picture."""
    return len(options) > 1 and [option.strip(" .()") for option in options] == list(LETTERS[: len(options)])


def letter_of(text: str, options: Sequence[str]) -> str:
    """The letter of the one option that is this text; the text as it is where none is.

    For sources whose gold is an option's text, which may itself be a letter: of "v", "b", "a", the gold "a" is C.

    Raises:
        Rejected: ``not_an_option``: two options are this text.
    """
    places = [place for place, option in enumerate(options) if option.strip() == text.strip()]
    if len(places) > 1:
        raise Rejected("not_an_option", f"{text[:80]!r} is the text of {len(places)} options")
    return LETTERS[places[0]] if places and places[0] < len(LETTERS) else text


def check_one_meaning(answer: str, options: Sequence[str]) -> None:
    """Of "C", "A", "B", the answer "A" may be the first or the second: it is not guessed which.

    Raises:
        Rejected: ``not_an_option``: the answer is one option's letter and another's text.
    """
    letters = tuple(LETTERS[: len(options)])
    if answer.upper() in letters and letter_of(answer, options) not in (answer, answer.upper()):
        raise Rejected(
            "not_an_option",
            f"{answer!r} is one option's letter and another's text: write letters before all options, as in "
            f"'A. {options[0]}', and answer with a letter",
        )


def listed_in(text: str) -> tuple[str, ...]:
    """The choices that a text lists as A, B, C, … on lines of their own or on one line; () if it lists none.

    Letters that skip, repeat or do not begin with A are no list.
    """
    lines = [(match[1], match[2].strip()) for match in _LINE.finditer(text)]
    if len(lines) > 1 and _in_order([letter for letter, _ in lines]):
        return tuple(option for _, option in lines)
    for style in _INLINE:
        marks = list(style.finditer(text))
        if len(marks) < 2 or not _in_order([mark[1] for mark in marks]):
            continue
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        found = [text[mark.end() : end].strip(" \t\n;,") for mark, end in zip(marks, ends, strict=True)]
        found[-1] = found[-1].split("\n")[0].strip()
        if all(found):
            return tuple(found)
    return ()


def _in_order(letters: list[str]) -> bool:
    return letters == list(LETTERS[: len(letters)])
