"""The groups that the page shows in full: the question, its images, and every rollout.

A run writes far more text than a page can hold. Groups are taken one from each step, spread evenly over the run, then a
second one from each, and so on, until the page is full. The counts elsewhere in the page are those of all rollouts.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image

from cinema_verl.diversity import pattern_counts
from cinema_verl.meta_action import parse, pattern_in_mode
from cinema_verl.report.questions import ShownQuestion, read_questions
from cinema_verl.report.summarise import RolloutCounts, correctness
from cinema_verl.runs.conditions import TRUE
from cinema_verl.runs.rollouts import Rollout, read_at
from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.utils.pages import json_for_script, thumbnail

MAX_TEXT: Final = 12_000
"""Characters shown of one rollout. Our choice: three times the usual length at recipe `cinema`'s response limit."""

MAX_IMAGES: Final = 32
"""Images shown of one question. Our choice: recipe `cinema`'s limit."""

MAX_CANDIDATES: Final = 5_000
"""Groups read at most. Our choice: more than fit into any page worth opening."""


class GroupPlace(NamedTuple):
    """Where the rollouts of a group are on disk."""

    step: int
    path: Path
    question_uid: str
    offsets: tuple[int, ...]


def places(step: int, path: Path, rollouts: Sequence[Rollout]) -> list[GroupPlace]:
    """The groups of one step, in the order of the file."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group, []).append(rollout)
    return [
        GroupPlace(step, path, group[0].question_uid, tuple(rollout.offset for rollout in group))
        for group in groups.values()
    ]


def spread(count: int) -> list[int]:
    """0 … count - 1 in an order of which every beginning is spread evenly: last, first, the middle, the quarters, …"""
    order = [count - 1, 0] if count > 1 else list(range(count))
    seen = set(order)
    parts = 2
    while len(order) < count:
        for numerator in range(1, parts, 2):
            index = numerator * (count - 1) // parts
            if index not in seen:
                seen.add(index)
                order.append(index)
        parts *= 2
        if parts > 4 * count:
            order += [index for index in range(count) if index not in seen]
    return order


def in_turn(by_step: Sequence[Sequence[GroupPlace]]) -> Iterator[GroupPlace]:
    """One group of every step, in the order of `spread`; then the second of every step; and so on."""
    order = spread(len(by_step))
    for turn in range(max(map(len, by_step), default=0)):
        for index in order:
            if turn < len(by_step[index]):
                yield by_step[index][turn]


@dataclass
class Pictures:
    """The thumbnails of a page, each path once."""

    uris: list[str] = field(default_factory=list)
    size: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)

    def add(self, path: str) -> int:
        """The index of a picture in `uris`; -1 if it cannot be shown, and then `failed` says why."""
        if path not in self._places and path not in self.failed:
            try:
                uri = thumbnail(path)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.failed[path] = str(error)
            else:
                self._places[path] = len(self.uris)
                self.uris.append(uri)
                self.size += len(uri) + 3
        return self._places.get(path, -1)

    def forget_from(self, length: int) -> None:
        """Drop all pictures but the first `length`: they belong to a group that does not fit."""
        self.size -= sum(len(uri) + 3 for uri in self.uris[length:])
        del self.uris[length:]
        self._places = {path: place for path, place in self._places.items() if place < length}


@dataclass
class Shown:
    """Groups and questions in the form that the page's script reads."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    size: int = 0  # bytes in the page, new thumbnails included


