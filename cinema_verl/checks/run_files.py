"""The files that a run would read, read as the run reads them, every row looked at.

A composed configuration says which files and what a row may have (`Plan`); `survey` goes over the rows once and keeps
counts, a few examples and three numbers a row, so that millions of rows are no matter.
"""

from __future__ import annotations

import random
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from cinema_verl.checks.doctor import Finding
from cinema_verl.checks.gallery import Chosen, facts_of
from cinema_verl.data.check import (
    RL,
    SFT,
    Form,
    Inspected,
    Limits,
    Problem,
    inspect_rows,
    problems_of,
    uid_of,
)
from cinema_verl.data.faults import SFT_COLUMNS, WARNINGS
from cinema_verl.data.tokens import Patching, PromptCounter
from cinema_verl.prompts import MODES, asked_in_mode
from cinema_verl.registration.command_line import RL_TRAINER, SFT_TRAINER

_EXAMPLES: Final = 3  # problems kept of each code
_ROWS_AT_ONCE: Final = 1_000  # read from Arrow in one piece; our choice


# --- What the run would do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a composed configuration says about data.

    Attributes:
        program: verl's module, `RL_TRAINER` or `SFT_TRAINER`.
        evaluates: Whether it only validates (``trainer.val_only``).
        files: Split (``train``, ``val``) -> its files. An evaluation's training set is usually its validation set over
            again, which verl wants and never draws from; it is then left out.
        max_samples: Split -> rows that are used; -1 for all.
        model: Path or name.
        mode: ``data.cinema_prompt_mode``, whose system prompt takes the place of the files'; None without one.
        limits: What a row may have. `limits.images` only where the rollout engine enforces it.
        limit_images: ``rollout.limit_images``, whatever the engine; None without one.
        template_kwargs, processor_kwargs: As verl passes them to the processor.
    """

    program: str
    evaluates: bool
    files: Mapping[str, tuple[str, ...]]
    max_samples: Mapping[str, int]
    model: str
    mode: str | None
    limits: Limits
    limit_images: int | None
    template_kwargs: Mapping[str, Any]
    processor_kwargs: Mapping[str, Any]

    @property
    def form(self) -> Form:
        return RL if self.program == RL_TRAINER else SFT

    @classmethod
    def of(cls, config: Any, program: str) -> Plan:
        """Read a composed configuration."""
        data = config.data
        rl = program == RL_TRAINER
        images, engine = None, ""
        if rl:
            rollout = config.actor_rollout_ref.rollout
            images, engine = rollout.get("limit_images"), rollout.name
        evaluates = rl and bool(config.trainer.get("val_only"))
        files = {split: _listed(data.get(f"{split}_files")) for split in ("train", "val")}
        if evaluates and files["train"] == files["val"]:
            del files["train"]
        return cls(
            program=program,
            evaluates=evaluates,
            files=files,
            max_samples={split: data.get(f"{split}_max_samples", -1) for split in ("train", "val")},
            model=str((config.actor_rollout_ref.model if rl else config.model).path),
            mode=data.get("cinema_prompt_mode") if rl else None,
            limits=Limits(
                tokens=data.max_prompt_length if rl else data.max_length,
                images=images if engine == "vllm" else None,  # the others take any number
                root=data.get("cinema_image_root"),
            ),
            limit_images=images,
            template_kwargs=dict(data.get("apply_chat_template_kwargs") or {}),
            processor_kwargs=dict(data.get("mm_processor_kwargs") or {}),
        )


def _listed(files: Any) -> tuple[str, ...]:
    if files is None:
        return ()
    return (files,) if isinstance(files, str) else tuple(map(str, files))


# --- The files ------------------------------------------------------------------------------------------------


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
        uids: Split -> hashes of the uids seen.
        validated: Source and uid of each validation row seen, as `cinema_verl.evaluate.questions` asks for them.
        places: File and row of each.
    """

    files: list[FileSurvey] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Problem]] = field(default_factory=dict)
    shares: dict[str, Counter[str]] = field(default_factory=dict)
    uids: dict[str, set[int]] = field(default_factory=dict)
    validated: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)

    def of(self, split: str) -> list[FileSurvey]:
        return [file for file in self.files if file.split == split]

    def add(self, found: Sequence[Problem]) -> None:
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
    schemas: dict[str, tuple[str, pa.Schema]] = {}
    opened: list[tuple[str, str, Source]] = []
    for split, files in plan.files.items():
        for path in files:
            source = _open(split, path, plan.program)
            if isinstance(source, Finding):
                result.findings.append(source)
                continue
            first_path, first = schemas.setdefault(split, (path, source.schema))
            if differ := _differing(source.schema, first, plan.form):
                detail = f"{path} and {first_path} differ in {', '.join(differ)}: verl cannot read them as one data set"
                advice = "write both with the same schema (data_preprocess/to_parquet.py)"
                result.findings.append(Finding("files", split, False, detail, advice))
            opened.append((split, path, source))
    total = sum(source.rows if sample is None else min(sample, source.rows) for _, _, source in opened)
    with tqdm(total=total, desc="looking at rows", unit=" rows", delay=1.0) as progress:
        for split, path, source in opened:
            found = FileSurvey(split, path, source.rows)
            result.files.append(found)
            chosen = _chosen(found.rows, sample)
            rows = _read(source, chosen)
            looked_at = inspect_rows(
                (_asked(row, plan.mode) for row in rows) if plan.mode in MODES else rows,
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


class Source(NamedTuple):
    """A file of rows: how many, their types, and the rows themselves, piece by piece."""

    rows: int
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch | pa.Table]]


