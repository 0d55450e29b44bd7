"""A validation's rollouts summarised as one dictionary of numbers, by benchmark and by the parts of each.

docs/evaluation.md has its schema. The Markdown and HTML tables are made from it, so nobody has to parse a table.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from cinema_verl.evaluate.statistics import Estimate, difference, pass_at_k, rate
from cinema_verl.runs.conditions import BLANK, CONDITIONS, SHUFFLED, TRUE
from cinema_verl.runs.rollouts import Rollout, by_question
from cinema_verl.runs.stop_reason import StopReason

SCHEMA: Final = "cinema-verl/evaluation"
VERSION: Final = 1  # incremented with every change of the JSON that a program reading it would notice
K_MAX: Final = 16  # paper: Pass@K up to K = 16
_PATTERNS: Final = 20  # our choice: patterns listed one by one; the rest are counted together

Groups = Mapping[str, Sequence[Rollout]]
"""Question -> its rollouts under one condition."""


def summarise(rollouts: Sequence[Rollout], settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole evaluation.

    Args:
        rollouts: those of one validation, under every image condition that was asked. The rollouts that a question has
            fewer than another were lost: they count as incorrect, as in verl.
        settings: model, prompt mode, sampling and the like (`cinema_verl.evaluate.files.settings_of`), copied.
    """
    expected = max(Counter((r.question, r.condition) for r in rollouts).values())
    by_benchmark: defaultdict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        by_benchmark[rollout.benchmark].append(rollout)
    questions = Counter(condition for _, condition in {(r.question, r.condition) for r in rollouts})
    ended = sum(r.stop_reason != StopReason.FAILED for r in rollouts)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "settings": dict(settings or {}),
        "rollouts_per_question": expected,
        "questions": {condition: questions[condition] for condition in (TRUE, *CONDITIONS) if questions[condition]},
        "failed_rollouts": sum(questions.values()) * expected - ended,
        "benchmarks": {name: _benchmark(part, expected) for name, part in sorted(by_benchmark.items())},
    }


def _benchmark(rollouts: Sequence[Rollout], expected: int) -> dict[str, Any]:
    asked = by_question(rollouts)
    return {
        **_figures(asked, expected),
        "by_task": _split(asked, expected, lambda rollout: rollout.task, _task),
        "by_ability": _split(asked, expected, lambda rollout: rollout.ability),
        "by_answer_type": _split(asked, expected, lambda rollout: rollout.answer_type),
        "by_images": _split(asked, expected, lambda rollout: rollout.num_images),
        "patterns": _patterns(asked),
        "violations": _counts(code for group in asked.values() for r in group for code in r.violations),
        "stops": _counts(r.stop_reason for group in asked.values() for r in group),
        "image_dependence": {
            condition: found.to_json()
            for condition in CONDITIONS
            if (found := image_dependence(rollouts, condition, expected))
        },
    }


def _task(groups: Groups, expected: int) -> dict[str, Any]:
    """A part with images and patterns, which a benchmark's tasks have because they differ more than anything else."""
    by_images = _split(groups, expected, lambda rollout: rollout.num_images)
    return {**_figures(groups, expected), "by_images": by_images, "patterns": _patterns(groups)}


def _figures(groups: Groups, expected: int) -> dict[str, Any]:
    """Accuracy and the other figures of a part; its number of questions alone where that is 0."""
    if not groups:
        return {"questions": 0}
    answers = [r for group in groups.values() for r in group]
    ended = [r for r in answers if r.stop_reason != StopReason.FAILED]
    tokens = [r.tokens for r in ended]
    return {
        "questions": len(groups),
        "accuracy": rate(share(groups, "acc", expected), expected).to_json(),
        "format": rate(share(groups, "format", expected), expected).to_json(),
        "pass_at_k": {str(k): found and found.to_json() for k, found in passes(groups, expected).items()},
        "abstained": _mean([r.abstained for r in answers]),
        "timed_out": _mean([r.timed_out for r in answers]),
        "native_reasoning": _mean([r.native_reasoning for r in answers]),
        "response_tokens": None if None in tokens or not ended else _mean([float(t) for t in tokens if t is not None]),
        "response_characters": _mean([float(r.characters) for r in ended]) if ended else None,
    }


def share(groups: Groups, name: str, expected: int) -> list[float]:
    """(Q,) for each question the share of rollouts whose attribute `name` is 1, of all that were asked for."""
    value = attrgetter(name)
    return [sum(map(value, group)) / max(expected, len(group)) for group in groups.values()]


def passes(groups: Groups, expected: int) -> dict[int, Estimate | None]:
    """pass@k for k = 1 … 16; None where k is more than the rollouts of a question."""
    correct = [round(sum(map(attrgetter("acc"), group))) for group in groups.values()]
    return {
        k: rate([pass_at_k(number, expected, k) for number in correct], expected) if k <= expected else None
        for k in range(1, K_MAX + 1)
    }


def _split(
    groups: Groups,
    expected: int,
    part: Callable[[Rollout], Hashable],
    describe: Callable[[Groups, int], dict[str, Any]] = _figures,
) -> dict[str, Any]:
    parts: defaultdict[Any, dict[str, Sequence[Rollout]]] = defaultdict(dict)
    for question, group in groups.items():
        parts[part(group[0])][question] = group
    return {str(name): describe(parts[name], expected) for name in sorted(parts)}


