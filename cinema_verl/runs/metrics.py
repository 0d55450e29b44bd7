"""The one reader of the metrics that a run logged with verl's `file` logger, whatever state the file is in.

A run that crashed, or is still going, ends in half a line, and a metric may be NaN. What cannot be read is counted and
reported, and the rest is used.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

_RENAMED: Final = {
    "cinema/dynamic_sampling/all_right": "cinema/dynamic_sampling/solve_all",
    "cinema/dynamic_sampling/all_wrong": "cinema/dynamic_sampling/solve_none",
}
"""Names in files of earlier versions, and what they are called now; names below them ("…/SOURCE") follow."""


@dataclass(frozen=True)
class Metrics:
    """What the `file` logger recorded.

    Attributes:
        steps: (S,) ascending global steps.
        series: name -> (S,) finite values; None where the step did not log it.
        notes: what could not be read.
    """

    steps: tuple[int, ...] = ()
    series: dict[str, list[float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def number(value: Any) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float64
        return None


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, data) of every whole line, in the order of the file; nothing if the run has not made the file yet.

    Raises:
        OSError: the file cannot be read.
    """
    if path.exists():
        with open(path, "rb") as file:
            yield from filter(None, map(_record, file))


def read_metrics(path: Path) -> Metrics:
    """All whole lines; of a step that was logged twice (a resumed run), the last value counts.

    Raises:
        OSError: the file cannot be read.
    """
    by_step: dict[int, dict[str, Any]] = {}
    bad, not_finite = [], set()
    with open(path, "rb") as file:
        for line_number, line in enumerate(file, start=1):
            if (record := _record(line)) is None:
                bad.append(line_number)
                continue
            step, data = record
            by_step.setdefault(step, {}).update(data)
            not_finite |= {name for name, value in data.items() if value is None or _not_finite(value)}

    steps = tuple(sorted(by_step))
    names = dict.fromkeys(name for step in steps for name in by_step[step])
    series = {name: [number(by_step[step].get(name)) for step in steps] for name in names}
    notes = []
    if bad:
        notes.append(f"{path}: {_lines(bad)} not read: no whole record (cut off by a crash, or being written).")
    if not_finite:
        notes.append(f"NaN or infinite at some steps, shown as gaps: {_some(sorted(not_finite))}.")
    if not steps:
        notes.append(f"{path} holds no record.")
    kept = {name: values for name, values in series.items() if any(value is not None for value in values)}
    return Metrics(steps, kept, tuple(notes))


def _record(line: bytes) -> tuple[int, dict[str, Any]] | None:
    """Step and metrics of a line, under the names of today; None if it is no whole record."""
    try:
        record = json.loads(line)  # not orjson: Python writes NaN and Infinity into such files, too
        step, data = record["step"], record["data"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(step, bool) or not isinstance(step, int) or not isinstance(data, dict):
        return None
    return step, {_current(name): value for name, value in data.items()}


@cache
def _current(name: str) -> str:
    for old, new in _RENAMED.items():
        if name == old or name.startswith(f"{old}/"):
            return new + name[len(old) :]
    return name


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"line {shown}" if len(numbers) == 1 else f"{len(numbers)} lines ({shown}{', …' * (len(numbers) > 5)})"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
