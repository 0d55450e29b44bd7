"""Rows as a person looks at them: images in their order, question, options, gold, and what is wrong.

One self-contained page (`cinema_verl.utils.pages`) with filters. Whatever a row holds is shown as text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from PIL import Image

from cinema_verl.data.canonical import IMAGE, LETTERS, lists_options
from cinema_verl.data.check import Inspected, uid_of
from cinema_verl.data.faults import WARNINGS
from cinema_verl.meta_action import parse
from cinema_verl.prompts import system_prompt
from cinema_verl.utils.pages import render, thumbnail
from cinema_verl.utils.stable_random import Sample
from cinema_verl.verify import verify

SHOWN: Final = 120
"""Rows on a page. Our choice: as many as somebody reads, some 3 MB."""
_PICTURES: Final = 12  # of a row; our choice: the first frames of a video show what it is
_SIDE: Final = 200  # pixels of a thumbnail; our choice: small print can be guessed
_NAME: Final = 24  # letters; our choice: "Frame 12 of 16" is a name
_LETTERS: Final = 4_000  # of a text; our choice: above any sensible question
SOUND: Final = "none"
"""The finding of a row without findings, in the filter."""


class Chosen:
    """The rows that the page will show: up to half of them rows with findings, the rest a sample of the sound ones."""

    def __init__(self, size: int = SHOWN) -> None:
        self.size = size
        self._faulty: Sample[tuple[Inspected, str]] = Sample(size)
        self._sound: Sample[tuple[Inspected, str]] = Sample(size)

    def offer(self, inspected: Inspected, place: str) -> None:
        """`place`: file and row, to be shown."""
        (self._faulty if inspected.faults else self._sound).offer(place, (inspected, place))

    @property
    def seen(self) -> int:
        return self._faulty.seen + self._sound.seen

    def items(self) -> list[tuple[Inspected, str]]:
        """Rows with findings first."""
        faulty, sound = self._faulty.items(), self._sound.items()
        room = max(self.size - self.size // 2, self.size - len(sound))  # for rows with findings
        faulty = faulty[:room]
        return faulty + sound[: self.size - len(faulty)]


def facts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What a row says of itself, by which rows are counted and filtered."""
    info = row.get("extra_info")
    if not isinstance(info, Mapping):
        return {"source": str(row.get("uid") or "").rpartition("/")[0], "pattern": str(row.get("pattern") or "")}
    return {
        "source": str(row.get("data_source") or ""),
        "answer type": str(info.get("answer_type") or ""),
        "modality": str(info.get("modality") or ""),
    }


def system_prompts(rows: Sequence[Mapping[str, Any]], mode: str | None) -> list[tuple[str, int]]:
    """(system prompt, number of rows) as the policy will read them: the mode's, or the rows' own; "" for none."""
    if mode is not None:
        return [(system_prompt(mode), len(rows))]
    found: Counter[str] = Counter()
    for row in rows:
        messages = row.get("messages") or row.get("prompt") or ()
        told = [str(m.get("content")) for m in messages if isinstance(m, Mapping) and m.get("role") == "system"]
        found["\n\n".join(told)] += 1
    return found.most_common()


def page(chosen: Chosen, summary: Mapping[str, Any], mode: str | None = None) -> str:
    """The page.

    Args:
        summary: What `preflight` reports.
        mode: ``data.cinema_prompt_mode`` of the run, which takes the place of the rows' system prompts.
    """
    cards = [_card(inspected, place) for inspected, place in chosen.items()]
    filters = {}
    for name in dict.fromkeys(name for card in cards for name in card["facts"]):
        filters[name] = Counter(card["facts"][name] for card in cards if name in card["facts"])
    findings = Counter(code for card in cards for code in card["codes"] or [SOUND])
    return render(
        "gallery.html",
        title="What the run will read",
        cards=cards,
        seen=chosen.seen,
        system_prompts=system_prompts([inspected.row for inspected, _ in chosen.items()], mode),
        summary=summary,
        filters={name: sorted(values.items()) for name, values in filters.items() if len(values) > 1},
        findings=sorted(findings.items()) if len(findings) > 1 else (),
    )


