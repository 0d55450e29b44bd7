"""An evaluation's summary as tables, in Markdown and as a self-contained page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cinema_verl.evaluate.paper import COLUMNS, ROWS, column_of
from cinema_verl.utils.pages import render

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of text, with a note for its reader."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, which are aligned to the right."""
        return column > 0 and all(row[column][:1] in "–-0123456789" for row in self.rows)

    def bar(self, column: int, cell: str) -> dict[str, float] | None:
        """Where to draw mean, low, high and zero of a cell made by `estimate`, in percent of the bar's width.

        A bar goes from 0 to 100, or from -100 if an interval of its column begins below 0. None for any other cell.
        """
        if (ends := _ends(cell)) is None:
            return None
        below = any(others[1] < 0 for row in self.rows if (others := _ends(row[column])))
        mean, low, high, zero = ((end + 100) / 2 if below else end for end in (*ends, 0.0))
        return {"mean": mean, "low": low, "high": high, "zero": zero}

    def to_markdown(self) -> str:
        """The table in Markdown. Cells are escaped: names of tasks and patterns come from data."""
        alignment = ("---:" if self.numeric(column) else "---" for column in range(len(self.header)))
        rows = [self.header, tuple(alignment), *self.rows]
        lines = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
        return "\n\n".join(part for part in (f"## {self.title}", "\n".join(lines), self.note) if part) + "\n"


_ESTIMATE: Final = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")


def _ends(cell: str) -> tuple[float, ...] | None:
    """Mean, low and high of a cell made by `estimate`; None for any other."""
    found = _ESTIMATE.fullmatch(cell)
    return tuple(map(float, found.groups())) if found else None


def _escaped(text: str) -> str:
    for found, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("](", "]&#40;"), ("\n", " ")):
        text = text.replace(found, entity)
    return text


def estimate(value: Mapping[str, float | None] | None, scale: float = 100) -> str:
    """`64.1 [61.0, 67.1]`, in percent; a dash where the mean is unknown."""
    if value is None or value["mean"] is None:
        return "–"
    if value["low"] is None or value["high"] is None:
        return f"{value['mean'] * scale:.1f}"
    return f"{value['mean'] * scale:.1f} [{value['low'] * scale:.1f}, {value['high'] * scale:.1f}]"


def tables(summary: Summary, name: str = "this run") -> list[Table]:
    """All tables of an evaluation, the most important first."""
    found = [beside_the_paper([(name, summary)]), overview(summary)]
    found += [_pass_at_k(summary), _image_dependence(summary)]
    for part, title in (("task", "task"), ("ability", "ability"), ("answer_type", "answer type"), ("images", "images")):
        found.append(_split(summary, part, title))
    return [table for table in (*found, _patterns(summary)) if table.rows]


def beside_the_paper(runs: Sequence[tuple[str, Summary]]) -> Table:
    """Accuracy of one or several runs below the paper's rows; benchmarks that it does not have come last."""
    benchmarks = dict.fromkeys(benchmark for _, summary in runs for benchmark in summary["benchmarks"])
    ours = {benchmark: column_of(benchmark) or benchmark for benchmark in benchmarks}
    columns = [column for column in COLUMNS if column in ours.values()]
    extra = [column for column in dict.fromkeys(ours.values()) if column not in COLUMNS]
    rows = [
        (f"{label} (paper)", *("–" if (v := values[COLUMNS.index(c)]) is None else f"{v:.1f}" for c in columns))
        + ("–",) * len(extra)
        for label, values in ROWS.items()
        if columns
    ]
    for label, summary in runs:
        cells = {ours[benchmark]: part.get("accuracy") for benchmark, part in summary["benchmarks"].items()}
        rows.append((label, *(estimate(cells.get(column)) for column in (*columns, *extra))))
    note = "Accuracy in percent with 95 % intervals over questions. " + (
        'Rows marked "(paper)" are from notes of arXiv 2601.07298, whose prompts and sampling are not public.'
        if columns
        else "None of these benchmarks is one of the paper's: its rows are left out."
    )
    title = "Accuracy beside the paper" if columns else "Accuracy"
    return Table(title, ("policy", *columns, *extra), tuple(rows), note)


