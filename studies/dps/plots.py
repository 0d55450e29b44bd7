"""The study's four pictures, drawn from its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

matplotlib.use("svg")

from matplotlib import pyplot as plt

from cinema_verl.evaluate.statistics import mean
from studies.dps.analyse import Decision, Found, Runs
from studies.dps.arms import EXPLORATION

COLOURS: Final = {
    "two_stages": "#0b6e4f",
    "dps": "#7bb662",
    "no_term": "#8a8a8a",
    "dapo": "#c8553d",
    "filter_always": "#e0a030",
    "novelty": "#3b5b92",
    "over_batch": "#7d5ba6",
    "pass_at_4": "#2a9db0",
    "own_scale": "#b05c8a",
}
CURVES: Final = ("two_stages", "dps", "no_term", "dapo", "filter_always")
WINDOW: Final = 7  # steps; a step's entropy is a mean over eight groups and noisy

plt.rcParams.update(
    {
        "svg.hashsalt": "cinema-verl",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "white",
        "legend.frameon": False,
    }
)


def draw(found: Found, directory: Path) -> None:
    """Write `dps_entropy.svg`, `dps_plane.svg`, `dps_differences.svg` and `dps_paths.svg`."""
    for name, figure in (
        ("entropy", _entropy(found.runs)),
        ("plane", _plane(found.runs, found.start)),
        ("differences", _differences(found.primary)),
        ("paths", _paths(found.runs, found.start)),
    ):
        figure.savefig(directory / f"dps_{name}.svg", metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)


def _entropy(runs: Runs) -> Any:
    """Pattern entropy of the trained groups over the steps: means over seeds and 95 % intervals."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8))
    for arm in CURVES:
        if arm not in runs:
            continue
        curves = np.array([[s["group_pattern_entropy"] for s in run["curve"]] for run in runs[arm].values()])
        smooth = np.apply_along_axis(lambda c: np.convolve(c, np.ones(WINDOW) / WINDOW, "valid"), 1, curves)
        steps = np.arange(smooth.shape[1]) + (WINDOW + 1) / 2
        estimates = [mean(column) for column in smooth.T]
        axes.plot(steps, [e.mean for e in estimates], color=COLOURS[arm], label=arm, linewidth=1.8)
        axes.fill_between(
            steps, [e.low for e in estimates], [e.high for e in estimates], color=COLOURS[arm], alpha=0.15, linewidth=0
        )
    axes.axvline(EXPLORATION + 0.5, color="#444444", linewidth=0.8, linestyle=":")
    axes.text(EXPLORATION + 2, axes.get_ylim()[1], "stage 2", va="top", color="#444444")
    axes.set(xlabel="step", ylabel="pattern entropy of the groups trained on (nats)", ylim=(0, None))
    axes.legend(loc="lower left", ncols=2, fontsize=9)
    return figure


def _with_bars(axes: Any, points: Sequence[Mapping[str, Any]], metric: str, **style: Any) -> None:
    x, y = mean([p["pattern_entropy"] for p in points]), mean([p[metric] for p in points])
    axes.errorbar(x.mean, y.mean, xerr=x.high - x.mean, yerr=y.high - y.mean, capsize=2, linestyle="none", **style)


