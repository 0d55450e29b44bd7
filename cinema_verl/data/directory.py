"""A dataset on disk: canonical questions, what was rejected, the images, and a manifest that says how they came to be.

    NAME/
      questions/part-00000.jsonl   canonical questions, one a line
      rejected.jsonl               {"uid", "reason", "detail"}, one a line
      images/ab/abcd….png          content-addressed: named by the SHA-256 of the file
      manifest.json                counts that add up, hashes of the parts, the command

Every step of the pipeline reads such a directory and writes another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from cinema_verl.data.canonical import Question
from cinema_verl.utils.files import atomic_write, sha256_of

QUESTIONS: Final = "questions"
REJECTED: Final = "rejected.jsonl"
IMAGES: Final = "images"
MANIFEST: Final = "manifest.json"
WORK: Final = ".work"
"""What a run needs to go on where it was interrupted; gone once it is complete."""
ROWS_PER_PART: Final = 5_000


class Rejection(NamedTuple):
    """A row that did not become a question, or a question that a later step took out."""

    uid: str
    reason: str
    detail: str


def parts_of(path: str | Path) -> list[Path]:
    """The files of questions of a dataset directory, in order; or the one JSONL file that `path` is.

    Raises:
        FileNotFoundError: there are none, or the run that writes them has not ended; the message says what is missing.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    parts = sorted((path / QUESTIONS).glob("part-*.jsonl"))
    if not parts:
        raise FileNotFoundError(f"{path} is neither a JSONL file nor a dataset directory: no {QUESTIONS}/part-*.jsonl")
    if not (path / MANIFEST).is_file():
        raise FileNotFoundError(f"{path} is not complete, it has no {MANIFEST}: run the command that makes it again")
    return parts


class Place(NamedTuple):
    """Where a question stands: `question_at` reads it from there.

    Attributes:
        root: What its image paths are relative to.
        part: The file.
        start: Byte at which its line begins.
    """

    root: Path
    part: Path
    start: int


def read_questions(path: str | Path) -> Iterator[Question]:
    """The questions of a dataset directory or a JSONL file, one at a time, with absolute image paths.

    Raises:
        FileNotFoundError: nothing to read.
        ValueError: naming file and line, for a line that is not a canonical question.
    """
    for question, _ in locate_questions(path):
        yield question


def locate_questions(path: str | Path) -> Iterator[tuple[Question, Place]]:
    """As `read_questions`, each with its place.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    path = Path(path).absolute()
    root = path.parent if path.is_file() else path
    for part in parts_of(path):
        start = 0
        with open(part, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield Question.from_json(json.loads(line), root), Place(root, part, start)
                except ValueError as error:
                    raise ValueError(f"{part}, line {number}: {error}") from error
                start += len(line)


def question_at(place: Place) -> Question:
    """The question that `locate_questions` found there."""
    with open(place.part, "rb") as file:
        file.seek(place.start)
        return Question.from_json(json.loads(file.readline()), place.root)


def write_part(directory: Path, number: int, questions: Iterable[Question]) -> dict[str, Any]:
    """Write one file of questions, whole or not at all; equal questions give equal bytes.

    Returns:
        Its entry in the manifest: name, rows, sha256.
    """
    path = directory / QUESTIONS / f"part-{number:05d}.jsonl"
    rows = 0
    with atomic_write(path) as file:
        for question in questions:
            file.write(json.dumps(question.to_json(directory), ensure_ascii=False) + "\n")
            rows += 1
    return {"name": f"{QUESTIONS}/{path.name}", "rows": rows, "sha256": sha256_of(path)}


def start_anew(directory: str | Path) -> Path:
    """A directory for `write_dataset` to write to: what an interrupted run left there is cleared.

    Raises:
        FileExistsError: a complete data set is there, which nothing here overwrites.
    """
    directory = Path(directory).absolute()
    if (directory / MANIFEST).exists():
        raise FileExistsError(f"{directory} holds a complete data set: remove it, or name another directory")
    for leftovers in (f"{QUESTIONS}/part-*.jsonl", f"{QUESTIONS}/.*.tmp", f"{IMAGES}/*/.*.tmp", ".*.tmp"):
        for leftover in directory.glob(leftovers):
            leftover.unlink()
    return directory


def write_dataset(
    directory: str | Path, questions: Iterable[Question], rejections: Iterable[Rejection], made_by: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a whole dataset directory from one process; the manifest comes last, so a directory with one is complete.

    Args:
        made_by: What goes into the manifest beside the counts: the command, seeds, inputs.

    Returns:
        The manifest.
    """
    directory = Path(directory).absolute()
    stream = iter(questions)
    parts: list[dict[str, Any]] = []
    for first in stream:
        parts.append(write_part(directory, len(parts), chain([first], islice(stream, ROWS_PER_PART - 1))))
    reasons: Counter[str] = Counter()
    with atomic_write(directory / REJECTED) as file:
        for rejection in rejections:
            reasons[rejection.reason] += 1
            file.write(json.dumps(rejection._asdict(), ensure_ascii=False) + "\n")
    manifest = {
        **made_by,
        "questions": sum(part["rows"] for part in parts),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "parts": parts,
    }
    with atomic_write(directory / MANIFEST) as file:
        file.write(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    return manifest
