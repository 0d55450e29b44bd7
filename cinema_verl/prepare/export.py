"""Canonical questions become the RL parquet that verl reads: split, sharded, streamed.

A question's place depends only on its uid and on the order of the inputs, so that equal inputs give equal bytes, and a
question stays in validation when others come or go. No more is in memory than a row group of each file being written.

With `Export.copy_images` the folder can be moved to another machine: it holds the images, too, and the rows name them
relative to the folder (`cinema_verl.data.movable`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from cinema_verl.data.canonical import Question
from cinema_verl.data.directory import (
    Uids,
    beside,
    check_unchanged,
    contents_of,
    fingerprint,
    put_in_place,
    read_questions,
)
from cinema_verl.data.movable import IMAGES, CopiedImages
from cinema_verl.data.schema import RL_SCHEMA, parquet_writer
from cinema_verl.prepare.convert import MAX_PIXELS, MIN_PIXELS
from cinema_verl.utils.stable_random import rank

ROWS_PER_FILE: Final = 100_000  # our choice: some 100 MB; the paper's 58k questions are one file
_OURS: Final = re.compile(r"(?:train|val|test)-\d{5,}\.parquet")  # what may be in a folder that is overwritten


@dataclass(frozen=True, slots=True)
class Export:
    """What the parquet depends on beside the questions.

    Attributes:
        mode: Prompt mode, one of `cinema_verl.prompts.modes`.
        min_pixels, max_pixels: Limits of each image's area in pixels, as the policy sees it.
        val_fraction: Share of the questions of split ``train`` that go to ``val``, drawn by uid and `seed`.
        rows_per_file: Rows after which a split continues in another file.
        copy_images: Put the images into the folder, and name them relative to it.
    """

    mode: str = "cinema"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    seed: int = 0
    rows_per_file: int = ROWS_PER_FILE
    copy_images: bool = False

    def drawn(self, question: Question) -> float:
        """Where a question stands in the draw, 0 to 1: below `val_fraction` it is held out."""
        return rank(self.seed, question.uid) / 2**64


class Held:
    """Which questions are held out for validation, and whether that leaves both sets something.

    Attributes:
        export: Its `val_fraction` is kept to.
    """

    def __init__(self, export: Export) -> None:
        self.export = export
        self._train = self._out = 0
        self._lowest = 1.0  # of all questions of split train, in the draw

    def split(self, question: Question) -> str:
        """The split that a question goes to."""
        if question.split != "train":
            return question.split
        drawn = self.export.drawn(question)
        out = drawn < self.export.val_fraction
        self._train, self._out, self._lowest = self._train + 1, self._out + out, min(self._lowest, drawn)
        return "val" if out else "train"

    def check(self) -> None:
        """Make sure that what was asked for has happened.

        Raises:
            ValueError: Nothing was held out, or everything; the message says what to do.
        """
        share = f"--val-fraction {self.export.val_fraction:g}"
        if not self.export.val_fraction or 0 < self._out < self._train:
            return
        if not self._train:
            raise ValueError(f"{share} holds out nothing: no question is of split train. Leave it out")
        if self._out:
            raise ValueError(f"{share} holds out all {self._train} questions of split train. Lower it")
        enough = math.ceil((self._lowest + 1e-9) * 1000) / 1000
        way = f"--val-fraction {enough:g} would hold out the first" if enough < 1 else "another --seed draws others"
        raise ValueError(
            f"{share} holds out none of {self._train} questions of split train: they are too few for it. {way}; or "
            "prepare questions for validation apart (split: val), or leave it out"
        )


def to_parquet(
    inputs: Sequence[str | Path], output: str | Path, export: Export, *, overwrite: bool = False
) -> dict[str, int]:
    """Make a folder of ``SPLIT-00000.parquet`` and so on, all of them or none.

    Args:
        inputs: Dataset directories, or JSONL files of canonical questions.
        overwrite: Whether a folder that an earlier run made is replaced.

    Returns:
        Rows of each file, by its path, in the order written.

    Raises:
        Locked: Another run is writing to the output.
        FileExistsError: The folder is there already, with something in it; and `overwrite` is not set, or it holds
            files of another kind.
        FileNotFoundError: An input does not exist, or is not complete.
        OSError: The folder cannot be written, or the disk is full.
        ValueError: There is no question, one is not canonical, two have the same uid, an input is not what its
            manifest lists, or nothing or everything would be held out.
        RowError: verl could not train on a question.
    """
    output = Path(output).resolve()
    with beside(output) as partial:
        _check_free(output, overwrite=overwrite)
        read = [fingerprint(path) for path in inputs]
        written: dict[str, int] = {}
        splits: dict[str, Callable[[Question], None]] = {}
        held, images = Held(export), CopiedImages(partial) if export.copy_images else None
        with ExitStack() as stack:
            for question in tqdm(_questions(inputs), desc="questions", unit=" rows", delay=2):
                split = held.split(question)
                if split not in splits:
                    splits[split] = stack.enter_context(_split(partial, split, export, written, images))
                splits[split](question)
        if not written:
            raise ValueError(f"no questions in {', '.join(map(str, inputs))}: verl cannot train on an empty file")
        held.check()
        check_unchanged(read)
        _check_free(output, overwrite=overwrite)  # by now a training may have begun there
        put_in_place(partial, output)
    return {str(output / name): rows for name, rows in sorted(written.items())}


def _check_free(output: Path, *, overwrite: bool) -> None:
    found = contents_of(output)
    if found and not overwrite:
        raise FileExistsError(f"{output} is not empty: give --overwrite to replace it, or another --output")
    if foreign := [name for name in found if not (_OURS.fullmatch(name) or name == IMAGES)]:
        raise FileExistsError(f"{output} holds {foreign[0]}, which is not of such a folder: give another --output")


def _questions(inputs: Iterable[str | Path]) -> Iterator[Question]:
    uids = Uids()
    for source in inputs:
        for question in read_questions(source):
            uids.add(question.uid)
            yield question


@contextmanager
def _split(
    folder: Path, name: str, export: Export, written: dict[str, int], images: CopiedImages | None
) -> Iterator[Callable[[Question], None]]:
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
            row = replace(question, split=name).rl_row(rows, mode=export.mode, **limits)
            if images is not None:
                row["images"] = images.cells(row["images"])
            write([row])
            rows += 1
            written[path.name] = rows

        yield add
