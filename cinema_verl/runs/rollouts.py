"""The one reader of the rollouts that a run left on disk, for the report, the evaluation and the demo.

verl writes `<step>.jsonl` to `trainer.rollout_data_dir` and `trainer.validation_data_dir`, one line a response: prompt,
text, score, and what the reward function returned. `cinema_verl.training` adds source, ability, length and stop reason.
A plain verl run has texts and scores only.

A line is a rollout if it is a JSON object whose `output` is a string, as verl writes in every line. The empty string is
a response of no tokens and counts like any other. A record without `output` is damaged, or no rollout: to take it for
an empty response would invent one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from cinema_verl.meta_action import parse
from cinema_verl.runs.conditions import TRUE, split_source
from cinema_verl.runs.metrics import number
from cinema_verl.runs.stop_reason import StopReason

UNKNOWN: Final = "unknown"
"""Data source, ability or answer type of a rollout whose record does not say."""

_SESSION: Final = re.compile(r"_\d+_\d+\Z")  # verl's key of a rollout: {uid}_{session}_{output}
_PADDING: Final = "pad"  # verl's upsample_batch_to_divisible_size begins the uid of its copies with it


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scored response. A number that the record does not have, or that is not finite, is None.

    Attributes:
        group: the group that it is compared with: verl's uid of the prompt in its step.
        question_uid: uid of the question's row in the data; "" if unknown.
        data_source: that of the row and the condition that it was asked under, "digits/sum@blank".
        score: what the reward manager gave: accuracy, format and overlong shaping, before the diversity term.
        acc, format: 0 or 1.
        abstained, timed_out, native_reasoning: 0 or 1; 0 where the record does not say.
        tokens, characters: length of the response.
        coefficient: of the diversity term in its step.
        offset: byte offset of its line in the file.
        prompt, text: only of `read_at`: those of all rollouts of a run would not fit into memory.
        stripped: what `text` begins with that is no part of the trajectory, reasoning of the model's own; as `text`.
    """

    group: str
    question_uid: str = ""
    data_source: str = UNKNOWN
    ability: str = UNKNOWN
    answer_type: str = UNKNOWN
    num_images: int = 0
    gold: str = ""
    score: float | None = None
    acc: float | None = None
    format: float | None = None
    pattern: str = ""
    violations: tuple[str, ...] = ()
    verdict: str = ""
    abstained: float = 0.0
    timed_out: float = 0.0
    native_reasoning: float = 0.0
    overlong: float | None = None
    coefficient: float | None = None
    stop_reason: StopReason = StopReason.UNKNOWN
    tokens: int | None = None
    characters: int = 0
    offset: int = 0
    prompt: str = ""
    text: str = ""
    stripped: str = ""

    @property
    def question(self) -> str:
        """The question's name, the same under every condition; its group's where the record does not say."""
        return self.question_uid or self.group

    @property
    def source(self) -> str:
        """The row's own `data_source`, without the condition."""
        return split_source(self.data_source)[0]

    @property
    def condition(self) -> str:
        """The images that it was asked over, one of `CONDITIONS` or "true"."""
        return split_source(self.data_source)[1]

    @property
    def benchmark(self) -> str:
        return self.source.partition("/")[0]

    @property
    def task(self) -> str:
        return self.source.partition("/")[2]


def step_files(folder: Path) -> list[tuple[int, Path]]:
    """`<step>.jsonl` of a folder in the order of steps."""
    return sorted((int(path.stem), path) for path in folder.glob("*.jsonl") if path.stem.isdecimal())


def read_leniently(path: Path) -> tuple[list[Rollout], int]:
    """The rollouts of a file in any state, in its order, and how many of its lines are not rollouts.

    For the report, which shows what a crashed run left. verl's padding is left out.

    Raises:
        OSError: the file cannot be read.
    """
    rollouts, bad = [], 0
    for offset, line in _lines(path):
        try:
            record = _record(line)
        except ValueError:
            bad += 1
        else:
            if not _is_padding(record):
                rollouts.append(rollout_of(record, offset))
    return _with_groups_of_failed(rollouts), bad