def _open(split: str, path: str, program: str) -> Source | Finding:
    """A file that the run can read, or why it cannot."""
    where, advice = "files", f"correct data.{split}_files"
    if re.match(r"\w+://", path):
        detail = f"{path} is not a file of this machine; preflight reads local files"
        return Finding(where, split, False, detail, "copy it here, and name the copy")
    local = Path(path).expanduser() if program == SFT_TRAINER else Path(path)  # pandas knows ~, `datasets` does not
    if not local.exists():
        if set(path) & set("*?[~"):
            advice = f"give data.{split}_files whole paths, [a,b] for several: verl expands no patterns and no ~"
        return Finding(where, split, False, f"{path} does not exist", advice)
    if local.is_dir():
        return Finding(where, split, False, f"{path} is a folder", f"name its files: data.{split}_files=[a,b]")
    try:
        if path.endswith(".parquet") or program == SFT_TRAINER:  # which reads any file as parquet
            source = _parquet(local)
        elif path.endswith((".json", ".jsonl")):
            source = _json(local)
        else:
            detail = f"{path} is of a kind that {program} does not read"
            return Finding(where, split, False, detail, "write it with data_preprocess/to_parquet.py")
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        return Finding(where, split, False, f"{path} cannot be read: {error}", "write it again")
    return source if source.rows else Finding(where, split, False, f"{path} has no rows", advice)


def _parquet(path: Path) -> Source:
    file = pq.ParquetFile(path)
    schema = file.schema_arrow.remove_metadata()
    return Source(int(file.metadata.num_rows), schema, lambda: file.iter_batches(batch_size=_ROWS_AT_ONCE))


def _json(path: Path) -> Source:
    """As verl reads it: through the cache of `datasets`."""
    rows = datasets.load_dataset("json", data_files=str(path))["train"]
    batches = rows.with_format("arrow")
    return Source(len(rows), rows.features.arrow_schema.remove_metadata(), lambda: batches.iter(_ROWS_AT_ONCE))


def _differing(schema: pa.Schema, first: pa.Schema, form: Form) -> list[str]:
    """Columns of two files that verl cannot put together: `datasets` fills what one of them lacks, or has only null.

    For fine-tuning pandas puts any two together, and only the columns that are read matter.
    """
    both = set(schema.names) & set(first.names)
    types = {name: (schema.field(name).type, first.field(name).type) for name in sorted(both)}
    return [
        name
        for name, (one, other) in types.items()
        if one != other and pa.null() not in (one, other) and (form is RL or name in SFT_COLUMNS)
    ]


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
        result.add(problems_of(inspected, found.path, row))
        if uid := uid_of(inspected.row):
            uids.add(hash(uid))
        if found.split == "val":
            result.validated.append({"data_source": inspected.row.get("data_source"), "extra_info": {"uid": uid}})
            result.places.append((found.path, row))
        if counted:
            for column, value in facts_of(inspected.row).items():
                result.shares.setdefault(column, Counter())[value] += 1
        if show is not None:
            show.offer(inspected, f"{found.path}, row {row}")


def _chosen(rows: int, sample: int | None) -> list[int] | None:
    """Rows to look at, in order; None for all. The same for the same file and number."""
    if sample is None or sample >= rows:
        return None
    return sorted(random.Random(0).sample(range(rows), sample))


def _read(source: Source, chosen: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    start = 0
    for batch in source.batches():
        if chosen is not None:
            end = start + batch.num_rows
            picked = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
            start, batch = end, batch.take([row - start for row in picked])
        yield from batch.to_pylist()