def choose(
    by_step: Sequence[Sequence[GroupPlace]],
    data: Sequence[Path],
    mix: RolloutCounts,
    pattern_mode: str,
    coefficients: Mapping[int, float],
    pictures: Pictures,
    budget: int,
) -> Shown:
    """As many groups as fit into `budget` bytes, thumbnails included.

    Args:
        by_step: the groups of each step.
        data: parquet files with the questions.
        coefficients: step -> diversity coefficient, for rollouts that do not record it.
        pictures: those of the page so far; new ones are added.
    """
    candidates = [place for place, _ in zip(in_turn(by_step), range(MAX_CANDIDATES), strict=False)]
    wanted = {place.question_uid for place in candidates} - {""}
    known, notes = read_questions(data, wanted) if wanted and data else ({}, [])
    shown = Shown(notes=notes)
    if any(not place.question_uid for place in candidates):
        shown.notes.append("The rollouts do not name their questions (question_uid): images and options are not shown.")
    elif unknown := wanted - known.keys():
        shown.notes.append(
            f"{len(unknown)} of {len(wanted)} questions are not in the data files: images and options are not shown."
        )
    at: dict[str, int] = {}
    for place in candidates:
        rollouts = read_at(place.path, place.offsets)
        if not rollouts:
            continue
        key = place.question_uid or rollouts[0].prompt
        is_new, pictures_before, size_before = key not in at, len(pictures.uris), pictures.size
        index = len(shown.questions) if is_new else at[key]
        group = _group(place.step, rollouts, index, mix, pattern_mode, coefficients.get(place.step))
        question = _question(known.get(place.question_uid), rollouts[0], pictures) if is_new else None
        size = len(json_for_script([group, question]).encode()) + pictures.size - size_before
        if shown.size + size > budget:
            pictures.forget_from(pictures_before)
            break
        shown.size += size
        shown.groups.append(group)
        if question is not None:
            at[key] = index
            shown.questions.append(question)
    shown.groups.sort(key=lambda group: group["step"])
    return shown


def _question(question: ShownQuestion | None, rollout: Rollout, pictures: Pictures) -> dict[str, Any]:
    if question is None:
        question = ShownQuestion(rollout.question_uid, rollout.prompt, rollout.gold)
    return {
        "uid": question.uid,
        "text": question.text[:MAX_TEXT],
        "gold": question.gold,
        "options": question.options,
        "images": [pictures.add(path) for path in question.images[:MAX_IMAGES]],
        "names": question.names[:MAX_IMAGES],
        "more": max(0, len(question.images) - MAX_IMAGES),
    }


def _group(
    step: int,
    rollouts: Sequence[Rollout],
    question: int,
    mix: RolloutCounts,
    pattern_mode: str,
    coefficient: float | None,
) -> dict[str, Any]:
    """An entry of the page's list of groups. Its rollouts are compressed; the page unpacks them when they are shown."""
    first = rollouts[0]
    patterns = [pattern_in_mode(rollout.pattern, pattern_mode) for rollout in rollouts]
    alike, size = pattern_counts(patterns, [0] * len(patterns))
    packed = [
        _details(rollout, int(n), int(g), coefficient if rollout.coefficient is None else rollout.coefficient)
        for rollout, n, g in zip(rollouts, alike, size, strict=True)
    ]
    text = json.dumps(packed, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")
    return {
        "step": step,
        "question": question,
        "condition": first.condition if first.condition != TRUE else None,
        "source": mix.sources.index.get(first.data_source, -1),
        "type": mix.types.index.get(first.answer_type, -1),
        "rollouts": [[mix.patterns.index.get(r.pattern, -1), correctness(r.acc)] for r in rollouts],
        "packed": base64.b64encode(gzip.compress(text, mtime=0)).decode("ascii"),
    }


def _details(rollout: Rollout, alike: int, size: int, coefficient: float | None) -> dict[str, Any]:
    """What the page shows of one rollout: its actions, and its raw text where it breaks the format rule."""
    trajectory = rollout.text.removeprefix(rollout.stripped)
    text, reasoning = trajectory[:MAX_TEXT], rollout.stripped[:MAX_TEXT]
    penalty = None
    if coefficient is not None and rollout.acc is not None:  # the paper's term, as in cinema_verl.diversity
        penalty = coefficient * 0.5 * rollout.acc * (alike - 1) / max(size - 1, 1)
    details = {
        "pattern": rollout.pattern,
        "actions": parse(text).actions,
        "raw": text if rollout.violations or not rollout.pattern else "",
        "reasoning": reasoning,
        "cut": len(trajectory) - len(text) + len(rollout.stripped) - len(reasoning),
        "score": rollout.score,
        "acc": rollout.acc,
        "format": rollout.format,
        "overlong": rollout.overlong,
        "alike": alike,
        "size": size,
        "coefficient": coefficient,
        "penalty": penalty,
        "verdict": rollout.verdict,
        "violations": rollout.violations,
        "stop": rollout.stop_reason if rollout.stop_reason != StopReason.UNKNOWN else "",
        "tokens": rollout.tokens,
    }
    return {name: value for name, value in details.items() if value is not None and value != "" and value != ()}