def _plane(runs: Runs, start: Mapping[str, Any]) -> Any:
    """Accuracy against entropy: DAPO's path from the cold start, and where the arms end."""
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2))
    for axes, metric in zip(both, ("pass_1", "pass_8"), strict=True):
        every = list(runs.get("dapo", {}).values())
        stops = [[start], *zip(*(run["path"] for run in every), strict=True)] if every else [[start]]
        if every:
            stops += [[run["exploration"] for run in every], [run["end"] for run in every]]
        x = [np.mean([p["pattern_entropy"] for p in stop]) for stop in stops]
        y = [np.mean([p[metric] for p in stop]) for stop in stops]
        axes.plot(x, y, "-o", color=COLOURS["dapo"], alpha=0.6, markersize=3, label="dapo's path")
        axes.plot(start["pattern_entropy"], start[metric], "k*", markersize=10, label="cold start")
        for arm, of in ((arm, runs[arm]) for arm in COLOURS if arm in runs):  # the other claims' arms: tables alone
            _with_bars(axes, [run["end"] for run in of.values()], metric, color=COLOURS[arm], marker="o", label=arm)
        axes.set(xlabel="pattern entropy (nats)", ylabel=metric.replace("_", "@"))
    both[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def _differences(decisions: Sequence[Decision]) -> Any:
    """Every registered difference with its 95 % interval and what it must exceed."""
    groups = [
        [d for d in decisions if d.claim.metric == "pattern_entropy"],
        [d for d in decisions if d.claim.metric != "pattern_entropy"],
    ]
    figure, both = plt.subplots(
        2, 1, figsize=(8.4, 0.42 * len(decisions) + 1.6), height_ratios=[max(len(g), 1) for g in groups]
    )
    for axes, group, unit in zip(both, groups, ("nats", "accuracy"), strict=True):
        for row, each in enumerate(reversed(group)):
            found = each.estimate
            colour = {"yes": "#0b6e4f", "no": "#c8553d"}.get(each.verdict, "#777777")
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
            axes.plot(found.mean, row, "o", color=colour)
            axes.plot(each.claim.above, row, "|", color="black", markersize=12, markeredgewidth=1.5)
        axes.axvline(0, color="#bbbbbb", linewidth=0.8)
        axes.set_yticks(range(len(group)), [each.claim.name for each in reversed(group)])
        axes.set_xlabel(f"difference, {unit}; the bar is what it must exceed")
    figure.tight_layout()
    return figure


def _paths(runs: Runs, start: Mapping[str, Any]) -> Any:
    """The shares of the paths by kind of question, before and after."""
    arms = [arm for arm in ("two_stages", "no_term", "dapo") if arm in runs]
    sides: list[tuple[str, list[Mapping[str, Any]]]] = [("cold start", [start])]
    sides += [(arm, [run["end"] for run in runs[arm].values()]) for arm in arms]
    shares: list[list[dict[str, float]]] = []
    for _, points in sides:
        shares.append([])
        for task in start["tasks"]:
            found: dict[str, float] = {}
            for point in points:
                for pattern, values in point["tasks"][task]["patterns"].items():
                    found[pattern] = found.get(pattern, 0.0) + values["share"] / len(points)
            shares[-1].append(found)
    total: dict[str, float] = {}
    for side in shares[1:] or shares:
        for share in side:
            for pattern, value in share.items():
                total[pattern] = total.get(pattern, 0.0) + value
    shown = sorted(total, key=total.__getitem__, reverse=True)[:9]
    palette = plt.get_cmap("tab10")
    figure, row = plt.subplots(1, len(sides), figsize=(2.5 * len(sides) + 0.8, 4.2), sharey=True)
    for axes, (name, _), side in zip(np.atleast_1d(row), sides, shares, strict=True):
        left = np.zeros(len(side))
        for colour, pattern in enumerate(shown):
            width = np.array([share.get(pattern, 0.0) for share in side])
            label = pattern.removesuffix(">answer").replace(">", " → ")
            axes.barh(range(len(side)), width, left=left, color=palette(colour), label=label)
            left += width
        axes.barh(range(len(side)), 1 - left, left=left, color="#e4e4e4", label="others")
        axes.set_yticks(range(len(side)), list(start["tasks"]))
        axes.set(title=name, xlim=(0, 1), ylim=(len(side) - 0.5, -0.5), xlabel="share of the responses")
    figure.legend(
        *np.atleast_1d(row)[0].get_legend_handles_labels(), loc="lower center", ncols=5, bbox_to_anchor=(0.5, -0.12)
    )
    figure.tight_layout()
    return figure
