"""A run's curves, its counts of patterns and violations by step, and a table of trends, as pure functions.

A curve has at most 500 points: those of longer runs are means over neighbouring steps.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from cinema_verl.diversity import pattern_statistics
from cinema_verl.meta_action import pattern_in_mode
from cinema_verl.runs.conditions import CONDITIONS, TRUE, split_source
from cinema_verl.runs.metrics import Metrics
from cinema_verl.runs.rollouts import Rollout
from cinema_verl.schedule import Stages

MAX_POINTS: Final = 500
"""Points of a curve. Our choice: more than a chart on a screen shows apart."""

MAX_PATTERNS: Final = 200
"""Patterns told apart; the others are one class. Our choice: a policy that collapses writes thousands, each once."""

RARER: Final = "(rarer)"
VALIDATION_ACCURACY: Final = "report/validation_acc"

_VALIDATION_ACCURACY = re.compile(r"val-(?:core|aux)/(.+)/acc/mean@\d+")


class Curve(NamedTuple):
    """One curve of a panel: its label, and the names of its metric, of which the first that the run logged counts."""

    metrics: tuple[str, ...]
    label: str


class Panel(NamedTuple):
    """One chart of curves."""

    title: str
    unit: str
    lines: tuple[Curve, ...]
    share: bool = False  # values are shares: the axis goes from 0 to 1
    optional: bool = False  # a run is whole without it


def _panel(title: str, unit: str, *metrics: str, share: bool = False) -> Panel:
    return Panel(title, unit, (Curve(metrics, title.lower()),), share)


_SAMPLING = "cinema/dynamic_sampling"
_SHARES = [f"cinema/{term}_advantage_share" for term in ("diversity", "novelty", "pass_at_4")]  # of our estimators

PANELS: Final = (
    _panel("Reward", "mean a rollout, before the diversity term", "critic/rewards/mean", "critic/score/mean"),
    _panel("Accuracy in training", "share correct, of the groups kept", "cinema/acc", share=True),
    _panel("Accuracy in validation", "share correct, mean over data sources", VALIDATION_ACCURACY, share=True),
    _panel("Format", "share well formed", "cinema/format", share=True),
    _panel("Token entropy", "nats", "actor/entropy"),
    _panel("Pattern entropy", "nats, mean over groups", "cinema/pattern_entropy"),
    _panel("Unique patterns", "mean a group", "cinema/unique_patterns"),
    _panel("Diversity coefficient", "factor of the diversity term", "cinema/diversity_coefficient"),
    _panel("Diversity in the advantage", "share of the advantage", *_SHARES),
    Panel(
        "Lengths",
        "tokens, mean",
        (Curve(("response_length/mean",), "response"), Curve(("prompt_length/mean",), "prompt")),
    ),
    Panel(
        "Dynamic sampling",
        "share of the groups generated",
        (
            Curve((f"{_SAMPLING}/mixed",), "mixed (kept)"),
            Curve((f"{_SAMPLING}/solve_all",), "all correct"),
            Curve((f"{_SAMPLING}/solve_none",), "all incorrect"),
        ),
        share=True,
    ),
    Panel(
        "Image dependence",
        "accuracy lost in validation over changed images",
        tuple(Curve((f"cinema/image_dependence/{condition}/drop",), condition) for condition in CONDITIONS),
        optional=True,
    ),
)
"""The charts that the page opens with; every other metric can be chosen in it."""

_LINES: Final = tuple(line for panel in PANELS for line in panel.lines)


def bins(steps: Sequence[int], limit: int = MAX_POINTS) -> list[list[int]]:
    """Indices of neighbouring steps that are one point: at most `limit` lists, of equal length but for the last."""
    width = max(1, -(-len(steps) // limit))
    return [list(range(start, min(start + width, len(steps)))) for start in range(0, len(steps), width)]


def thin(values: Sequence[float | None], spans: Sequence[Sequence[int]]) -> list[float | None]:
    """The mean over each list of indices, to six digits; None where there is no value."""
    means = [_mean([values[i] for i in span]) for span in spans]
    return [None if mean is None else float(f"{mean:.6g}") for mean in means]


def complete(metrics: Metrics, counted: Mapping[int, Mapping[str, float]]) -> tuple[Metrics, list[str]]:
    """The metrics, with those added that were not logged but can be counted from rollouts.

    Args:
        counted: step -> `rollout_statistics` of that step.

    Returns:
        The metrics, and the names of those that were added.
    """
    series = dict(metrics.series)
    steps = metrics.steps or tuple(sorted(counted))
    added = []
    for name in dict.fromkeys(name for values in counted.values() for name in values):
        values = [counted.get(step, {}).get(name) for step in steps]
        logged = any(name in line.metrics and series.keys() & set(line.metrics) for line in _LINES)
        if not logged and any(value is not None for value in values):  # a run in its first step has logged step 0 only
            series[name] = values
            added.append(name)
    validations = [
        values
        for name, values in series.items()
        if (found := _VALIDATION_ACCURACY.fullmatch(name)) and split_source(found[1])[1] == TRUE
    ]
    if validations:
        series[VALIDATION_ACCURACY] = [_mean([values[i] for values in validations]) for i in range(len(steps))]
    return Metrics(steps, series, metrics.notes), added


def rollout_statistics(rollouts: Sequence[Rollout], pattern_mode: str) -> dict[str, float]:
    """The metrics of one step that its rollouts determine, under the names that training logs."""
    if not rollouts:
        return {}
    means = {
        "critic/score/mean": _mean([rollout.score for rollout in rollouts]),
        "cinema/acc": _mean([rollout.acc for rollout in rollouts]),
        "cinema/format": _mean([rollout.format for rollout in rollouts]),
        "response_length/mean": _mean([rollout.tokens for rollout in rollouts]),
    }
    patterns = [pattern_in_mode(rollout.pattern, pattern_mode) for rollout in rollouts]
    statistics = pattern_statistics(patterns, [rollout.group for rollout in rollouts])
    known = {name: value for name, value in means.items() if value is not None}
    return known | {f"cinema/{name}": value for name, value in statistics.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Cell(NamedTuple):
    """What is counted of a rollout; `correct` is its `correctness`."""

    data_source: str
    answer_type: str
    pattern: str
    correct: int
    violations: tuple[str, ...]


def correctness(acc: float | None) -> int:
    """1 correct, 0 incorrect, 2 not known."""
    return 2 if acc is None else int(acc > 0)


def count(rollouts: Sequence[Rollout]) -> Counter[Cell]:
    """The number of rollouts of each kind."""
    return Counter(Cell(r.data_source, r.answer_type, r.pattern, correctness(r.acc), r.violations) for r in rollouts)


@dataclass(frozen=True)
class Vocabulary:
    """Words, the most frequent first; beyond `MAX_PATTERNS` the rare ones are one word, `RARER`."""

    words: tuple[str, ...]
    index: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counter[str]) -> "Vocabulary":
        ordered = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        words = ordered if len(ordered) <= MAX_PATTERNS else [*ordered[: MAX_PATTERNS - 1], RARER]
        return cls(tuple(words), {word: min(i, len(words) - 1) for i, word in enumerate(ordered)})


@dataclass(frozen=True)
class RolloutCounts:
    """The counts of all rollouts of a run; the page filters them by any field of `Cell`."""

    steps: tuple[int, ...]
    counts: tuple[Counter[Cell], ...]
    sources: Vocabulary
    types: Vocabulary
    patterns: Vocabulary
    violations: Vocabulary

    @classmethod
    def of(cls, by_step: Mapping[int, Counter[Cell]]) -> "RolloutCounts":
        fields: tuple[Counter[str], ...] = (Counter(), Counter(), Counter(), Counter())
        for cells in by_step.values():
            for cell, n in cells.items():
                for counter, words in zip(
                    fields, ((cell.data_source,), (cell.answer_type,), (cell.pattern,), cell.violations), strict=True
                ):
                    counter.update(dict.fromkeys(words, n))
        steps = tuple(sorted(by_step))
        return cls(steps, tuple(by_step[step] for step in steps), *map(Vocabulary.of, fields))

    def as_json(self) -> dict[str, Any]:
        """The counts for the page; each of `cells` is a flat list of (source, type, pattern, correct, set, count)."""
        sets: dict[tuple[int, ...], int] = {(): 0}
        spans = bins(self.steps)
        cells = []
        for span in spans:
            merged: Counter[tuple[int, int, int, int, int]] = Counter()
            for i in span:
                for cell, n in self.counts[i].items():
                    broken = tuple(sorted({self.violations.index[code] for code in cell.violations}))
                    merged[
                        self.sources.index[cell.data_source],
                        self.types.index[cell.answer_type],
                        self.patterns.index[cell.pattern],
                        cell.correct,
                        sets.setdefault(broken, len(sets)),
                    ] += n
            cells.append([value for key, n in sorted(merged.items()) for value in (*key, n)])
        return {
            "from": [self.steps[span[0]] for span in spans],
            "to": [self.steps[span[-1]] for span in spans],
            "sources": self.sources.words,
            "types": self.types.words,
            "patterns": self.patterns.words,
            "violations": self.violations.words,
            "sets": list(sets),
            "cells": cells,
        }


def stages(metrics: Metrics, planned: Stages | None) -> list[dict[str, int]]:
    """First and last step of each stage that was reached, from `cinema/stage` or else from the configuration."""
    logged = metrics.series.get("cinema/stage")
    by_stage: dict[int, list[int]] = {}
    for i, step in enumerate(metrics.steps):
        if logged and logged[i] is not None:
            by_stage.setdefault(int(logged[i] or 0), []).append(step)
        elif not logged and planned and step > 0:
            by_stage.setdefault(planned.number(step), []).append(step)
    return [{"stage": stage, "from": min(steps), "to": max(steps)} for stage, steps in sorted(by_stage.items())]


class Trend(NamedTuple):
    """Means over the first and the last tenth of the steps that logged a metric."""

    first: float
    last: float


def trend(values: Sequence[float | None]) -> Trend | None:
    """The trend of a metric; None if it was never logged."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    width = max(1, len(known) // 10)
    return Trend(sum(known[:width]) / width, sum(known[-width:]) / width)


def overview(series: Sequence[Mapping[str, Sequence[float | None]]]) -> list[dict[str, Any]]:
    """A row for each line of `PANELS` that any of the runs has: title, unit, and the trend in each run."""
    rows = []
    for panel in PANELS:
        for line in panel.lines:
            trends = [next((trend(one[name]) for name in line.metrics if name in one), None) for one in series]
            if any(trends):
                title = panel.title if len(panel.lines) == 1 else f"{panel.title}: {line.label}"
                rows.append({"title": title, "unit": panel.unit, "trends": trends})
    return rows
