"""Canonical questions become the RL parquet that verl reads: split, sharded, streamed.

A question's place depends only on its uid and on the order of the inputs, so that equal inputs give equal bytes, and a
question stays in validation when others come or go. No more is in memory than a row group of each file being written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import Uids, check_unchanged, fingerprint, read_questions
from cinema_verl.data.schema import RL_SCHEMA, parquet_writer
from cinema_verl.prepare.convert import MAX_PIXELS, MIN_PIXELS
from cinema_verl.utils.files import Locked, only_one
from cinema_verl.utils.stable_random import rank

ROWS_PER_FILE: Final = 100_000  # our choice: some 100 MB; the paper's 58k questions are one file
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True)
class Export:
    """What the parquet depends on beside the questions.

    Attributes:
        mode: Prompt mode, one of `cinema_verl.prompts.modes`.
        min_pixels, max_pixels: Limits of each image's area in pixels, as the policy sees it.
        val_fraction: Share of the questions of split ``train`` that go to ``val``, drawn by uid and `seed`.
        rows_per_file: Rows after which a split continues in another file.
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
        Locked: Another run is writing to the output.
        FileExistsError: The folder is there already, with something in it.
        FileNotFoundError: An input does not exist, or is not complete.
        OSError: The folder cannot be written, or the disk is full.
        ValueError: There is no question, one is not canonical, two have the same uid, or an input is not what its
            manifest lists.
        RowError: verl could not train on a question.
    """
    output = Path(output).absolute()
    with _sole_writer(output) as partial:
        if output.exists() and any(output.iterdir()):
            raise FileExistsError(f"{output} is not empty: remove it, or give another --output")
        read = [fingerprint(path) for path in inputs]
        written: dict[str, int] = {}
        splits: dict[str, Callable[[Question], None]] = {}
        with ExitStack() as stack:
            for question in tqdm(_questions(inputs), desc="questions", unit=" rows", delay=2):
                split = export.split(question)
                if split not in splits:
                    splits[split] = stack.enter_context(_split(partial, split, export, written))
                splits[split](question)
        if not written:
            raise ValueError(f"no questions in {', '.join(map(str, inputs))}: verl cannot train on an empty file")
        check_unchanged(read)
        os.replace(partial, output)
        (output / _LOCK).unlink()
    return {str(output / name): rows for name, rows in sorted(written.items())}


@contextmanager
def _sole_writer(output: Path) -> Iterator[Path]:
    """An empty folder beside the output, whose lock no other run holds; gone when the block ends."""
    partial = output.with_name(f".{output.name}.partial")
    with ExitStack() as stack:
        try:
            stack.enter_context(only_one(partial / _LOCK))
        except Locked as error:
            raise Locked(f"another run is writing to {output}: wait for it, or give another --output") from error
        try:
            for left in partial.iterdir():  # by a run that was killed
                if left.name != _LOCK:
                    left.unlink()
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _questions(inputs: Iterable[str | Path]) -> Iterator[Question]:
    uids = Uids()
    for source in inputs:
        for question in read_questions(source):
            uids.add(question.uid)
            yield question


@contextmanager
def _split(folder: Path, name: str, export: Export, written: dict[str, int]) -> Iterator[Callable[[Question], None]]:
    """A function that writes a question into the files of one split, one file after the other."""
    limits = {"min_pixels": export.min_pixels, "max_pixels": export.max_pixels}
    rows = files = 0
    path: Path
    write: Callable[[Iterable[Mapping[str, Any]]], int]
    with ExitStack() as file:

        def add(question: Question) -> None:
            nonlocal rows, files, path, write
            if rows % export.rows_per_file == 0:
                file.close()
                path = folder / f"{name}-{files:05d}.parquet"
                write = file.enter_context(parquet_writer(path, RL_SCHEMA))
                rows, files = 0, files + 1
            write([replace(question, split=name).rl_row(rows, mode=export.mode, **limits)])
            rows += 1
            written[path.name] = rows

        yield add
