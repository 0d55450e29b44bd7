"""What preflight found, as JSON values and as lines to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from cinema_verl.checks import host_memory
from cinema_verl.checks.counting import Counting
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.plan import Plan
from cinema_verl.checks.survey import FileSurvey, Survey
from cinema_verl.data.faults import CODES, WARNINGS, Fault

PERCENTILES: Final = (50, 95, 99, 100)
_SHARES_SHOWN: Final = 12  # values of a column in the printed report; all are in the JSON


def summarise(
    plan: Plan, counting: Counting, found: Survey, findings: Sequence[Finding], memory: Any
) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "program": plan.program,
        "model": plan.model,
        "text_counted": counting.counter is not None,
        "limits": {plan.form.limit: plan.limits.tokens, "limit_images": plan.limit_images},
        "ok": not any(finding.ok is False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "files": [_file_summary(plan, file, text_counted=counting.counter is not None) for file in found.files],
        "shares": {column: dict(counts.most_common()) for column, counts in found.shares.items()},
        "problems": {
            code: {"count": found.counts[code], "first": [asdict(problem) for problem in found.examples[code]]}
            for code in CODES
            if code in found.counts
        },
        "host_memory": [asdict(item) for item in memory],
    }


def _file_summary(plan: Plan, file: FileSurvey, *, text_counted: bool) -> dict[str, Any]:
    columns = {"images": file.images, "text_tokens": file.text, "vision_tokens": file.vision, "tokens": file.total}
    shown = [name for name in columns if text_counted or name in ("images", "vision_tokens")]
    over = {"tokens": plan.limits.tokens, "images": plan.limit_images}
    return {
        "split": file.split,
        "path": file.path,
        "rows": file.rows,
        "looked_at": file.seen,
        "with_problems": file.wrong,
        **{name: _percentiles(values) if name in shown and file.seen else None for name, values in columns.items()},
        "over_limit": {
            name: 0 if limit is None else int((np.asarray(columns[name]) > limit).sum()) for name, limit in over.items()
        },
    }


def _percentiles(values: Any) -> dict[str, int]:
    """Of whole numbers, each percentile a value that occurs."""
    points = np.percentile(np.asarray(values), PERCENTILES, method="inverted_cdf")
    return {"max" if p == 100 else f"p{p}": int(value) for p, value in zip(PERCENTILES, points, strict=True)}


def text_report(summary: Mapping[str, Any]) -> str:
    """The report as lines to read."""
    lines = [f"{summary['program']}, {summary['model']}"]
    if not summary["text_counted"]:
        lines.append(
            "Image tokens are ESTIMATES and text is NOT counted: the model is not on this machine (see below)."
        )
    for file in summary["files"]:
        looked = "" if file["looked_at"] == file["rows"] else f", {file['looked_at']:,} looked at"
        lines.append(f"\n{file['split']}: {file['path']}, {file['rows']:,} rows{looked}")
        if not file["looked_at"]:
            continue
        lines.append(f"  {'':<15}" + "".join(f"{name:>9}" for name in file["images"]))
        for name in ("images", "text_tokens", "vision_tokens", "tokens"):
            cells = "".join(f"{value:>9,}" for value in file[name].values()) if file[name] else "  not counted"
            lines.append(f"  {name.replace('_', ' '):<15}{cells}")
        for (limit, value), over in zip(summary["limits"].items(), file["over_limit"].values(), strict=True):
            if value is not None:
                alone = "" if summary["text_counted"] or limit == "limit_images" else " by images alone"
                lines.append(f"  over {limit}={value}{alone}: {over:,} rows ({over / file['looked_at']:.2%})")
    for column, counts in summary["shares"].items():
        lines.append(f"\nby {column}, of the {summary['files'][0]['split']} rows looked at")
        whole = sum(counts.values())
        for value, count in list(counts.items())[:_SHARES_SHOWN]:
            lines.append(f"  {count / whole:>7.2%}  {count:>10,}  {value or '(none)'}")
        if len(counts) > _SHARES_SHOWN:
            lines.append(f"  and {len(counts) - _SHARES_SHOWN} more, in --json")
    if summary["host_memory"]:
        lines.append("\nhost memory for the mean row, all nodes together (beside models, engines and Ray)")
        for item in summary["host_memory"]:
            lines.append(f"  {host_memory.size(item['bytes']):>13}  {item['what']}: {item['formula']}")
    for code, problem in summary["problems"].items():
        kind = " (a warning)" if code in WARNINGS else ""
        lines.append(f"\n{code}: {problem['count']:,}{kind}")
        lines += [f"  {Fault(**first)}" for first in problem["first"]]
        if problem["count"] > len(problem["first"]):
            lines.append(f"  and {problem['count'] - len(problem['first']):,} more")
    lines.append("")
    lines += [str(Finding(**finding)) for finding in summary["findings"]]
    lines.append("\n" + ("The run would get through its data." if summary["ok"] else "The run would fail."))
    return "\n".join(lines)
