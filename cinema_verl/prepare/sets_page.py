"""One page about the paper-sized sets: what they are made of, what was left out and why, what was chosen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cinema_verl.data.canonical import REASONS
from cinema_verl.prepare.sets import QUESTIONS_OF, Plan, Report
from cinema_verl.utils.files import atomic_write
from cinema_verl.utils.pages import render

PAGE_NAME: Final = "index.html"
JSON_NAME: Final = "summary.json"


def write_page(plan: Plan, report: Report) -> Path:
    """Write ``index.html``, and its numbers as ``summary.json``; returns the page's path."""
    output = plan.output.absolute()
    sources = {name: found for name, found in report.prepared.items() if found["kind"] == "sources"}
    page = render(
        "sets.html",
        title="Sets of the paper's sizes",
        report=report,
        sources=[_line(name, found, report) for name, found in sources.items()],
        benchmarks={name: found for name, found in report.prepared.items() if name not in sources},
        reasons={reason: meaning for reason, meaning in REASONS.items() if _rejected(report, reason)},
        rejected={reason: _rejected(report, reason) for reason in REASONS},
        folders=QUESTIONS_OF,
        output=str(output),
        limit=plan.limit,
        choices=plan.choices,
    )
    with atomic_write(output / JSON_NAME) as file:
        file.write(json.dumps({**asdict(report), "done": None}, ensure_ascii=False, indent=1) + "\n")
    with atomic_write(output / PAGE_NAME) as file:
        file.write(page)
    return output / PAGE_NAME


def _rejected(report: Report, reason: str) -> int:
    return sum(found["reasons"].get(reason, 0) for found in report.prepared.values())


def _line(name: str, found: dict[str, Any], report: Report) -> dict[str, Any]:
    """What became of a source's rows, from the download to the sets."""
    parts = [counts for part, counts in report.clean["by_source"].items() if part.partition("/")[0] == name]
    duplicates = sum(counts.get("duplicate", 0) for counts in parts)
    taken_out = sum(count for counts in parts for reason, count in counts.items() if reason != "read")
    return {
        "name": name,
        **found,
        "duplicates": duplicates,
        "contaminated": taken_out - duplicates,
        "sets": {set_: made["by_source"].get(name, 0) for set_, made in report.sets.items()},
    }
