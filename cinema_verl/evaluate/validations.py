"""Validations of one training run side by side: accuracy, format rate and pattern entropy, each with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cinema_verl.diversity import pattern_statistics
from cinema_verl.evaluate.statistics import Estimate, difference, mean, rate
from cinema_verl.evaluate.summary import share
from cinema_verl.runs.rollouts import by_question, read_strictly


@dataclass(frozen=True)
class Validation:
    """One validation over the true images: per question, in the order of the questions' names.

    Attributes:
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

    Raises:
        FileNotFoundError, ValueError: as `cinema_verl.runs.rollouts.read_strictly`.
    """
    groups = by_question(read_strictly(path))
    rollouts = max(map(len, groups.values()))
    return Validation(
        step=int(path.stem),
        questions=tuple(groups),
        acc=tuple(share(groups, "acc", rollouts)),
        fmt=tuple(share(groups, "format", rollouts)),
        pattern_entropy=tuple(
            pattern_statistics([rollout.pattern for rollout in group], [0] * len(group))["pattern_entropy"]
            for group in groups.values()
        ),
        rollouts=rollouts,
    )


def table(rows: Sequence[tuple[str, Validation]]) -> str:
    """Accuracy, format rate and pattern entropy of several validations over the same questions, as Markdown."""
    lines = ["| policy | step | accuracy | format rate | pattern entropy (nats) |", "| --- | ---: | --- | --- | --- |"]
    lines += [
        f"| {name} | {v.step} | {rate(v.acc, v.rollouts)} | {rate(v.fmt, v.rollouts)} | {mean(v.pattern_entropy)} |"
        for name, v in rows
    ]
    return "\n".join(lines)


def change(before: Validation, after: Validation) -> Estimate:
    """Accuracy gained, paired by question.

    Raises:
        ValueError: the two validations did not ask the same questions.
    """
    if before.questions != after.questions:
        raise ValueError(f"{len(before.acc)} questions before and {len(after.acc)} after: not the same data")
    return difference([b - a for a, b in zip(before.acc, after.acc, strict=True)])