def overview(summary: Summary) -> Table:
    """One row for each benchmark."""
    header = ("benchmark", *_FIGURES)
    rows = tuple((name, *_row(part)) for name, part in summary["benchmarks"].items())
    rollouts = summary["rollouts_per_question"]
    note = f"{rollouts} rollout{'s' * (rollouts > 1)} a question."
    if summary["settings"].get("prompt_mode") == "direct":
        note += " The prompt asks for the answer alone, which the format rule never accepts: read accuracy only."
    return Table("By benchmark", header, rows, note)


_FIGURES = ("questions", "accuracy %", "format %", "abstained %", "timed out %", "tokens", "characters")


def _row(part: Mapping[str, Any]) -> tuple[str, ...]:
    if not part["questions"]:
        return ("0", *("–" for _ in _FIGURES[1:]))
    tokens = part["response_tokens"]
    return (
        str(part["questions"]),
        estimate(part["accuracy"]),
        estimate(part["format"]),
        f"{part['abstained'] * 100:.1f}",
        f"{part['timed_out'] * 100:.1f}",
        "–" if tokens is None else f"{tokens:.0f}",
        "–" if part["response_characters"] is None else f"{part['response_characters']:.0f}",
    )


def _split(summary: Summary, part: str, title: str) -> Table:
    rows = tuple(
        (benchmark, name or "–", *_row(figures))
        for benchmark, whole in summary["benchmarks"].items()
        for name, figures in whole[f"by_{part}"].items()
        if len(whole[f"by_{part}"]) > 1
    )
    return Table(f"By {title}", ("benchmark", title, *_FIGURES), rows)


def _pass_at_k(summary: Summary) -> Table:
    rollouts = summary["rollouts_per_question"]
    ks = [k for k in (1, 2, 4, 8, 16) if k <= rollouts]
    rows = tuple(
        (benchmark, *(estimate(part["pass_at_k"][str(k)]) for k in ks))
        for benchmark, part in summary["benchmarks"].items()
        if part["questions"] and len(ks) > 1
    )
    note = "Unbiased, in percent; the JSON has every k. "
    note += f"k stops at the {rollouts} rollouts of a question." if rollouts < 16 else ""
    return Table("pass@k", ("benchmark", *(f"pass@{k}" for k in ks)), rows, note.strip())


def _image_dependence(summary: Summary) -> Table:
    rows = tuple(
        (
            benchmark,
            condition,
            str(found["questions"]),
            *(estimate(found[name]) for name in ("true", "accuracy", "drop")),
        )
        for benchmark, part in summary["benchmarks"].items()
        for condition, found in part["image_dependence"].items()
    )
    header = ("benchmark", "images", "questions", "accuracy, true images %", "accuracy, these images %", "drop")
    return Table("Does the policy use the images?", header, rows, "Questions asked both ways, paired.")


def warnings_of(summary: Summary) -> list[str]:
    """Warnings to be read before the numbers: failed rollouts, and benchmarks answered without the images."""
    warnings = [
        f"{benchmark}: {found['warning']}."
        for benchmark, part in summary["benchmarks"].items()
        for found in part["image_dependence"].values()
        if found["warning"]
    ]
    if failed := summary["failed_rollouts"]:
        warnings.insert(0, f"{failed} rollout{'s' * (failed > 1)} failed and count{'s' * (failed == 1)} as incorrect.")
    return warnings


def _patterns(summary: Summary) -> Table:
    rows = tuple(
        (benchmark, found["pattern"] or "(none)", f"{found['share'] * 100:.1f}", f"{found['accuracy'] * 100:.1f}")
        for benchmark, part in summary["benchmarks"].items()
        for found in part["patterns"]
    )
    return Table("Patterns of actions", ("benchmark", "pattern", "share %", "accuracy %"), rows)


def to_markdown(summary: Summary, name: str = "this run") -> str:
    """The warnings, then the tables."""
    warnings = [f"> **{_escaped(warning)}**\n" for warning in warnings_of(summary)]
    return "\n".join(["# Evaluation\n", *warnings, *(table.to_markdown() for table in tables(summary, name))])


def to_html(summary: Summary, name: str = "this run") -> str:
    """The same as an HTML page that works offline; all text is escaped."""
    settings = [(key, value) for key, value in summary["settings"].items() if value is not None]
    return render(
        "evaluation.html",
        title="Evaluation",
        name=name,
        settings=[(k, ", ".join(map(str, v)) if isinstance(v, list) else v) for k, v in settings],
        warnings=warnings_of(summary),
        tables=tables(summary, name),
    )
