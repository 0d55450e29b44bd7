"""verl's validation dumps, read: one `Rollout` for each line of `trainer.validation_data_dir/<step>.jsonl`.

A dump has the prompt, the response and what the reward function returned. Source, ability, length and ending are added
by `cinema_verl.training.agent_loop_manager`, and `data_source` says under which images a question was asked
(`perturb`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cinema_verl.runs.conditions import TRUE, split_source

FAILED: Final = "failed"
"""The ``stop_reason`` of a rollout that never ended (`cinema_verl.evaluate.questions.with_failures`)."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scored response.

    Attributes:
        question: The row's uid, the same under every condition; verl's id of the prompt where the row has none.
        source: The row's ``data_source`` without the condition; ``benchmark/task`` where it has two parts.
        condition: What images it was asked over, one of `perturb.CONDITIONS` or "true".
        acc, format, abstained, timed_out: 0 or 1.
        tokens: Length of the response; None where the dump does not say.
        characters: Its length as text.
    """

    question: str
    source: str
    condition: str
    ability: str
    answer_type: str
    num_images: int
    acc: float
    format: float
    pattern: str
    violations: tuple[str, ...]
    abstained: float
    timed_out: float
    tokens: int | None
    characters: int
    stop_reason: str

    @property
    def benchmark(self) -> str:
        return self.source.partition("/")[0]

    @property
    def task(self) -> str:
        return self.source.partition("/")[2]


def rollout_of(record: Mapping[str, Any]) -> Rollout:
    """One record of a dump.

    Raises:
        KeyError, TypeError, ValueError: it lacks what `cinema_verl.reward.compute_score` leaves there, or a key has
            another type.
    """
    source, condition = split_source(record.get("data_source") or "unknown")
    tokens = record.get("response_tokens")
    return Rollout(
        question=str(record["question_uid"] or record["uid"].rsplit("_", 2)[0]),
        source=source,
        condition=condition,
        ability=record.get("ability") or "unknown",
        answer_type=record.get("answer_type") or "unknown",
        num_images=int(record.get("num_images") or 0),
        acc=float(record["acc"]),
        format=float(record["format"]),
        pattern=record["pattern"],
        violations=tuple(filter(None, (record.get("violations") or "").split(","))),
        abstained=float(record.get("abstained") or 0),
        timed_out=float(record.get("timed_out") or 0),
        tokens=None if tokens is None else int(tokens),
        characters=len(record.get("output") or ""),
        stop_reason=record.get("stop_reason") or "unknown",
    )


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of a dump, in its order.

    Raises:
        FileNotFoundError: the validation was not written.
        ValueError: naming file and line, for a line that is no record of the cinema reward; or an empty file.
    """
    rollouts = list(_read(path))
    if not rollouts:
        raise ValueError(f"{path} is empty: the validation wrote no rollouts")
    return rollouts


def _read(path: Path) -> Iterator[Rollout]:
    with open(path, "rb") as lines:  # decoded line by line, so that what is no text is named by its line, too
        for number, line in enumerate(lines, start=1):
            try:
                yield rollout_of(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not a validation record of the cinema reward: {error!r}"
                ) from error


def by_question(rollouts: Iterable[Rollout], condition: str = TRUE) -> dict[str, list[Rollout]]:
    """The rollouts of each question under one condition, in the order of the questions' names."""
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        if rollout.condition == condition:
            groups.setdefault(rollout.question, []).append(rollout)
    return dict(sorted(groups.items()))
