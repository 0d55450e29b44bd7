"""Files of rows, opened as the run opens them, read piece by piece."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.checks.finding import Finding
from cinema_verl.data.check import RL, Form
from cinema_verl.data.faults import SFT_COLUMNS
from cinema_verl.registration.command_line import SFT_TRAINER
from cinema_verl.training.data_files import local_path, unusable

_ROWS_AT_ONCE: Final = 1_000  # read from Arrow in one piece; our choice


class Source(NamedTuple):
    """A file of rows: how many, their types, and the rows themselves, piece by piece."""

    rows: int
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch | pa.Table]]


def open_rows(split: str, path: str, program: str) -> Source | Finding:
    """A file that the run can read, or why it cannot."""
    where, advice = "files", f"correct data.{split}_files"
    local = local_path(path, supervised=program == SFT_TRAINER)
    if local is None:
        detail = f"{path} is not a file of this machine; preflight reads local files"
        return Finding(where, split, False, detail, "copy it here, and name the copy")
    if (found := unusable(path, local, split)) is not None:
        return Finding(where, split, False, *found)
    try:
        if path.endswith(".parquet") or program == SFT_TRAINER:  # which reads any file as parquet
            source = _parquet(local)
        elif path.endswith((".json", ".jsonl")):
            source = _json(local)
        else:
            detail = f"{path} is of a kind that {program} does not read"
            return Finding(where, split, False, detail, "write it with `cinema-verl to-parquet`")
    except (OSError, ValueError, pa.ArrowException) as error:
        return Finding(where, split, False, f"{path} cannot be read: {error}", "write it again")
    return source if source.rows else Finding(where, split, False, f"{path} has no rows", advice)


def _parquet(path: Path) -> Source:
    file = pq.ParquetFile(path)
    schema = file.schema_arrow.remove_metadata()
    return Source(int(file.metadata.num_rows), schema, lambda: file.iter_batches(batch_size=_ROWS_AT_ONCE))


def _json(path: Path) -> Source:
    """As verl reads it: through the cache of `datasets`.

    Raises:
        ValueError: `datasets` cannot read it.
    """
    import datasets  # seconds, and most runs have no such file

    try:
        rows = datasets.load_dataset("json", data_files=str(path))["train"]
    except datasets.exceptions.DatasetsError as error:
        raise ValueError(str(error)) from error
    batches = rows.with_format("arrow")
    return Source(len(rows), rows.features.arrow_schema.remove_metadata(), lambda: batches.iter(_ROWS_AT_ONCE))


def differing_columns(schema: pa.Schema, first: pa.Schema, form: Form) -> list[str]:
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


def chosen_rows(rows: int, sample: int | None) -> list[int] | None:
    """Rows to look at, in order; None for all. The same for the same file and number."""
    if sample is None or sample >= rows:
        return None
    return sorted(random.Random(0).sample(range(rows), sample))


def read_rows(source: Source, chosen: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """The rows that were chosen (None: all), in order."""
    start = 0
    for batch in source.batches():
        if chosen is not None:
            end = start + batch.num_rows
            picked = chosen[bisect_left(chosen, start) : bisect_left(chosen, end)]
            start, batch = end, batch.take([row - start for row in picked])
        yield from batch.to_pylist()