def _patterns(groups: Groups) -> list[dict[str, Any]]:
    """The most frequent patterns: share of the rollouts, and accuracy of those; the rest as "other"."""
    by_pattern: defaultdict[str, list[Any]] = defaultdict(list)
    for group in groups.values():
        for rollout in group:
            by_pattern[rollout.pattern].append(rollout.acc)
    total = sum(map(len, by_pattern.values()))
    ordered = sorted(by_pattern.items(), key=lambda item: (-len(item[1]), item[0]))
    listed = ordered[:_PATTERNS]
    if rest := [acc for _, values in ordered[_PATTERNS:] for acc in values]:
        listed.append(("other", rest))
    return [{"pattern": name, "share": len(values) / total, "accuracy": _mean(values)} for name, values in listed]


@dataclass(frozen=True)
class Dependence:
    """Accuracy over the true images, under a condition, and the paired difference of the two."""

    condition: str
    true: Estimate
    under: Estimate
    drop: Estimate
    questions: int

    @property
    def warning(self) -> str | None:
        """A sentence if the drop may be 0. Not under `reordered`, which may rightly change nothing."""
        if self.condition not in (SHUFFLED, BLANK) or not self.drop.holds_zero:
            return None
        return (
            f"accuracy over {self.condition} images is not clearly below that over the true ones ({self.drop}): on "
            f"these {self.questions} questions nothing shows that the policy looks at the images"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            "true": self.true.to_json(),
            "accuracy": self.under.to_json(),
            "drop": self.drop.to_json(),
            "warning": self.warning,
        }


def image_dependence(rollouts: Sequence[Rollout], condition: str, expected: int) -> Dependence | None:
    """The questions that were asked both ways, paired; None if there are none."""
    true, under = by_question(rollouts), by_question(rollouts, condition)
    both = [question for question in true if question in under]
    if not both:
        return None
    here, there = (share({question: side[question] for question in both}, "acc", expected) for side in (true, under))
    drop = difference([a - b for a, b in zip(here, there, strict=True)])
    return Dependence(condition, rate(here, expected), rate(there, expected), drop, len(both))


def mean_metrics(
    sources: Sequence[str], infos: Mapping[str, Sequence[Any]], asked: Mapping[tuple[str, str], int]
) -> dict[str, float]:
    """Accuracy and format rate of each `data_source` under verl's own names.

    They are `val-core/SOURCE/acc/mean@N` and `val-aux/SOURCE/format/mean@N`: verl counts accuracy alone as core.

    Args:
        sources, infos: see `dependence_metrics`; both may be empty.
        asked: (`data_source`, group) -> rollouts asked for. Those that are missing failed, and count as 0.
    """
    total: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for (source, _), rollouts in asked.items():
        total[source] += rollouts
        most[source] = max(most[source], rollouts)
    metrics: dict[str, float] = {}
    for section, name in (("val-core", "acc"), ("val-aux", "format")):
        found: defaultdict[str, float] = defaultdict(float)
        for source, value in zip(sources, infos.get(name, ()), strict=True):
            found[source] += value or 0.0
        metrics |= {
            f"{section}/{source}/{name}/mean@{most[source]}": found[source] / count for source, count in total.items()
        }
    return metrics


def dependence_metrics(
    sources: Sequence[str], groups: Sequence[str], infos: Mapping[str, Sequence[Any]], expected: int
) -> tuple[dict[str, float], list[str]]:
    """`cinema/image_dependence…` of a validation, and warnings.

    Args:
        sources, groups: (B,) `data_source` and verl's uid of the prompt of each rollout.
        infos: what the reward function returned, name -> (B,). A rollout without `acc` failed.
        expected: rollouts a question.

    Returns:
        For each condition `/CONDITION/accuracy`, `true`, `drop`, `drop_low` and `drop_high` (95 %), over the questions
        that were asked both ways. `cinema/image_dependence` is the mean drop of the conditions under which a policy
        that uses the images must lose accuracy: shuffled and blank.
    """
    rollouts = [
        Rollout(group, str(infos["question_uid"][i] or ""), source, acc=float(acc))
        for i, (source, group) in enumerate(zip(sources, groups, strict=True))
        if "acc" in infos and (acc := infos["acc"][i]) is not None
    ]
    name = "cinema/image_dependence"
    metrics: dict[str, float] = {}
    drops, warnings = [], []
    for condition in CONDITIONS:
        if (found := image_dependence(rollouts, condition, expected)) is None:
            continue
        metrics |= {
            f"{name}/{condition}/accuracy": found.under.mean,
            f"{name}/{condition}/true": found.true.mean,
            f"{name}/{condition}/drop": found.drop.mean,
            f"{name}/{condition}/drop_low": found.drop.low,
            f"{name}/{condition}/drop_high": found.drop.high,
        }
        if condition in (SHUFFLED, BLANK):
            drops.append(found.drop.mean)
        if found.warning:
            warnings.append(found.warning)
    if drops:
        metrics[name] = _mean(drops)
    return metrics, warnings


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