def _card(inspected: Inspected, place: str) -> dict[str, Any]:
    row = inspected.row
    info, reward, images = row.get("extra_info"), row.get("reward_model"), row.get("images")
    info = info if isinstance(info, Mapping) else {}
    images = images if isinstance(images, list) else []
    asked = _asked(row)
    question, options = _cut(info.get("question") or asked), _options(info, reward)
    correct = [f"{option['letter']}. {option['text']}" for option in options if option["correct"]]
    gold = str(reward.get("ground_truth")) if isinstance(reward, Mapping) else ""
    listed = options and lists_options(question, tuple(option["text"] for option in options))
    return {
        "uid": uid_of(row) or place,
        "place": place,
        "facts": {name: value or "(none)" for name, value in facts_of(row).items()},
        "images": [
            {**_picture(number, cell), "called": "" if IMAGE in question else _called(asked, number)}
            for number, cell in enumerate(images[:_PICTURES], 1)
        ],
        "hidden": max(0, len(images) - _PICTURES),
        "count": len(images),
        "question": question,
        "options": [] if listed else options,
        "gold": correct[0] if correct else gold,
        "aliases": _json_list(info.get("aliases_json")),
        "tolerance": info.get("tolerance"),
        "trajectory": _trajectory(row),
        "text_tokens": inspected.text_tokens,
        "vision_tokens": inspected.vision_tokens,
        "findings": [
            {"warning": fault.code in WARNINGS, "code": fault.code, "message": fault.message}
            for fault in inspected.faults
        ],
        "codes": sorted({fault.code for fault in inspected.faults}),
    }


def _called(asked: str, number: int) -> str:
    """What the prompt calls an image: the words before its placeholder on the line; "" for none, or for a sentence."""
    before = asked.split(IMAGE)[:-1]
    line = before[number - 1].rpartition("\n")[2].strip().rstrip(":") if number <= len(before) else ""
    return line if len(line) <= _NAME else ""


def _picture(number: int, cell: Any) -> dict[str, Any]:
    path = str(cell.get("image")) if isinstance(cell, Mapping) else ""
    try:
        uri = thumbnail(path.removeprefix("file://"), _SIDE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # as Pillow says no; the findings say why
        uri = ""
    return {"number": number, "path": path, "uri": uri}


def _asked(row: Mapping[str, Any]) -> str:
    """The user's message, where the row does not keep the bare question."""
    messages = row.get("messages") or row.get("prompt") or ()
    texts = [str(m.get("content")) for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    return "\n\n".join(texts) if texts else _cut(repr(messages))


def _options(info: Mapping[str, Any], reward: Any) -> list[dict[str, Any]]:
    options = _json_list(info.get("options_json"))
    gold = str(reward.get("ground_truth")) if isinstance(reward, Mapping) else ""
    single = info.get("answer_type") == "mcq" and len(options) <= len(LETTERS)
    return [
        {"letter": letter, "text": text, "correct": single and verify(letter, gold, "mcq", options=options) is True}
        for letter, text in zip(LETTERS, options, strict=False)  # more options than letters are a finding
    ]


def _json_list(text: Any) -> list[str]:
    try:
        value = json.loads(text or "[]")
    except (TypeError, ValueError):
        return []  # a finding of its own
    return [str(item) for item in value] if isinstance(value, list) else []


def _trajectory(row: Mapping[str, Any]) -> Sequence[tuple[str, str]] | str:
    """Of an SFT row: its actions, or the text where it has none."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return ""
    text = str(last.get("content"))
    trajectory = parse(text)
    return trajectory.actions if trajectory.actions and not trajectory.violations else text


def _cut(text: Any) -> str:
    text = str(text)
    return text if len(text) <= _LETTERS else text[:_LETTERS] + " …"
