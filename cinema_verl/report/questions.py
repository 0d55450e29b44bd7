"""Metrics, rollouts and questions of a run as plain data, whatever state its files are in.

A run that crashed, or is still going, ends in half a line; a plain verl run has texts and scores only; a metric may be
NaN. What cannot be read is counted and said, and the rest is used.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cinema_verl.meta_action import parse
from cinema_verl.runs.rollouts import FAILED

UNKNOWN = "unknown"
"""Data source or answer type of a rollout whose dump does not say."""

_SESSION = re.compile(r"_\d+_\d+\Z")  # verl's key of a rollout: {uid}_{session}_{output}
_NAME = re.compile(r"\b((?:Image|Frame) \w{1,9}): ?<image>")


@dataclass(frozen=True)
class Metrics:
    """What the `file` logger recorded.

    Args:
        steps: (S,) ascending global steps.
        series: name -> (S,) finite values; None where the step did not log it.
        notes: what could not be read.
    """

    steps: tuple[int, ...] = ()
    series: dict[str, list[float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """One trajectory as it was dumped. What the dump does not say is None, or `UNKNOWN`.

    Args:
        group: the prompt's uid of that step.
        question_uid: the question's name in the data; "" if unknown.
        score: what the reward manager gave: accuracy, format and overlong shaping, before the diversity term.
        coefficient: of the diversity term at that step.
        offset: byte offset of its line.
    """

    group: str
    question_uid: str
    prompt: str
    text: str
    gold: str
    score: float | None
    acc: float | None
    format: float | None
    pattern: str
    violations: tuple[str, ...]
    verdict: str
    answer_type: str
    data_source: str
    stop_reason: str
    tokens: int | None
    overlong: float | None
    coefficient: float | None
    offset: int


@dataclass(frozen=True)
class Question:
    """What a group view shows of a row of the data.

    Args:
        images: paths as the row has them.
        names: what the prompt calls each image, "Image 1", "Image B" or "Frame 3".
    """

    uid: str
    text: str
    gold: str
    options: tuple[str, ...]
    images: tuple[str, ...]
    names: tuple[str, ...]
    data_source: str


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float64
        return None


def read_metrics(path: Path) -> Metrics:
    """Every whole line; of a step that was logged twice (a resumed run), the last value counts.

    Raises:
        OSError: the file cannot be read.
    """
    by_step: dict[int, dict[str, Any]] = {}
    bad, not_finite = [], set()
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)  # not orjson: Python writes NaN and Infinity into such files, too
                step, data = record["step"], record["data"]
                if isinstance(step, bool) or not isinstance(step, int) or not isinstance(data, dict):
                    raise ValueError("no step and data")
            except (ValueError, KeyError, TypeError, RecursionError):
                bad.append(line_number)
                continue
            by_step.setdefault(step, {}).update(data)
            not_finite |= {name for name, value in data.items() if value is None or _not_finite(value)}

    steps = tuple(sorted(by_step))
    names = dict.fromkeys(name for step in steps for name in by_step[step])
    series = {name: [number(by_step[step].get(name)) for step in steps] for name in names}
    notes = []
    if bad:
        notes.append(f"{path}: {_lines(bad)} not read: no whole record (cut off by a crash, or being written).")
    if not_finite:
        notes.append(f"NaN or infinite at some steps, shown as gaps: {_some(sorted(not_finite))}.")
    if not steps:
        notes.append(f"{path} holds no record.")
    kept = {name: values for name, values in series.items() if any(value is not None for value in values)}
    return Metrics(steps, kept, tuple(notes))


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"line {shown}" if len(numbers) == 1 else f"{len(numbers)} lines ({shown}{', …' * (len(numbers) > 5)})"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def step_files(folder: Path) -> list[tuple[int, Path]]:
    """`<step>.jsonl` of a folder in the order of steps."""
    return sorted((int(path.stem), path) for path in folder.glob("*.jsonl") if path.stem.isdecimal())


def read_rollouts(path: Path) -> tuple[list[Rollout], int]:
    """The rollouts of one step, and how many lines could not be read; verl's padding is left out.

    Raises:
        OSError: the file cannot be read.
    """
    rollouts, bad, offset = [], 0, 0
    with open(path, "rb") as file:
        for line in file:
            rollout = _rollout(line, offset)
            offset += len(line)
            if rollout is None:
                bad += 1
            elif not rollout.group.startswith("pad"):  # verl: upsample_batch_to_divisible_size
                rollouts.append(rollout)
    answered = {(r.question_uid, r.data_source): r.group for r in rollouts if r.stop_reason != FAILED}
    return [_beside_the_others(r, answered) if r.stop_reason == FAILED else r for r in rollouts], bad


def _beside_the_others(failed: Rollout, answered: dict[tuple[str, str], str]) -> Rollout:
    """A failed rollout of a validation in the group of its question's others: its dump does not know their uid."""
    question = failed.question_uid, failed.data_source
    return replace(failed, group=answered.get(question, f"{failed.group}@{failed.data_source}"))


