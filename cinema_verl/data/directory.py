"""A dataset on disk: canonical questions, what was rejected, the images, and a manifest that says how they were made.

    NAME/
      questions/part-00000.jsonl   canonical questions, one a line
      rejected.jsonl               {"uid", "reason", "detail"}, one a line
      images/ab/abcd….png          named by the SHA-256 of the file
      manifest.json                counts that add up, hashes of the inputs and of the parts, the command

Every step of the pipeline reads such directories and writes another. A step refuses an input whose parts are not those
that its manifest lists, and one that changes while it is read.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from cinema_verl.data.canonical import Question
from cinema_verl.utils.files import Locked, atomic_write, only_one, sha256_of
from cinema_verl.utils.stable_random import stable_hash

QUESTIONS: Final = "questions"
REJECTED: Final = "rejected.jsonl"
IMAGES: Final = "images"
MANIFEST: Final = "manifest.json"
WORK: Final = ".work"
"""What a run needs to go on where it was interrupted, and its lock; gone once it is complete."""
_LOCK: Final = "lock"
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
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a dataset directory, or a JSONL file of questions")
    if path.suffix == ".parquet":
        raise FileNotFoundError(
            f"{path} is parquet, and questions are read from a dataset directory: "
            f"`cinema-verl prepare rl_parquet --input {path} --media-root / --output DIR` makes one of RL rows, "
            "`cinema-verl prepare own` of rows of your own"
        )
    if path.is_file():
        return [path]
    parts, ended = sorted((path / QUESTIONS).glob("part-*.jsonl")), (path / MANIFEST).is_file()
    if not ended and (parts or (path / WORK).is_dir()):
        raise FileNotFoundError(f"{path} is not complete, it has no {MANIFEST}: run the command that makes it again")
    if ended and not parts:
        raise FileNotFoundError(f"{path} holds no questions: {path / REJECTED} says of every row why it is none")
    if not parts:
        raise FileNotFoundError(f"{path} is neither a JSONL file nor a dataset directory: no {QUESTIONS}/part-*.jsonl")
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


class Uids:
    """The uids of the questions of a run, to refuse a second question of the same name. 64 bits each."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, uid: str) -> bool:
        return stable_hash(uid) in self._seen

    def add(self, uid: str) -> None:
        """Note a uid.

        Raises:
            ValueError: It was there before.
        """
        number = stable_hash(uid)
        if number in self._seen:
            raise ValueError(f"two questions have the uid {uid!r}: give each input once, and each source its own name")
        self._seen.add(number)


def fingerprint(path: str | Path) -> dict[str, Any]:
    """Where an input is and what its parts hold, for the manifest of what is made of it.

    Args:
        path: A dataset directory, whose parts must be those that its manifest lists; or a JSONL file.

    Returns:
        ``{"path": …, "parts": [{"name": …, "sha256": …}, …]}``, the path absolute.

    Raises:
        FileNotFoundError: See `parts_of`.
        ValueError: A part was changed, added or removed since the manifest was written.
    """
    path = Path(path).absolute()
    found = {part.name: sha256_of(part) for part in parts_of(path)}
    if path.is_dir():
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        listed = {Path(part["name"]).name: part["sha256"] for part in manifest.get("parts", ())}
        different = [name for name in sorted({**listed, **found}) if listed.get(name) != found.get(name)]
        if different:
            raise ValueError(
                f"{path / QUESTIONS / different[0]} is not what {MANIFEST} lists: it was changed, added or removed "
                "since. Copy the directory again, or run the command that makes it"
            )
    return {"path": str(path), "parts": [{"name": name, "sha256": sha256} for name, sha256 in found.items()]}


