"""Canonical questions become the RL parquet that verl reads: split, sharded, streamed.

A question's place depends on its uid and on the order of the inputs alone, so that equal inputs give equal bytes, and a
question stays in validation when others come or go. No more is in memory than a row group of each file being written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import read_questions
from cinema_verl.data.schema import RL_SCHEMA
from cinema_verl.prepare.convert import MAX_PIXELS, MIN_PIXELS
from cinema_verl.utils.files import atomic_write
from cinema_verl.utils.stable_random import rank

ROWS_PER_FILE: Final = 100_000  # our choice: some 100 MB; the paper's 58k questions are one file
_ROWS_PER_GROUP: Final = 1_000  # written, and held, at once; our choice


@dataclass(frozen=True, slots=True)
class Export:
    """What the parquet depends on beside the questions.

    Attributes:
        mode: One of `cinema_verl.prompts.MODES`.
        min_pixels, max_pixels: Limits of each image's area as the policy sees it.
        val_fraction: Share of the questions of split ``train`` that go to ``val``, drawn by uid and `seed`.
        rows_per_file: Rows after which a split goes on in another file.
    """

    mode: str = "cinema"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    seed: int = 0
    rows_per_file: int = ROWS_PER_FILE

    def split(self, question: Question) -> str:
        drawn = rank(self.seed, question.uid) < self.val_fraction * 2**64
        return "val" if question.split == "train" and drawn else question.split


def to_parquet(inputs: Sequence[str | Path], output: str | Path, export: Export) -> dict[str, int]:
    """Make a folder of ``SPLIT-00000.parquet`` and so on, all of them or none.

    Args:
        inputs: Dataset directories, or JSONL files of canonical questions.

    Returns:
        Rows of each file, by its path, in the order written.

    Raises:
        FileExistsError: the folder is there already, with something in it.
        FileNotFoundError: an input is none.
        OSError: the folder cannot be written, or the disk is full.
        ValueError: no question at all, one that is not canonical, or a uid that two questions have.
        RowError: a question that verl could not train on.
    """
    output = Path(output).absolute()
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: remove it, or give another --output")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    written: dict[str, int] = {}
    writers: dict[str, _Split] = {}
    try:
        with ExitStack() as stack:
            for question in tqdm(_unique(inputs), desc="questions", unit=" rows", delay=2):
                split = export.split(question)
                if split not in writers:
                    writers[split] = stack.enter_context(_Split(partial, split, export, written))
                writers[split].add(question)
        if not written:
            raise ValueError(f"no questions in {', '.join(map(str, inputs))}: verl cannot train on an empty file")
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {str(output / name): rows for name, rows in sorted(written.items())}


def _unique(inputs: Sequence[str | Path]) -> Iterator[Question]:
    seen: set[bytes] = set()  # 16 bytes each, about 100 MB for a million
    for source in inputs:
        for question in read_questions(source):
            digest = hashlib.blake2b(question.uid.encode(), digest_size=16).digest()
            if digest in seen:
                raise ValueError(f"{source}: the uid {question.uid} was there before; give each input once")
            seen.add(digest)
            yield question


class _Split:
    """The files of one split, one after the other; on an error, the one that is open vanishes."""

    def __init__(self, output: Path, name: str, export: Export, written: dict[str, int]) -> None:
        self._output, self._name, self._export, self._written = output, name, export, written
        self._files = self._in_file = 0
        self._rows: list[dict[str, Any]] = []
        self._open = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is not None:
            return self._open.__exit__(*error)
        with self._open:  # the last rows are written here, and may not fit
            self._close()
        return None

    def add(self, question: Question) -> None:
        if self._in_file == self._export.rows_per_file:
            self._close()
        limits = {"min_pixels": self._export.min_pixels, "max_pixels": self._export.max_pixels}
        question = replace(question, split=self._name)
        self._rows.append(question.rl_row(self._in_file, mode=self._export.mode, **limits))
        self._in_file += 1
        if len(self._rows) == _ROWS_PER_GROUP:
            self._flush()

    @property
    def _path(self) -> Path:
        return self._output / f"{self._name}-{self._files:05d}.parquet"

    def _flush(self) -> None:
        if self._writer is None:
            file: IO[Any] = self._open.enter_context(atomic_write(self._path, "wb"))
            self._writer = self._open.enter_context(pq.ParquetWriter(file, RL_SCHEMA, compression="zstd"))
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=RL_SCHEMA), row_group_size=_ROWS_PER_GROUP)
        self._rows = []

    def _close(self) -> None:
        if not self._in_file:
            return
        if self._rows:
            self._flush()
        self._open.close()
        self._written[self._path.name] = self._in_file
        self._files, self._in_file, self._writer = self._files + 1, 0, None
