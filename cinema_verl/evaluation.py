"""What verl's validation found, as a table: accuracy, format rate and pattern entropy, each with its interval.

Reads the files that verl writes to `trainer.validation_data_dir` (one JSON a rollout, one file a validation, named by
its global step), so that the same code serves the demo and any run.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinema_verl.diversity import pattern_statistics

# Resamples of a bootstrap interval. Our choice: the ends of a 95 % interval then wobble by about a tenth of its width.
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and its 95 % percentile-bootstrap interval; questions are resampled, not rollouts."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of one number a question, with its interval.

    Raises:
        ValueError: if there are no values.
    """
    if not len(values):
        raise ValueError("no questions to average over")
    sample = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [rng.choice(sample, len(sample)).mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


@dataclass(frozen=True)
class Validation:
    """One validation: per question, in the order of the questions' names.

    Args:
        step: global step.
        questions: (Q,) the rows' `uid`.
        acc, fmt: (Q,) mean over the question's rollouts.
        pattern_entropy: (Q,) entropy of the rollouts' patterns, nats.
        rollouts: rollouts a question.
    """

    step: int
    questions: tuple[str, ...]
    acc: tuple[float, ...]
    fmt: tuple[float, ...]
    pattern_entropy: tuple[float, ...]
    rollouts: int


def read_validation(path: Path) -> Validation:
    """Read `trainer.validation_data_dir/<step>.jsonl`.

    verl names rollouts by random ids that differ from one validation to the next; `question_uid`, which the reward
    function returns, tells which question a rollout answers.

    Raises:
        FileNotFoundError: if the validation was not written.
        ValueError: naming file and line, if a record is not what `cinema_verl.reward.compute_score` leaves there.
    """
    groups: dict[str, list[dict]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            record["acc"], record["format"], record["pattern"], record["question_uid"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a validation record of the cinema reward: {error!r}"
            ) from error
        groups.setdefault(record["uid"].split("_")[0], []).append(record)
    if not groups:
        raise ValueError(f"{path} is empty: the validation wrote no rollouts")
    ordered = sorted(groups.values(), key=lambda group: group[0]["question_uid"])
    return Validation(
        step=int(path.stem),
        questions=tuple(group[0]["question_uid"] for group in ordered),
        acc=tuple(_mean(group, lambda record: record["acc"]) for group in ordered),
        fmt=tuple(_mean(group, lambda record: record["format"]) for group in ordered),
        pattern_entropy=tuple(
            pattern_statistics([record["pattern"] for record in group], [0] * len(group))["pattern_entropy"]
            for group in ordered
        ),
        rollouts=max(len(group) for group in ordered),
    )


def _mean(group: Sequence[dict], value: Callable[[dict], float]) -> float:
    return sum(float(value(record)) for record in group) / len(group)


def table(rows: Sequence[tuple[str, Validation]]) -> str:
    """Accuracy, format rate and pattern entropy of several validations over the same questions, as Markdown."""
    lines = ["| policy | step | accuracy | format rate | pattern entropy (nats) |", "| --- | ---: | --- | --- | --- |"]
    lines += [
        f"| {name} | {v.step} | {bootstrap(v.acc)} | {bootstrap(v.fmt)} | {bootstrap(v.pattern_entropy)} |"
        for name, v in rows
    ]
    return "\n".join(lines)


def change(before: Validation, after: Validation) -> Estimate:
    """Accuracy gained, paired by question.

    Raises:
        ValueError: if the two validations did not ask the same questions.
    """
    if before.questions != after.questions:
        raise ValueError(f"{len(before.acc)} questions before and {len(after.acc)} after: not the same data")
    return bootstrap(np.subtract(after.acc, before.acc).tolist())
