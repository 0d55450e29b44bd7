"""From the records to tables, decisions and plots: what README.md registers, computed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cinema_verl.evaluate.statistics import Estimate, mean
from cinema_verl.utils.files import atomic_write
from studies.dps import records
from studies.dps.arms import EXPLORATION, OTHER_CLAIMS, OURS, REMOVED, REPLICATION
from studies.dps.records import PROPERTIES, THROUGH_VERL

Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm to seed to what was recorded of it."""

RECORDS: Final = "records.jsonl.gz"
ALPHA: Final = 0.05
MARGIN: Final = 0.02  # of non-inferiority in pass@1, and of superiority for an arm of ours; registered
ARMS_IN_ORDER: Final = ("two_stages", "no_term", "dps", "dapo", "filter_always", *OURS, *OTHER_CLAIMS)


def by_arm(found: Sequence[Mapping[str, Any]]) -> Runs:
    """Records of units as runs of arms."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in found:
        for arm, run in record["arms"].items():
            runs.setdefault(arm, {})[record["seed"]] = run
    return {arm: runs[arm] for arm in ARMS_IN_ORDER if arm in runs}


@dataclass(frozen=True)
class Claim:
    """One registered comparison of two arms, paired by seed.

    Attributes:
        name: as in README.md.
        arm, control: whose difference it is.
        at: the arm's point, "exploration" or "end".
        metric: of the measurement; or "path_pass_1", "path_pass_8", the height above DAPO's path.
        above: the claim is that the mean difference is larger than this.
        control_at: the control's point, where it is another.
    """

    name: str
    arm: str
    control: str
    at: str
    metric: str
    above: float = 0.0
    control_at: str | None = None


PRIMARY: Final = (
    Claim("entropy after stage 1, against the control", "two_stages", "no_term", "exploration", "pattern_entropy"),
    Claim("entropy after stage 1, against DAPO", "two_stages", "dapo", "exploration", "pattern_entropy"),
    Claim("entropy at the end, against the control", "two_stages", "no_term", "end", "pattern_entropy"),
    Claim("entropy at the end, against DAPO", "two_stages", "dapo", "end", "pattern_entropy"),
    Claim("pass@1 not inferior to the control", "two_stages", "no_term", "end", "pass_1", -MARGIN),
    Claim("pass@1 not inferior to DAPO", "two_stages", "dapo", "end", "pass_1", -MARGIN),
    Claim("pass@1 not inferior to DAPO of as many groups", "two_stages", "dapo", "end", "pass_1", -MARGIN, "stopped"),
    Claim("pass@8 superior to the control", "two_stages", "no_term", "end", "pass_8"),
    Claim("pass@8 superior to DAPO", "two_stages", "dapo", "end", "pass_8"),
    Claim("pass@8 superior to DAPO of as many groups", "two_stages", "dapo", "end", "pass_8", 0.0, "stopped"),
    Claim("pass@1 above DAPO's path", "two_stages", "dapo", "end", "path_pass_1"),
    Claim("pass@8 above DAPO's path", "two_stages", "dapo", "end", "path_pass_8"),
)

SECONDARY: Final = (
    Claim("filter in both stages: entropy after stage 1", "filter_always", "dapo", "exploration", "pattern_entropy"),
    Claim("filter in both stages: pass@8", "filter_always", "dapo", "end", "pass_8"),
    Claim("stage 2 wins pass@1 over DPS throughout", "two_stages", "dps", "end", "pass_1"),
    *(
        Claim(f"{arm}: {metric} above DAPO's path by {MARGIN}", arm, "dapo", "end", f"path_{metric}", MARGIN)
        for arm in OURS
        for metric in ("pass_1", "pass_8")
    ),
)


OTHER: Final = (
    Claim("annealing instead of a step: pass@1", "two_stages", "step", "end", "pass_1"),
    Claim("annealing instead of a step: pass@8", "two_stages", "step", "end", "pass_8"),
    Claim("annealing instead of a step: entropy", "two_stages", "step", "end", "pattern_entropy"),
    *(Claim(f"{arm.replace('_', ' ')} costs pass@1", "two_stages", arm, "end", "pass_1") for arm in REMOVED),
)

REPLICATED: Final = (
    Claim(f"novelty: pass@1 above DAPO's path by {MARGIN}", "novelty", "dapo", "end", "path_pass_1", MARGIN),
    Claim("novelty: pass@1 not inferior to DAPO", "novelty", "dapo", "end", "pass_1", -MARGIN),
    Claim("novelty: pass@8 superior to DAPO", "novelty", "dapo", "end", "pass_8"),
)


@dataclass(frozen=True)
class Decision:
    """A claim with what was found: differences' mean with its 95 % t-interval, one-sided p, and the verdict."""

    claim: Claim
    seeds: int
    estimate: Estimate
    p: float
    verdict: str = ""