def read_rollouts_at(path: Path, offsets: Iterable[int]) -> list[Rollout]:
    """The rollouts whose lines begin at `offsets`."""
    with open(path, "rb") as file:
        found = []
        for offset in offsets:
            file.seek(offset)
            rollout = _rollout(file.readline(), offset)
            if rollout is not None:  # the file may have been written anew meanwhile
                found.append(rollout)
    return found


def _rollout(line: bytes, offset: int) -> Rollout | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            record = json.loads(line)  # NaN and Infinity, which Python writes and JSON does not know
        except (ValueError, RecursionError):
            return None
    if not isinstance(record, dict) or not isinstance(record.get("output"), str):
        return None
    text, prompt = record["output"], _text(record, "input")
    trajectory = parse(text) if not isinstance(record.get("pattern"), str) else None
    pattern = trajectory.pattern if trajectory else record["pattern"]
    violations = trajectory.violations if trajectory else tuple(filter(None, _text(record, "violations").split(",")))
    tokens = number(record.get("response_tokens"))
    key = _text(record, "uid")
    return Rollout(
        group=_SESSION.sub("", key) or prompt,  # older dumps have no uid: the same prompt is the same group
        question_uid=_text(record, "question_uid"),
        prompt=prompt,
        text=text,
        gold=_text(record, "gts"),
        score=number(record.get("score")),
        acc=_truth(record.get("acc")),
        format=number(record.get("format")),
        pattern=pattern,
        violations=violations,
        verdict=_text(record, "verdict"),
        answer_type=_text(record, "answer_type") or UNKNOWN,
        data_source=_text(record, "data_source") or UNKNOWN,
        stop_reason=_text(record, "stop_reason"),
        tokens=None if tokens is None else int(tokens),
        overlong=number(record.get("overlong_reward")),
        coefficient=number(record.get("diversity_coefficient")),
        offset=offset,
    )


def _truth(value: Any) -> float | None:
    """`acc` of a reward function: a number, or true and false, as verl's own DAPO reward has it."""
    return float(value) if isinstance(value, bool) else number(value)


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None else str(value)


def read_questions(files: Iterable[Path], wanted: set[str]) -> tuple[dict[str, Question], list[str]]:
    """The questions with these uids from parquet in `cinema_verl.data.schema.RL_SCHEMA`, and notes.

    Files are streamed; a file that cannot be read, or has other columns, becomes a note.
    """
    found: dict[str, Question] = {}
    notes: list[str] = []
    names = pa.array(sorted(wanted), pa.string())
    for path in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches(
                batch_size=4096, columns=["data_source", "prompt", "images", "reward_model", "extra_info"]
            ):
                uids = pc.struct_field(batch.column("extra_info"), "uid")
                for row in batch.filter(pc.is_in(uids, value_set=names)).to_pylist():
                    question = _question(row)
                    found.setdefault(question.uid, question)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            notes.append(f"{path} cannot be read as questions ({error}): they are shown without their images.")
    return found, notes


def _question(row: dict[str, Any]) -> Question:
    info = row["extra_info"]
    options = orjson.loads(info.get("options_json") or "[]")
    images = tuple(str(cell["image"]) for cell in row["images"] or ())
    names = tuple(_NAME.findall("\n".join(turn["content"] or "" for turn in row["prompt"] or ())))
    return Question(
        uid=info["uid"],
        text=info.get("question") or "",
        gold=(row["reward_model"] or {}).get("ground_truth") or "",
        options=tuple(map(str, options)) if isinstance(options, list) else (),
        images=images,
        names=names if len(names) == len(images) else tuple(f"Image {i}" for i in range(1, len(images) + 1)),
        data_source=row["data_source"] or UNKNOWN,
    )
