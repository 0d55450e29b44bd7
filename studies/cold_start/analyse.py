"""From the records to tables and decisions: what README.md registers, computed with the other study's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from studies.cold_start.data import ARMS
from studies.dps.analyse import (
    Claim,
    Decision,
    Runs,
    decide,
    decisions_table,
    published,
    row,
    share_in_exploration,
    with_interval,
    with_tables,
)

BEGIN: Final = "<!-- below: made by `python -m studies.cold_start analyse --docs docs/science.md` -->"
END: Final = "<!-- above: made by that command -->"


def _claims(at: str) -> tuple[Claim, ...]:
    pairs = (
        ("two before one, drafts varied", "least_similar", "one_path"),
        ("two before one, drafts alike", "habit_two", "habit_one"),
        ("one before chain of thought", "one_path", "chain_of_thought"),
    )
    return tuple(
        Claim(f"{name}: {metric.replace('_', '@')}", arm, control, at, metric)
        for name, arm, control in pairs
        for metric in ("pass_1", "pass_8")
    )


FAMILIES: Final[Mapping[str, tuple[Claim, ...]]] = {
    "Two trajectories, one, a chain of thought, after the cold start": _claims("cold_start"),
    "The same after both stages of reinforcement learning": _claims("end"),
    "The second path, after the cold start": tuple(
        Claim(f"least similar before {name}: {shown}", "least_similar", control, "cold_start", metric)
        for name, control in (("most similar", "most_similar"), ("random", "random_second"))
        for metric, shown in (("pass_1", "pass@1"), ("pass_8", "pass@8"), ("pattern_entropy", "entropy"))
    ),
}
"""Claims by what they are corrected together with."""


def runs_at(found: Sequence[Mapping[str, Any]], point: str) -> Runs:
    """Arm to seed to its records that have been measured at a point, "cold_start" or "end"."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {arm: {} for arm in ARMS}
    for record in found:
        for arm, run in record["arms"].items():
            if point in run:
                runs[arm][record["seed"]] = run
    return {arm: by_seed for arm, by_seed in runs.items() if by_seed}


def decisions(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Decision]]:
    """All families of claims, decided."""
    return {name: decide(claims, runs_at(found, claims[0].at), {}) for name, claims in FAMILIES.items()}


def arms_table(runs: Runs, point: str, start: Mapping[str, Any] | None = None) -> str:
    """Means over seeds with the half-width of 95 % t-intervals, and before them the point that all began from."""
    trained = point == "end"
    head = ["arm", "seeds", "pass@1", "pass@8", "greedy", "format", "entropy"]
    names = ("pass_1", "pass_8", "greedy", "format", "pattern_entropy")
    head += ["term's share in stage 1"] * trained
    lines = [row(head), row(["---"] * len(head))]
    if start:
        lines.append(row(["backbone", "", *(f"{start[name]:.3f}" for name in names)]))
    for arm, by_seed in runs.items():
        cells = [with_interval([run[point][name] for run in by_seed.values()]) for name in names]
        if trained:
            cells.append(f"{share_in_exploration(list(by_seed.values())):.2f}")
        lines.append(row([f"`{arm}`", str(len(by_seed)), *cells]))
    return "\n".join(lines)


def paths_table(runs: Runs) -> str:
    """What the arms learnt from and what they then do: entropy and commonest paths of the rows and of the policy."""
    head = ["arm", "entropy of its rows", "commonest in its rows", "commonest in its responses"]
    lines = [row(head), row(["---"] * len(head))]
    for arm, by_seed in runs.items():
        learnt = _mean_shares([run["rows"]["share"] for run in by_seed.values()])
        tasks = [task for run in by_seed.values() for task in run["cold_start"]["tasks"].values()]
        said = _mean_shares(
            [{_shown(path): each["share"] for path, each in task["patterns"].items()} for task in tasks]
        )
        entropy = np.mean([run["rows"]["entropy"] for run in by_seed.values()])
        lines.append(row([f"`{arm}`", f"{entropy:.2f}", _commonest(learnt), _commonest(said)]))
    return "\n".join(lines)


def _mean_shares(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
    mean: dict[str, float] = {}
    for shares in of:
        for path, share in shares.items():
            mean[path] = mean.get(path, 0.0) + share / len(of)
    return mean


def _commonest(shares: Mapping[str, float], most: int = 3) -> str:
    common = sorted(shares, key=lambda path: (-shares[path], path))[:most]
    return ", ".join(f"{path.replace('>', ' → ')} {shares[path]:.2f}" for path in common)


def _shown(pattern: str) -> str:
    whole = pattern.removesuffix(">answer")
    return whole if whole != pattern else f"{pattern or 'nothing'} (no answer)"


def tables(start: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> str:
    """All tables, as Markdown."""
    cold, end = runs_at(found, "cold_start"), runs_at(found, "end")
    parts = ["### After the cold start", arms_table(cold, "cold_start", start)]
    if end:
        parts += ["### After reinforcement learning", arms_table(end, "end")]
    for name, decided in decisions(found).items():
        if decided:
            parts += [f"### {name}", decisions_table(decided)]
    parts += ["### What was learnt", paths_table(cold)]
    minutes = sum(record["cpu_seconds"] for record in found) / 60
    return "\n\n".join([*parts, f"All these runs together: {minutes:.0f} CPU minutes."]) + "\n"


def analyse(directory: Path, docs: Path | None) -> str:
    """The tables of the published records, into their folder or into a page."""
    made = tables(*published(directory))
    if docs is None:
        (directory / "tables.md").write_text(made, encoding="utf-8")
    else:
        docs.write_text(with_tables(docs.read_text(encoding="utf-8"), made, (BEGIN, END)), encoding="utf-8")
    return made