def path_height(dapo: Mapping[str, Any], start: Mapping[str, Any], point: Mapping[str, Any], metric: str) -> float:
    """How far a point lies above DAPO's own path, in `metric`, at the point's pattern entropy.

    The path is a polygon through the cold start and the measured steps of the same seed's DAPO run, ordered by entropy;
    outside of its entropies it stays what it is at the end.
    """
    points = [start, *dapo["path"], dapo["exploration"], dapo["end"]]
    points = sorted(points, key=lambda each: each["pattern_entropy"])
    along = np.interp(
        point["pattern_entropy"], [each["pattern_entropy"] for each in points], [each[metric] for each in points]
    )
    return float(point[metric] - along)


def differences(claim: Claim, runs: Runs, start: Mapping[str, Any]) -> list[float]:
    """One difference a seed that both arms have."""
    both = sorted(runs.get(claim.arm, {}).keys() & runs.get(claim.control, {}).keys())
    found = []
    for seed in both:
        point, control = runs[claim.arm][seed][claim.at], runs[claim.control][seed]
        if claim.metric.startswith("path_"):
            found.append(path_height(control, start, point, claim.metric.removeprefix("path_")))
        else:
            found.append(point[claim.metric] - control[claim.control_at or claim.at][claim.metric])
    return found