def read_strictly(path: Path) -> list[Rollout]:
    """The rollouts of a whole file, in its order, each with an accuracy, a format reward and a question.

    For the evaluation, whose numbers must not rest on half a file. verl's padding is left out.

    Raises:
        FileNotFoundError: the validation was not written.
        ValueError: naming file and line, for a line that is no record of the cinema reward; or an empty file.
    """
    rollouts = []
    for number_of_line, (offset, line) in enumerate(_lines(path), start=1):
        try:
            record = _record(line)
            rollout = rollout_of(record, offset)
            missing = [name for name in ("acc", "format") if getattr(rollout, name) is None]
            if not (record.get("question_uid") or record.get("uid")):
                missing.append("question_uid")
            if missing:
                raise ValueError(f"no {' and no '.join(missing)}")
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number_of_line}: not a validation record of the cinema reward: {error}"
            ) from error
        if not _is_padding(record):
            rollouts.append(rollout)
    if not rollouts:
        raise ValueError(f"{path} is empty: the validation wrote no rollouts")
    return _with_groups_of_failed(rollouts)


def read_at(path: Path, offsets: Iterable[int]) -> list[Rollout]:
    """The rollouts whose lines begin at `offsets`, with prompt and text.

    A line that is no rollout is left out: the file may have been rewritten since.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    with open(path, "rb") as file:
        for offset in offsets:
            file.seek(offset)
            try:
                record = _record(file.readline())
            except ValueError:
                continue
            texts = {"prompt": _text(record, "input"), "text": record["output"], "stripped": _text(record, "stripped")}
            found.append(replace(rollout_of(record, offset), **texts))
    return found


def rollout_of(record: Mapping[str, Any], offset: int = 0) -> Rollout:
    """The rollout of a record whose `output` is a string; without prompt and text."""
    text = record["output"]
    if isinstance(record.get("pattern"), str):
        pattern, violations = record["pattern"], tuple(filter(None, _text(record, "violations").split(",")))
    else:  # a plain verl run
        trajectory = parse(text)
        pattern, violations = trajectory.pattern, trajectory.violations
    acc = record.get("acc")
    tokens = number(record.get("response_tokens"))
    return Rollout(
        group=_SESSION.sub("", _text(record, "uid")) or _text(record, "input"),  # older dumps have no uid
        question_uid=_text(record, "question_uid"),
        data_source=_text(record, "data_source") or UNKNOWN,
        ability=_text(record, "ability") or UNKNOWN,
        answer_type=_text(record, "answer_type") or UNKNOWN,
        num_images=int(number(record.get("num_images")) or 0),
        gold=_text(record, "gts"),
        score=number(record.get("score")),
        acc=float(acc) if isinstance(acc, bool) else number(acc),  # verl's own DAPO reward gives true and false
        format=number(record.get("format")),
        pattern=pattern,
        violations=violations,
        verdict=_text(record, "verdict"),
        abstained=number(record.get("abstained")) or 0.0,
        timed_out=number(record.get("timed_out")) or 0.0,
        native_reasoning=number(record.get("native_reasoning")) or 0.0,
        overlong=number(record.get("overlong_reward")),
        coefficient=number(record.get("diversity_coefficient")),
        stop_reason=StopReason.of(record.get("stop_reason")),
        tokens=None if tokens is None else int(tokens),
        characters=len(text),
        offset=offset,
    )


def by_question(rollouts: Iterable[Rollout], condition: str = TRUE) -> dict[str, list[Rollout]]:
    """The rollouts of each question under one condition, in the order of the questions' names."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.condition == condition:
            groups.setdefault(rollout.question, []).append(rollout)
    return dict(sorted(groups.items()))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Byte offset and content of each line; decoded later, so that a line that is not UTF-8 is one bad line."""
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def _record(line: bytes) -> dict[str, Any]:
    """The record in a line.

    Raises:
        ValueError: it is no rollout; the message says why.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            record = json.loads(line)  # NaN and Infinity, which Python writes and JSON does not know
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    if not isinstance(record.get("output"), str):
        raise ValueError("no output, the text of the response")
    return record


def _is_padding(record: Mapping[str, Any]) -> bool:
    return _text(record, "uid").startswith(_PADDING)


def _with_groups_of_failed(rollouts: list[Rollout]) -> list[Rollout]:
    """Failed rollouts of a validation in the group of their question's others, whose uid their records do not know."""
    answered = {(r.question_uid, r.data_source): r.group for r in rollouts if r.stop_reason != StopReason.FAILED}
    return [
        replace(r, group=answered.get((r.question_uid, r.data_source), f"{r.group}@{r.data_source}"))
        if r.stop_reason == StopReason.FAILED
        else r
        for r in rollouts
    ]


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None else str(value)
