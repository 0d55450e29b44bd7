"""The files that a run would read, read as the run reads them, every row looked at.

`survey` goes over the rows that a `Plan` names once, and keeps counts, a few examples and three numbers a row, so that
it can go over millions of rows.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.gallery import Chosen, facts_of
from cinema_verl.checks.plan import Plan
from cinema_verl.checks.row_files import Source, chosen_rows, differing_columns, open_rows, read_rows
from cinema_verl.data.check import (
    Inspected,
    inspect_rows,
    placed,
    uid_of,
)
from cinema_verl.data.faults import WARNINGS, Fault
from cinema_verl.data.movable import absolute
from cinema_verl.data.tokens import Patching, PromptCounter
from cinema_verl.prompts import asked_in_mode, modes

_EXAMPLES: Final = 3  # problems kept of each code


@dataclass(slots=True)
class FileSurvey:
    """What was found in one file.

    Attributes:
        rows: In the file. `seen` of them were looked at.
        images, text, vision: Of each row seen: number of images, text tokens, image tokens.
        wrong: Rows with a problem that is not a warning.
    """

    split: str
    path: str
    rows: int
    wrong: int = 0
    images: array[int] = field(default_factory=lambda: array("q"))
    text: array[int] = field(default_factory=lambda: array("q"))
    vision: array[int] = field(default_factory=lambda: array("q"))

    @property
    def seen(self) -> int:
        return len(self.images)

    def add(self, inspected: Inspected, images: int) -> None:
        self.images.append(images)
        self.text.append(inspected.text_tokens)
        self.vision.append(inspected.vision_tokens)
        self.wrong += any(fault.code not in WARNINGS for fault in inspected.faults)

    @property
    def total(self) -> np.ndarray:
        """Tokens of each row seen, int64 (seen,)."""
        return np.asarray(self.text, dtype=np.int64) + np.asarray(self.vision, dtype=np.int64)


@dataclass(slots=True)
class Survey:
    """All files of a run, looked at.

    Attributes:
        problems: Of each code: how many, in how many rows, and the first few.
        shares: Column (``source``, ``answer type``, …) -> value -> rows of the training set, or of the only one.
        answer_types: Of all rows seen.
        uids: Split -> hashes of the uids seen.
        validated: Source and uid of each validation row seen, as `cinema_verl.evaluate.questions` asks for them.
        places: File and row of each.
    """

    files: list[FileSurvey] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Fault]] = field(default_factory=dict)
    shares: dict[str, Counter[str]] = field(default_factory=dict)
    answer_types: set[str] = field(default_factory=set)
    uids: dict[str, set[int]] = field(default_factory=dict)
    validated: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)

    def of(self, split: str) -> list[FileSurvey]:
        return [file for file in self.files if file.split == split]

    def add(self, found: Sequence[Fault]) -> None:
        for problem in found:
            self.counts[problem.code] += 1
            shown = self.examples.setdefault(problem.code, [])
            if len(shown) < _EXAMPLES:
                shown.append(problem)


def survey(
    plan: Plan,
    counter: PromptCounter | None,
    patching: Patching,
    *,
    sample: int | None = None,
    decode: bool = False,
    show: Chosen | None = None,
) -> Survey:
    """Look at every row of every file, or at `sample` of each file.

    Args:
        counter: Counts text; None where the model is not at hand.
        patching: Counts images.
        decode: Decode each image fully.
        show: Chooses rows for the gallery.
    """
    result = Survey()
    opened = list(_opened(plan, result))
    total = sum(source.rows if sample is None else min(sample, source.rows) for _, _, source in opened)
    with tqdm(total=total, desc="looking at rows", unit=" rows", delay=1.0) as progress:
        for split, path, source in opened:
            found = FileSurvey(split, path, source.rows)
            result.files.append(found)
            chosen = chosen_rows(found.rows, sample)
            rows = read_rows(source, chosen)
            if plan.beside:
                rows = ({**row, "images": absolute(row.get("images"), Path(path).parent)} for row in rows)
            looked_at = inspect_rows(
                (_asked(row, plan.mode) for row in rows) if plan.mode in modes() else rows,
                form=plan.form,
                counter=counter,
                patching=patching,
                limits=plan.limits,
                decode=decode,
                progress=progress,
            )
            try:
                _collect(result, found, looked_at, chosen, show, counted=split == next(iter(plan.files)))
            except (OSError, pa.ArrowException) as error:
                detail = f"{path} cannot be read after {found.seen:,} rows: {error}"
                result.findings.append(Finding("files", split, False, detail, "write it again"))
    return result


def _opened(plan: Plan, result: Survey) -> Iterator[tuple[str, str, Source]]:
    """Split, path and rows of each file that can be read; of the others, a finding."""
    schemas: dict[str, tuple[str, pa.Schema]] = {}
    for split, files in plan.files.items():
        for path in files:
            source = open_rows(split, path, plan.program)
            if isinstance(source, Finding):
                result.findings.append(source)
                continue
            first_path, first = schemas.setdefault(split, (path, source.schema))
            if differ := differing_columns(source.schema, first, plan.form):
                detail = f"{path} and {first_path} differ in {', '.join(differ)}: verl cannot read them as one data set"
                advice = "write both with the same schema (`cinema-verl to-parquet`)"
                result.findings.append(Finding("files", split, False, detail, advice))
            yield split, path, source


def _asked(row: dict[str, Any], mode: str) -> dict[str, Any]:
    """The row as `CinemaDataset` asks it; as it is where its prompt is none, which is a finding."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list) or not all(isinstance(message, dict) for message in prompt):
        return row
    return {**row, "prompt": asked_in_mode(prompt, mode)}


def _collect(
    result: Survey,
    found: FileSurvey,
    looked_at: Iterator[Inspected],
    chosen: Sequence[int] | None,
    show: Chosen | None,
    *,
    counted: bool,
) -> None:
    """Put what was found in a file's rows, `chosen` of them (None: all), where it belongs.

    Args:
        counted: Whether the file's rows go into `Survey.shares`.
    """
    uids = result.uids.setdefault(found.split, set())
    for position, inspected in enumerate(looked_at):
        row = position if chosen is None else chosen[position]
        images = inspected.row.get("images")
        found.add(inspected, len(images) if isinstance(images, list) else 0)
        result.add(placed(inspected, found.path, row))
        if uid := uid_of(inspected.row):
            uids.add(hash(uid))
        if found.split == "val":
            result.validated.append({"data_source": inspected.row.get("data_source"), "extra_info": {"uid": uid}})
            result.places.append((found.path, row))
        facts = facts_of(inspected.row)
        result.answer_types.add(facts.get("answer type", ""))
        if counted:
            for column, value in facts.items():
                result.shares.setdefault(column, Counter())[value] += 1
        if show is not None:
            show.offer(inspected, f"{found.path}, row {row}")