def holm(p: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which hypotheses Holm's procedure rejects: the least p against alpha / m, the next against alpha / (m - 1) …"""
    rejected = [False] * len(p)
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[place] > alpha / (len(p) - rank):
            break
        rejected[place] = True
    return rejected


def decide(claims: Sequence[Claim], runs: Runs, start: Mapping[str, Any]) -> list[Decision]:
    """All claims of a family, with Holm's correction over it.

    "yes" where the corrected one-sided t-test rejects that the difference is at most `above`; "no" where the 95 %
    interval lies below it altogether; else "undecided".
    """
    from scipy import stats

    found = []
    for claim in claims:
        values = differences(claim, runs, start)
        if len(values) < 3:
            continue
        p = float(stats.ttest_1samp(values, claim.above, alternative="greater").pvalue)
        found.append((claim, values, p))
    rejected = holm([p for _, _, p in found])
    decisions = []
    for (claim, values, p), yes in zip(found, rejected, strict=True):
        estimate = mean(values)
        verdict = "yes" if yes else "no" if estimate.high < claim.above else "undecided"
        decisions.append(Decision(claim, len(values), estimate, p, verdict))
    return decisions


# --- Tables --------------------------------------------------------------------------------------------------------


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def with_interval(values: Sequence[float], digits: int = 3) -> str:
    """A mean over seeds, and half of its 95 % t-interval."""
    found = mean(values)
    return (
        f"{found.mean:.{digits}f}\u00a0±\u00a0{found.high - found.mean:.{digits}f}"
        if len(values) > 1
        else f"{found.mean:.3f}"
    )


def share_in_exploration(runs: Sequence[Mapping[str, Any]]) -> float:
    """The mean share of the advantages that the diversity term made in the steps of stage 1."""
    return float(np.mean([np.mean([step["share"] for step in run["curve"][:EXPLORATION]]) for run in runs]))


def arms_table(runs: Runs, start: Mapping[str, Any]) -> str:
    """What every arm ended as: means over seeds with the half-width of 95 % t-intervals."""
    head = ["arm", "seeds", "pass@1", "pass@8", "greedy", "format", "entropy after stage 1", "entropy at the end",
            "term's share in stage 1", "groups generated"]  # fmt: skip
    lines = [row(head), row(["---"] * len(head))]
    first = [f"{start[name]:.3f}" for name in ("pass_1", "pass_8", "greedy", "format", "pattern_entropy")]
    lines.append(row(["cold start", "", *first, "", "", ""]))

    def add(name: str, of: Sequence[Mapping[str, Any]], explored: Sequence[str], share: str) -> None:
        cells = [with_interval([p[metric] for p in of]) for metric in ("pass_1", "pass_8", "greedy", "format")]
        entropy = with_interval([p["pattern_entropy"] for p in of], 2)
        groups = f"{np.mean([p['generated'] for p in of]):.0f}"
        lines.append(row([name, str(len(of)), *cells, *explored, entropy, share, groups]))

    for arm, by_seed in runs.items():
        every = [by_seed[seed] for seed in sorted(by_seed)]
        explored = with_interval([run["exploration"]["pattern_entropy"] for run in every], 2)
        add(f"`{arm}`", [run["end"] for run in every], [explored], f"{share_in_exploration(every):.2f}")
        if stopped := [run["stopped"] for run in every if "stopped" in run]:
            add(f"`{arm}`, stopped at `two_stages`' groups", stopped, [""], "")
    return "\n".join(lines)


def decisions_table(decisions: Sequence[Decision]) -> str:
    """The claims of a family and what became of them."""
    head = ["claim", "seeds", "difference [95 %]", "must exceed", "p, one-sided", "holds"]
    lines = [row(head), row(["---"] * len(head))]
    for each in decisions:
        value = f"{each.estimate.mean:+.3f} [{each.estimate.low:+.3f}, {each.estimate.high:+.3f}]"
        lines.append(
            row([each.claim.name, str(each.seeds), value, f"{each.claim.above:+.2f}", f"{each.p:.2g}", each.verdict])
        )
    return "\n".join(lines)


def paths_table(runs: Runs, start: Mapping[str, Any], arms: Sequence[str] = ("two_stages", "dapo")) -> str:
    """By kind of question: the commonest path and its share before and after, and accuracy."""
    head = ["question", "cold start", *(f"`{arm}`, end" for arm in arms)]
    lines = [row(head), row(["---"] * len(head))]

    def cell(of: Sequence[Mapping[str, Any]]) -> str:
        share: dict[str, float] = {}
        for point in of:
            for pattern, values in point["patterns"].items():
                share[pattern] = share.get(pattern, 0.0) + values["share"] / len(of)
        common = max(share, key=share.__getitem__)
        shown = common.removesuffix(">answer").replace(">", " → ")
        right = f"{np.mean([p['pass_1'] for p in of]):.2f} / {np.mean([p['pass_8'] for p in of]):.2f}"
        return f"{right}, {shown} {share[common]:.2f}"

    for task in start["tasks"]:
        ends = [[run["end"]["tasks"][task] for run in runs[arm].values()] for arm in arms if arm in runs]
        lines.append(row([task, cell([start["tasks"][task]]), *map(cell, ends)]))
    return "\n".join(lines)


def confirmed_table(confirmed: Sequence[Mapping[str, Any]], runs: Runs) -> str:
    """Runs through verl beside the loop's of the same seed: pass@1, pass@8, entropy, and how they differ."""
    head = ["arm", "seed", "after stage 1: verl", "loop", "at the end: verl", "loop"]
    lines = [row(head), row(["---"] * len(head))]

    def cell(point: Mapping[str, Any]) -> str:
        return f"{point['pass_1']:.3f} / {point['pass_8']:.3f} / {point['pattern_entropy']:.2f}"

    pairs = [(arm, r["seed"], run, runs[arm][r["seed"]]) for r in confirmed for arm, run in r["arms"].items()]
    for arm, seed, verls, loops in sorted(pairs, key=lambda pair: (ARMS_IN_ORDER.index(pair[0]), pair[1])):
        cells = [cell(of[at]) for at in ("exploration", "end") for of in (verls, loops)]
        lines.append(row([f"`{arm}`", str(seed), *cells]))
    said = []
    for metric in ("pass_1", "pass_8", "pattern_entropy") if len(pairs) > 1 else ():
        found = mean([verls["end"][metric] - loops["end"][metric] for _, _, verls, loops in pairs])
        said.append(f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] of {metric}")
    return "\n".join(lines) + (
        "\n\nverl less loop at the end, over these runs: " + ", ".join(said) + "." if said else ""
    )


BEGIN: Final = "<!-- below: made by `python -m studies.dps analyse --docs docs/science.md` -->"
END: Final = "<!-- above: made by it -->"


@dataclass(frozen=True)
class Found:
    """The study as its records have it: what the cold start is like, the runs, and what was decided."""

    start: Mapping[str, Any]
    runs: Runs
    primary: list[Decision]
    secondary: list[Decision]
    other: list[Decision]
    again: Runs
    replicated: list[Decision]
    confirmed: list[Mapping[str, Any]]
    cpu_minutes: float

    @classmethod
    def of(cls, start: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Found:
        """From the properties and the records."""
        confirmed = [record for record in found if record["unit"].startswith(THROUGH_VERL)]
        in_loop = [record for record in found if not record["unit"].startswith(THROUGH_VERL)]
        again = by_arm([record for record in in_loop if record["unit"] == REPLICATION])
        runs = by_arm([record for record in in_loop if record["unit"] != REPLICATION])
        primary, secondary, other = (decide(claims, runs, start) for claims in (PRIMARY, SECONDARY, OTHER))
        replicated = decide(REPLICATED, again, start)
        minutes = sum(record["cpu_seconds"] for record in in_loop) / 60
        return cls(start, runs, primary, secondary, other, again, replicated, confirmed, minutes)

    def tables(self) -> str:
        """As Markdown."""
        parts = ["### Arms", arms_table(self.runs, self.start)]
        families = {
            "Primary claims": self.primary,
            "Secondary claims": self.secondary,
            "The paper's other claims": self.other,
        }
        for name, decisions in families.items():
            if decisions:
                parts += [f"### {name}", decisions_table(decisions)]
        if self.again:
            parts += ["### The replication", arms_table(self.again, self.start), decisions_table(self.replicated)]
        if self.confirmed:
            parts += ["### Through verl itself", "pass@1 / pass@8 / pattern entropy of the same seed:"]
            parts += [confirmed_table(self.confirmed, self.runs)]
        parts += ["### Paths", "pass@1 / pass@8, the commonest path and its share:"]
        parts += [paths_table(self.runs, self.start), f"All runs of the loop: {self.cpu_minutes:.0f} CPU minutes."]
        return "\n\n".join(parts) + "\n"


def with_tables(page: str, tables: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """A page with the tables between its marks.

    Raises:
        ValueError: if the page lacks them.
    """
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"the page lacks the lines {marks[0]} and {marks[1]}")
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def published(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Properties and records as `publish` left them."""
    with gzip.open(directory / RECORDS, "rt", encoding="utf-8") as file:
        return json.loads((directory / PROPERTIES).read_text()), [json.loads(line) for line in file]


def publish(output: Path, directory: Path) -> None:
    """Copy properties and records, seeds in order and curves to four digits, to where the repository keeps them."""
    found = records.read(sorted(output.glob(records.FILES)))
    found.sort(key=lambda record: (record["seed"], record["unit"]))
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / PROPERTIES) as file:
        file.write((output / PROPERTIES).read_text())
    lines = "".join(json.dumps(_rounded(record), sort_keys=True) + "\n" for record in found)
    with atomic_write(directory / RECORDS, "wb") as packed:
        packed.write(gzip.compress(lines.encode(), mtime=0))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def analyse(directory: Path, docs: Path | None) -> Found:
    """Tables and plots of the published records into their folder, or into a page and the folder `img` beside it."""
    from studies.dps.plots import draw

    found = Found.of(*published(directory))
    if docs is None:
        (directory / "tables.md").write_text(found.tables(), encoding="utf-8")
        draw(found, directory)
    else:
        page = with_tables(docs.read_text(encoding="utf-8"), found.tables())
        docs.write_text(page, encoding="utf-8")
        draw(found, docs.parent / "img")
    return found
