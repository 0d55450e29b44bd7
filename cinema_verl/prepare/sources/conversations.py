"""Instruction data as chats: the first exchange becomes the question, with the images that belong to it.

Later exchanges are left out, because they refer to earlier answers ("and the other one?"): alone they are no
questions. A row with several is flagged ``first_of_3_turns``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Media
from cinema_verl.prepare.sources.placeholders import PLACEHOLDER

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Exchange(NamedTuple):
    """One question, its answer, the media that it is about, and what is worth knowing of the rest."""

    question: str
    answer: str
    media: tuple[Media, ...]
    flags: tuple[str, ...]


def first_exchange(turns: Sequence[Any], media: tuple[Media, ...]) -> Exchange:
    """The first question and answer of a chat in ``from``/``value`` or ``role``/``content``.

    If the bare placeholders of all the turns together are as many as there are media, those of the first question
    name its own; otherwise all media are shown with it.

    Raises:
        Rejected: ``bad_record`` for what is no chat of question and answer.
    """
    said = [_turn(turn) for turn in turns]
    said = [(role, value) for role, value in said if role != "system"]
    if [role for role, _ in said[:2]] != ["user", "assistant"]:
        raise Rejected(
            "bad_record", f"the chat does not begin with a question and its answer: {[r for r, _ in said[:2]]}"
        )
    question, answer = said[0][1], said[1][1]
    placeholders = [len(PLACEHOLDER.findall(value)) for role, value in said if role == "user"]
    if sum(placeholders) == len(media) and placeholders[0]:
        media = media[: placeholders[0]]
    count = len(placeholders)
    return Exchange(question, answer, media, (f"first_of_{count}_turns",) if count > 1 else ())


def only_request(turns: Sequence[Any], name: str) -> Any:
    """What the user says in a chat of one request, without the system's message; its content may be of any type.

    Raises:
        Rejected: ``bad_record`` for any other number of the user's turns.
    """
    asked = [turn for turn in turns if isinstance(turn, Mapping) and turn.get("role") == "user"]
    if len(asked) != 1:
        raise Rejected("bad_record", f"field {name!r}: expected a chat with one turn of the user, got {len(asked)}")
    return asked[0].get("content")


def as_text(content: Any, name: str) -> str:
    """What a turn holds, as text with ``<image>``; content may be a text or a list of parts.

    Raises:
        Rejected: ``bad_record`` for anything else.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise Rejected("bad_record", f"field {name!r}: expected text or a list of parts, got {type(content).__name__}")
    said = []
    for part in content:
        kind = part.get("type") or next((kind for kind in ("text", *_MEDIA) if part.get(kind)), "")
        if kind not in ("text", *_MEDIA) or (kind == "text" and not isinstance(part.get("text"), str)):
            raise Rejected("bad_record", f"field {name!r}: a part of the type {kind!r}, expected text or image")
        said.append(part["text"] if kind == "text" else "<image>")
    return "".join(said)


_MEDIA = ("image", "image_url", "video")
_INSTRUCTION = re.compile(
    r"\s*(?:please\s+)?(?:answer|respond|reply|provide|give|select|choose|state|output)\b"
    r"[^.\n]*\b(?:letter|options?|choices?|single word|phrase|short answer)\b[^.\n]*\.?\s*$",
    re.IGNORECASE,
)


def without_instruction(question: str) -> str:
    """A question without a last sentence that says in which form to answer: the prompt says that in its own words."""
    found = _INSTRUCTION.search(question)
    before = question[: found.start()] if found else ""
    return before if before.rstrip().endswith((".", "?", "!", ":", ")")) or "\n" in before.strip() else question


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise Rejected("bad_record", f"a turn of the chat is {type(turn).__name__}, expected an object")
    role = turn.get("from", turn.get("role"))
    value = turn.get("value", turn.get("content"))
    if role not in _ROLES or not isinstance(value, str):
        raise Rejected(
            "bad_record", f"a turn by {role!r} holds {type(value).__name__}, expected text by {sorted(_ROLES)}"
        )
    return _ROLES[role], value
