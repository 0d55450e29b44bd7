"""A batch of trajectories as `cinema/` metrics beside verl's own.

Pure functions over what the reward function returned for each trajectory (`reward_extra_info`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cinema_verl.diversity import pattern_statistics
from cinema_verl.runs.stop_reason import StopReason

LEAST_SHARE: Final = 0.05
"""Of a batch's trajectories; a rarer pattern has no metric of its own. Our choice: at most 20 names a step."""
MOST_ACTIONS: Final = 8
"""Of a pattern with a metric of its own: a policy that repeats actions would make new names for ever. Our choice."""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def batch_metrics(
    infos: Sequence[Mapping[str, Any]],
    patterns: Sequence[str],
    groups: Sequence[str],
    stop_reasons: Sequence[str],
) -> dict[str, float]:
    """`cinema/` metrics of one batch.

    Args:
        infos: (B,) what the reward function returned for each trajectory: `acc` and `format`, and optionally whatever
            else `cinema_verl.reward.compute_score` returns.
        patterns: (B,) the patterns that the diversity term compares.
        groups: (B,) group ids.
        stop_reasons: (B,) the `StopReason` of each rollout.

    Returns:
        cinema/acc, format, pattern_entropy (nats, mean over groups), unique_patterns (mean a group),
        verifier_abstained, verifier_timed_out, native_reasoning (shares), acc/<answer type>,
        violation/<code>, stop/<reason> and pattern/<actions> (shares of trajectories).
    """
    total = len(infos)
    metrics = {
        "cinema/acc": _mean([float(info["acc"]) for info in infos]),
        "cinema/format": _mean([float(info["format"]) for info in infos]),
    }
    for name in ("verifier_abstained", "verifier_timed_out", "native_reasoning"):
        key = name.removeprefix("verifier_")
        if values := [float(info[key]) for info in infos if key in info]:
            metrics[f"cinema/{name}"] = _mean(values)
    metrics |= {f"cinema/{name}": value for name, value in pattern_statistics(patterns, groups).items()}
    metrics |= _pattern_mix(patterns)
    by_type: defaultdict[str, list[float]] = defaultdict(list)
    violations: Counter[str] = Counter()
    for info in infos:
        by_type[info.get("answer_type", "unknown")].append(float(info["acc"]))
        violations.update(set(filter(None, info.get("violations", "").split(","))))
    metrics |= {f"cinema/acc/{name}": _mean(values) for name, values in by_type.items()}
    metrics |= {f"cinema/violation/{code}": count / total for code, count in violations.items()}
    metrics |= {reason.metric: count / total for reason, count in Counter(map(StopReason.of, stop_reasons)).items()}
    return metrics


def _pattern_mix(patterns: Sequence[str]) -> dict[str, float]:
    """The share of every frequent pattern, of all others together, and of none: they add up to 1.

    ">" is written "-": TensorBoard has no other than letters, digits and "-_./" in a name.
    """
    mix: Counter[str] = Counter()
    for pattern, count in Counter(patterns).items():
        frequent = count >= LEAST_SHARE * len(patterns) and pattern.count(">") < MOST_ACTIONS
        mix["none" if not pattern else pattern.replace(">", "-") if frequent else "other"] += count
    return {f"cinema/pattern/{name}": count / len(patterns) for name, count in mix.items()}


class StepMetrics:
    """The metrics of a step whose batch is trained in parts, each of whole groups."""

    def __init__(self) -> None:
        self._infos: list[Mapping[str, Any]] = []
        self._patterns: list[str] = []
        self._groups: list[str] = []
        self._stop_reasons: list[str] = []
        self._estimated: list[tuple[int, Mapping[str, float]]] = []

    def add(
        self,
        infos: Sequence[Mapping[str, Any]],
        patterns: Sequence[str],
        groups: Sequence[str],
        stop_reasons: Sequence[str],
        estimated: Mapping[str, float],
    ) -> None:
        """A part, as `batch_metrics` takes it, and what the advantage estimator said of it."""
        self._infos += infos
        self._patterns += patterns
        self._groups += groups
        self._stop_reasons += stop_reasons
        self._estimated.append((len(infos), estimated))

    def metrics(self) -> dict[str, float]:
        """`batch_metrics` of all parts, and the estimator's means over trajectories as `cinema/…`."""
        metrics = batch_metrics(self._infos, self._patterns, self._groups, self._stop_reasons)
        rows = sum(number for number, _ in self._estimated)
        for name in dict.fromkeys(name for _, one in self._estimated for name in one):
            total = sum(number * one[name] for number, one in self._estimated if number)
            metrics[f"cinema/{name}"] = total / rows if rows else float("nan")
        return metrics