def check_unchanged(inputs: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that inputs are as they were when `fingerprint` saw them.

    Raises:
        FileNotFoundError, ValueError: One is not.
    """
    for before in inputs:
        if fingerprint(before["path"])["parts"] != before["parts"]:
            raise ValueError(f"{before['path']} changed while it was read: run the command again")


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


@contextmanager
def sole_writer(directory: str | Path) -> Iterator[Path]:
    """The absolute path of a dataset directory that no other run writes to for as long as the block lasts.

    Raises:
        Locked: Another run is writing there. It is not waited for.
        OSError: The directory cannot be made.
    """
    directory = Path(directory).absolute()
    with ExitStack() as stack:
        try:
            stack.enter_context(only_one(directory / WORK / _LOCK))
        except Locked as error:
            raise Locked(f"another run is writing to {directory}: wait for it, or give another --output") from error
        except (FileExistsError, NotADirectoryError) as error:
            what = f"{directory} can be no folder: there is a file in its way, or a link that leads nowhere"
            raise NotADirectoryError(f"{what}. Give another --output") from error
        try:
            yield directory
        finally:
            left = {path.name for path in (directory / WORK).glob("*")}
            if left <= {_LOCK} or (directory / MANIFEST).is_file():
                shutil.rmtree(directory / WORK, ignore_errors=True)
                if not any(directory.iterdir()):
                    directory.rmdir()


def contents_of(directory: Path) -> list[str]:
    """Names of what is in a directory, sorted, without the lock of `sole_writer`; none where there is no directory."""
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if {path.name for path in (directory / WORK).glob("*")} <= {_LOCK}:
        names -= {WORK}
    return sorted(names)


def put_in_place(whole: Path, directory: Path) -> None:
    """Make a folder that was written elsewhere the directory, whose `sole_writer` this process is.

    What was there is gone afterwards.
    """
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    directory.rename(old)
    whole.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def beside(directory: Path) -> Iterator[Path]:
    """An empty folder beside a directory that no other run writes to, for `put_in_place`; gone when the block ends."""
    partial = directory.with_name(f".{directory.name}.partial")
    with sole_writer(directory):
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_output(directory: str | Path, inputs: Sequence[str | Path], *, overwrite: bool = False) -> None:
    """Make sure that a data set may be written to a directory, before the work begins.

    Raises:
        FileExistsError: A complete data set is there, and `overwrite` is not set.
        ValueError: The directory is one of the inputs, which overwriting would destroy.
    """
    directory = Path(directory).absolute()
    if directory.resolve() in {Path(path).resolve() for path in inputs}:
        raise ValueError(f"{directory} is an input and the output: name another directory")
    if (directory / MANIFEST).exists() and not overwrite:
        raise FileExistsError(
            f"{directory} holds a complete data set: give --overwrite to replace it, or name another directory"
        )


def start_anew(directory: str | Path, *, overwrite: bool = False) -> Path:
    """A directory for `write_dataset` to write to: what an interrupted run left there is cleared.

    Args:
        overwrite: Whether a complete data set may be there. From now on it is none; its pictures stay, because files
            that were made of it name them.

    Raises:
        FileExistsError: a complete data set is there, and `overwrite` is not set.
    """
    directory = Path(directory).absolute()
    check_output(directory, (), overwrite=overwrite)
    (directory / MANIFEST).unlink(missing_ok=True)
    for leftovers in (f"{QUESTIONS}/part-*.jsonl", f"{QUESTIONS}/.*.tmp", f"{IMAGES}/*/.*.tmp", ".*.tmp"):
        for leftover in directory.glob(leftovers):
            leftover.unlink()
    return directory


def write_dataset(
    directory: str | Path,
    questions: Iterable[Question],
    rejections: Iterable[Rejection],
    made_by: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Write a whole dataset directory from one process; the manifest comes last, so a directory with one is complete.

    Args:
        made_by: What goes into the manifest beside the counts: the command, seeds, rules.
        inputs: What was read, as `fingerprint` saw it before; it goes into the manifest, and must still be so
            at the end.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError, ValueError: An input changed while it was read; no manifest was written.
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
    check_unchanged(inputs)
    manifest = {
        **made_by,
        **({"inputs": list(inputs)} if inputs else {}),
        "questions": sum(part["rows"] for part in parts),
        "rejected": sum(reasons.values()),
        "rejected_by_reason": dict(sorted(reasons.items())),
        "parts": parts,
    }
    with atomic_write(directory / MANIFEST) as file:
        file.write(json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    return manifest
