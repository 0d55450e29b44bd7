"""The report as one HTML file, which holds everything that its script needs and loads nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from markupsafe import Markup

from cinema_verl.meta_action import ACTIONS, PATTERN_MODES
from cinema_verl.report.groups import GroupPlace, Pictures, choose, places
from cinema_verl.report.summarise import (
    PANELS,
    RolloutCounts,
    bins,
    complete,
    count,
    overview,
    rollout_statistics,
    stages,
    thin,
)
from cinema_verl.runs.conditions import TRUE
from cinema_verl.runs.locate import RunFiles
from cinema_verl.runs.metrics import Metrics, number, read_metrics
from cinema_verl.runs.rollouts import read_leniently, step_files
from cinema_verl.runs.stages import planned
from cinema_verl.utils.native_reasoning import KEY, VIOLATION
from cinema_verl.utils.pages import json_for_script, render

MAX_NAMES: Final = 2000
"""Metrics in the page. Our choice: verl logs about 150, and about 100 for each data source of a validation."""

MEANINGS: Final = {
    "unclosed_tag": "a tag that is never closed",
    "stray_closing_tag": "a closing tag with nothing open",
    "nested_tag": "an action inside an action",
    "upper_case_tag": "a tag that is not in lower case",
    "text_outside": "text outside the actions",
    "empty_body": "an action without text",
    "no_action": "no action besides the answer",
    "starts_with_answer": "the answer comes first",
    "no_answer": "no closed answer",
    "several_answers": "more than one answer",
    "answer_not_last": "something follows the answer",
    "global_on_single_image": "global over one image",
    "removed_action": "an action that was taken away",
    VIOLATION: "reasoning of the model's own",
}
"""The codes of `cinema_verl.meta_action.ViolationCode`, and the reward's own, in words."""

_SCRIPTS: Final = ("dom.js", "chart.js", "curves.js", "patterns.js", "groups.js", "main.js")


@dataclass(frozen=True)
class Run:
    """One run, read and counted. Its groups are chosen later, when it is known how much room is left in the page."""

    files: RunFiles
    metrics: Metrics
    mix: RolloutCounts
    groups: list[list[GroupPlace]]
    pattern_mode: str
    notes: list[str]


def read_run(files: RunFiles) -> Run:
    """Read a run, except for the texts of its rollouts and its questions.

    Raises:
        OSError: a file is gone since it was located, or cannot be read.
    """
    notes = list(files.notes)
    metrics = read_metrics(files.metrics) if files.metrics else Metrics()
    notes += metrics.notes
    mode = files.setting("cinema.pattern_mode") or "exact"
    if mode not in PATTERN_MODES:
        notes.append(
            f"cinema.pattern_mode={mode!r} is none of {', '.join(PATTERN_MODES)}: patterns are compared exactly."
        )
        mode = "exact"

    counts, statistics, groups, cut = {}, {}, [], []
    found = step_files(files.rollouts) if files.rollouts else []
    reached = max(metrics.steps, default=math.inf) + 1  # a step's rollouts are written before its metrics
    if stale := [step for step, _ in found if step > reached]:
        which = f"step {stale[0]}" if len(stale) == 1 else f"{len(stale)} steps, {stale[0]} to {stale[-1]},"
        notes.append(
            f"Rollouts of {which} left out: the metrics end at step {reached - 1}, so they are of another run, or of "
            "this one before it was resumed from an earlier step."
        )
    for step, path in found[: len(found) - len(stale)]:
        rollouts, bad = read_leniently(path)
        if bad:
            cut.append(f"{path.name} ({bad})")
        if rollouts:
            counts[step] = count(rollouts)
            statistics[step] = rollout_statistics([r for r in rollouts if r.condition == TRUE], mode)
            groups.append(places(step, path, rollouts))
    if cut:
        notes.append(
            f"{files.rollouts}: lines that are not rollouts (cut off by a crash, or being written) are left out: "
            f"{', '.join(cut[:5])}{f' and {len(cut) - 5} more files' if len(cut) > 5 else ''}."
        )
    metrics, added = complete(metrics, {} if files.from_validation and metrics.steps else statistics)
    if added and files.metrics:
        notes.append(f"Not among the metrics, so counted from the rollouts: {', '.join(sorted(added))}.")
    has = {panel.title for panel in PANELS for line in panel.lines if metrics.series.keys() & set(line.metrics)}
    missing = [panel.title for panel in PANELS if panel.title not in has and not panel.optional]
    if missing:
        notes.append(f"No metric for: {', '.join(missing)}.")
    return Run(files, metrics, RolloutCounts.of(counts), groups, mode, notes)


