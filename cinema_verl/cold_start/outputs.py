"""The output files, made from the results: two parquet files, the provenance, the questions left out, a summary.

They are written in one pass over the questions in their own order, so equal results give equal bytes. The counts add up
to the input: each question is in the cold start, in the RL pool, left out for a reason, or not reached.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cinema_verl.cold_start.breaker import asked_for, failures
from cinema_verl.cold_start.requests import SamplingSettings, policy_messages
from cinema_verl.cold_start.sampling import COLD_START, LEFT_OUT, REASONS, RL, ROUTES
from cinema_verl.data.canonical import Question
from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA, image_cell, parquet_writer, sft_rows
from cinema_verl.utils.files import atomic_write

SFT: Final = "sft.parquet"
RL_POOL: Final = "rl.parquet"
PROVENANCE: Final = "provenance.jsonl"
LEFT: Final = "left_out.jsonl"
SUMMARY: Final = "summary.json"

Record = Mapping[str, Any]
"""A `sampling.QuestionResult.record`."""


@dataclass
class Summary:
    """The sums of a run.

    Attributes:
        questions, not_reached: Number of questions, and of those that the run did not reach before it stopped.
        reasons: (route, reason) -> number of questions.
        calls: "purpose/outcome" -> number of calls.
        drafts: Numbers of drafts that are ``read``, ``usable`` (well formed) and ``right`` (correct).
        violations: "who/code" of what was wrong with replies -> number of replies. One reply can have several.
        taken_off: "who/code" of what was around trajectories (`unwrap.TAKEN_OFF`) -> number of replies.
        second_from: Who wrote the second trajectory -> number of questions.
        patterns: Pattern -> number of SFT rows.
        sft_rows, rl_rows: Number of rows written.
        prompt_tokens, completion_tokens, cost: Sums over all calls of the results.
    """

    questions: int = 0
    not_reached: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    drafts: Counter[str] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    taken_off: Counter[str] = field(default_factory=Counter)
    second_from: Counter[str] = field(default_factory=Counter)
    patterns: Counter[str] = field(default_factory=Counter)
    sft_rows: int = 0
    rl_rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def routed(self, route: str) -> int:
        return sum(count for (to, _), count in self.reasons.items() if to == route)

    def add(self, record: Record | None) -> None:
        """Count one question."""
        self.questions += 1
        if record is None:
            self.not_reached += 1
            return
        self.reasons[record["route"], record["reason"]] += 1
        self.calls.update(record["calls"])
        self.prompt_tokens += record["prompt_tokens"]
        self.completion_tokens += record["completion_tokens"]
        self.cost += record["cost"]
        drafts = [sample for sample in record["samples"] if sample["origin"].startswith("student/")]
        self.drafts["read"] += len(drafts)
        self.drafts["usable"] += sum(sample["usable"] for sample in drafts)
        self.drafts["right"] += sum(sample["correct"] is True for sample in drafts)
        self.violations.update(_violations(record))
        self.taken_off.update(
            f"{_writer(sample)}/{code}" for sample in record["samples"] for code in sample["taken_off"]
        )
        if record["second"] is not None:
            self.second_from[record["samples"][record["second"]]["origin"].split("/")[0]] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            **{route: self.routed(route) for route in ROUTES},
            "not_reached": self.not_reached,
            "reasons": {f"{route}/{reason}": n for (route, reason), n in sorted(self.reasons.items())},
            "sft_rows": self.sft_rows,
            "rl_rows": self.rl_rows,
            "drafts": dict(sorted(self.drafts.items())),
            "violations": dict(self.violations.most_common()),
            "taken_off": dict(sorted(self.taken_off.items())),
            "second_from": dict(sorted(self.second_from.items())),
            "patterns": dict(self.patterns.most_common()),
            "calls": dict(sorted(self.calls.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": round(self.cost, 6),
        }

    def table(self) -> str:
        """The summary as text: where the questions went, and what it cost."""
        titles = {COLD_START: "cold start", RL: "RL pool", LEFT_OUT: "left out"}
        rows: list[tuple[str, int, str]] = []
        for route in ROUTES:
            rows.append((titles[route], self.routed(route), ""))
            found = sorted(((n, reason) for (to, reason), n in self.reasons.items() if to == route), reverse=True)
            rows += [(f"  {reason}", n, REASONS[reason]) for n, reason in found]
        if self.not_reached:
            rows.append(("not reached", self.not_reached, "run the same command again to continue"))
        rows.append(("questions", self.questions, ""))
        width = max(len(name) for name, _, _ in rows)
        lines = [f"{name:<{width}}  {n:>9,}  {note}".rstrip() for name, n, note in rows]
        drafts = self.drafts
        lines.append("")
        if drafts["read"]:
            lines.append(
                f"drafts: {drafts['read']:,} read, {drafts['usable'] / drafts['read']:.1%} well formed, "
                f"{drafts['right'] / drafts['read']:.1%} correct"
            )
        if self.violations:
            lines.append("unusable: " + ", ".join(f"{name} {n:,}" for name, n in self.violations.most_common(5)))
        if self.taken_off:
            lines.append("taken off: " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.taken_off.items())))
        if self.second_from:
            lines.append("second paths: " + ", ".join(f"{n:,} by {who}" for who, n in self.second_from.most_common()))
        if self.patterns:
            lines.append(f"patterns in SFT: {len(self.patterns)}; " + _most_common(self.patterns))
        lines.append("calls: " + ", ".join(f"{name} {n:,}" for name, n in sorted(self.calls.items())))
        lines.append(f"tokens: {self.prompt_tokens:,} in, {self.completion_tokens:,} out; cost {self.cost:,.2f}")
        return "\n".join(lines)


def _writer(sample: Mapping[str, Any]) -> str:
    return "student" if sample["origin"].startswith("student/") else "teacher"


def _violations(record: Record) -> Counter[str]:
    """What was wrong with the drafts and refinements of a question: "who/code" -> number of replies."""
    found: Counter[str] = Counter()
    for sample in record["samples"]:
        if asked := asked_for(sample["origin"], record):
            found.update(f"{asked[0]}/{code}" for code in failures(sample, asked[1]))
    return found


def _most_common(patterns: Counter[str]) -> str:
    total = patterns.total()
    return ", ".join(f"{pattern} {n / total:.0%}" for pattern, n in patterns.most_common(3))


def write_outputs(
    output: Path,
    questions: Iterable[Question],
    get: Callable[[str], Record | None],
    settings: SamplingSettings,
    *,
    singles: bool = False,
    look: Callable[[Question, Record], Any] | None = None,
) -> Summary:
    """Write the files. Each is the old one or complete at every moment.

    Args:
        questions: In the order of the rows to be written.
        get: uid -> record, or None.
        singles: Keep questions without a second path, as one SFT row each.
        look: Called with every question and its record.

    Returns:
        The summary. A parquet file without a row is removed, because verl cannot train on one.
    """
    summary = Summary()
    with ExitStack() as files:
        provenance = files.enter_context(atomic_write(output / PROVENANCE))
        left_out = files.enter_context(atomic_write(output / LEFT))
        sft = files.enter_context(parquet_writer(output / SFT, SFT_SCHEMA))
        rl = files.enter_context(parquet_writer(output / RL_POOL, RL_SCHEMA))
        for question in questions:
            record = get(question.uid)
            summary.add(record)
            if record is None:
                continue
            provenance.write(json.dumps(record, ensure_ascii=False) + "\n")
            if record["route"] == LEFT_OUT:
                line = {name: record[name] for name in ("uid", "reason", "detail")}
                line["violations"] = dict(sorted(_violations(record).items()))
                left_out.write(json.dumps(line, ensure_ascii=False) + "\n")
            elif record["route"] == RL:
                summary.rl_rows += rl([rl_row(question, summary.rl_rows, settings)])
            elif record["reason"] != "single" or singles:
                rows = _sft_rows(question, record, settings)
                summary.sft_rows += sft(rows)
                summary.patterns.update(row["pattern"] for row in rows)
            if look is not None:
                look(question, record)
    for name, count in ((SFT, summary.sft_rows), (RL_POOL, summary.rl_rows)):
        if not count:
            (output / name).unlink(missing_ok=True)
    with atomic_write(output / SUMMARY) as file:
        file.write(json.dumps(summary.to_json(), ensure_ascii=False, indent=2) + "\n")
    return summary


def rl_row(question: Question, index: int, settings: SamplingSettings) -> dict[str, Any]:
    """The question's RL row, with the prompt of the settings."""
    row = question.rl_row(index, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    return row | {"prompt": policy_messages(question, settings.mode)}


def _sft_rows(question: Question, record: Record, settings: SamplingSettings) -> list[dict[str, Any]]:
    chosen = [record["refined"]] if record["second"] is None else [record["refined"], record["second"]]
    return sft_rows(
        uid=question.uid,
        prompt=policy_messages(question, settings.mode),
        images=[
            image_cell(image.path, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
            for image in question.images
        ],
        trajectories=[record["samples"][index]["text"] for index in chosen],
    )