def build(runs: Sequence[Run], max_bytes: int) -> tuple[str, list[str]]:
    """The page for one run or two, and all notes, each with the run's name before it.

    Args:
        max_bytes: largest size of the page; only curves and counts may make it larger.
    """
    fixed = [_fixed(run) for run in runs]
    notes = [(run.files.name, note) for run in runs for note in [*run.notes, *_shortened(run)]]
    panels = [panel._asdict() | {"lines": [line._asdict() for line in panel.lines]} for panel in PANELS]
    head = {"actions": ACTIONS, "meanings": MEANINGS, "panels": panels}
    frame = _html(runs, head | {"runs": fixed, "images": []}, notes)
    room = max_bytes - len(frame.encode(errors="replace")) - 4096  # our choice: for notes to come, and commas
    pictures = Pictures()
    smallest_first = sorted(
        range(len(runs)), key=lambda i: sum(map(len, runs[i].groups))
    )  # leaves more room for the other
    for place, i in enumerate(smallest_first):
        run = runs[i]
        logged = run.metrics.series.get("cinema/diversity_coefficient", [None] * len(run.metrics.steps))
        coefficients = {step: c for step, c in zip(run.metrics.steps, logged, strict=True) if c is not None}
        budget = room // (len(runs) - place)
        shown = choose(run.groups, run.files.data, run.mix, run.pattern_mode, coefficients, pictures, budget)
        room -= shown.size
        fixed[i] |= {"groups": shown.groups, "questions": shown.questions}
        notes += [(run.files.name, note) for note in shown.notes]
    if pictures.failed:
        path, why = next(iter(pictures.failed.items()))
        notes.append(("", f"{len(pictures.failed)} pictures cannot be read and are missing, the first {path}: {why}."))
    page = _html(runs, head | {"runs": fixed, "images": pictures.uris}, notes)
    page = page.encode(errors="replace").decode()  # lone surrogates, which JSON may hold and UTF-8 may not
    return page, [f"{name}: {note}" if name else note for name, note in notes]


def _fixed(run: Run) -> dict[str, Any]:
    """Everything of a run except its groups, for the script."""
    steps = run.metrics.steps
    spans = bins(steps)
    named = {name for panel in PANELS for line in panel.lines for name in line.metrics}
    names = sorted(run.metrics.series, key=lambda name: (name not in named, name.startswith("val-aux/"), name))
    return {
        "name": run.files.name,
        "steps": [steps[span[-1]] for span in spans],
        "series": {name: _sparse(thin(run.metrics.series[name], spans)) for name in names[:MAX_NAMES]},
        "stages": stages(run.metrics, planned(run.files)),
        "mix": run.mix.as_json(),
        "validation": run.files.from_validation,
        "groupsPerStep": [[places[0].step, len(places)] for places in run.groups],
        "total": {
            "groups": sum(map(len, run.groups)),
            "rollouts": sum(counts.total() for counts in run.mix.counts),
        },
        "groups": [],
        "questions": [],
    }


def _shortened(run: Run) -> list[str]:
    """Notes about metrics and steps that are too many for the page."""
    steps, names = run.metrics.steps, run.metrics.series
    notes = []
    if len(names) > MAX_NAMES:
        notes.append(f"{len(names) - MAX_NAMES} of {len(names)} metrics are left out, the last in the alphabet.")
    if len(spans := bins(steps)) < len(steps):
        notes.append(f"Curves show means over {len(spans[0])} neighbouring steps: the run has {len(steps)}.")
    return notes


def _sparse(values: list[float | None]) -> list[Any]:
    """The values; where most steps have none, as with validations, [indices, values] of the others."""
    places = [i for i, value in enumerate(values) if value is not None]
    return values if 2 * len(places) > len(values) else [places, [values[i] for i in places]]


def _facts(run: Run) -> list[tuple[str, str]]:
    """The facts of the overview that are known."""
    ask, steps = run.files.setting, run.metrics.steps
    trained = [step for step in steps if step > 0]
    plan = planned(run.files)
    total = ask("trainer.total_training_steps")
    if total is None and plan:
        total = plan.total_steps
    reached = f"{max(trained, default=0)}"
    if isinstance(total, int):
        reached += f" of {total}" + ("" if max(trained, default=0) >= total else " (going on, stopped or crashed)")
    seconds = sorted(v for v in map(number, run.metrics.series.get("timing_s/step", ())) if v is not None)
    facts = {
        "Steps": reached,
        "Command": " ".join(argument for argument in run.files.overrides if "recipe=" in argument),
        "Model": ask("actor_rollout_ref.model.path"),
        "Estimator": ask("algorithm.adv_estimator"),
        "Prompts a step": ask("data.train_batch_size"),
        "Rollouts a prompt": ask("actor_rollout_ref.rollout.n"),
        "Reasoning of its own": _native_reasoning(run),
        "Stages": "; ".join(str(stage) for stage, _, _ in plan.spans()) if plan else None,
        "Seconds a step": f"{seconds[len(seconds) // 2]:.3g} (median)" if seconds else None,
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _native_reasoning(run: Run) -> str | None:
    """What is declared of it where it is not none, and how much there was."""
    declared = run.files.setting(KEY)
    if declared in (None, "none"):
        return None
    shares = [share for share in run.metrics.series.get("cinema/native_reasoning", ()) if share is not None]
    return f"{declared}" + (f", in {sum(shares) / len(shares):.1%} of rollouts" if shares else "")


def _html(runs: Sequence[Run], data: Mapping[str, Any], notes: Sequence[tuple[str, str]]) -> str:
    names = [run.files.name for run in runs]
    facts = [dict(_facts(run)) for run in runs]
    return render(
        "report.html",
        title="Run report: " + " and ".join(names),
        names=names,
        facts=[(name, [one.get(name, "–") for one in facts]) for name in dict.fromkeys(n for f in facts for n in f)],
        overview=overview([run.metrics.series for run in runs]),
        notes=notes,
        data=json_for_script(data),
        css=_asset("report.css"),
        scripts=Markup("\n").join(map(_asset, _SCRIPTS)),
    )


@lru_cache
def _asset(name: str) -> Markup:
    """One of the page's own files, verbatim."""
    return Markup(files("cinema_verl").joinpath("report", "assets", name).read_text(encoding="utf-8"))
