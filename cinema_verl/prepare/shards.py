"""Source rows to a dataset directory, a shard at a time, so that a run can be killed anywhere and goes on from there.

    NAME/.work/plan.json            the input, settings and versions of the run, and the spans of rows
    NAME/.work/shard-000012.jsonl   what became of each row of span 12: {"question": …, "place": …} or {"rejected": …}
    NAME/.work/shard-000013.try-0   a worker is writing it, or died doing so: on the row after its last line
    NAME/.work/downloads            files that were fetched for URLs in rows (see `media.paths`)

A shard's file exists whole or not at all. When all shards exist they are joined in the order of the input, so that the
result does not depend on which worker did what.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from tqdm import tqdm

from cinema_verl.data.canonical import Question, Rejected, SourceError
from cinema_verl.data.directory import WORK, Rejection, start_anew, write_dataset
from cinema_verl.prepare.convert import Converter, ConvertSettings
from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.readers import Row, Span, read
from cinema_verl.utils.stable_random import stable_hash

PLAN: Final = "plan.json"
ROWS_PER_SHARD: Final = 25
"""Our choice: some seconds of a worker's time, which is what a kill costs. It is a constant, so that shards are the
same on every machine."""
_TRIES: Final = 3
"""Workers that may die on one shard. Our choice: one or two may be chance (a machine that was lost, memory that others
took); the third time it is a row, or the machine as a whole."""
_MAX_DETAIL: Final = 500  # characters of a rejection's detail: rows are untrusted; our choice


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know of the run.

    Attributes:
        root: The input's root, which spans name files below.
        output: The dataset directory.
    """

    adapter: Adapter
    settings: ConvertSettings
    root: Path
    output: Path

    def shard(self, number: int) -> Path:
        return self.output / WORK / f"shard-{number:06d}.jsonl"


def make_shard(item: dict[str, Any], *, job: Job) -> dict[str, Any]:
    """Convert the rows of one span and leave the shard's file.

    Args:
        item: ``number`` of the shard, and its ``span``.

    Returns:
        ``rows`` and ``rejected`` (counts), ``worker`` (``node:pid``), and ``error``: why the run must stop, or "".

    Raises:
        RuntimeError: a defect of this package; the message names the row.
    """
    span = Span(*json.loads(item["span"]))
    result: dict[str, Any] = {"rows": 0, "rejected": 0, "error": "", "worker": f"{_node()}:{os.getpid()}"}
    place = "before its first row"
    try:
        converter = Converter(job.adapter, job.settings, job.output)
        with _try(job, item["number"], span) as file:
            for place, row in read(job.root, span):
                record = _outcome(converter, row, span.file, place, job)
                file.write(record + b"\n")
                file.flush()  # to the kernel: if this process dies over the next row, it is known which
                result["rows"] += 1
                result["rejected"] += record.startswith(_REJECTED)
            converter.sync()  # no shard names an image that a crash of the machine could still take
    except (SourceError, ImportError) as error:
        result["error"] = str(error)
    except OSError as error:
        result["error"] = f"{error.strerror or error}: {error.filename or job.output}"
    except Exception as error:  # a defect of this package: name the row
        raise RuntimeError(f"{job.root / span.file}, {place}: {error!r}") from error
    return result


@contextmanager
def _try(job: Job, number: int, span: Span) -> Iterator[IO[bytes]]:
    """A file that becomes the shard's when the block ends without an error, and is removed otherwise. Only a process
    that dies leaves it.

    Raises:
        SourceError: Too many workers have died on this shard.
    """
    shard = job.shard(number)
    names = [shard.with_suffix(f".try-{count}") for count in range(_TRIES)]
    partial = next((name for name in names if not name.exists()), None)
    if partial is None:
        done = {name.read_bytes().count(b"\n") for name in names}
        places = [place for count, (place, _) in enumerate(read(job.root, span)) if count in done]
        raise SourceError(
            f"{_TRIES} workers died over {span.file}, at {' or '.join(places) or 'its end'}. Either memory ran "
            "out: take fewer --workers; or a file that the row names crashes its decoder: mend or remove it"
        )
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, shard)
    finally:
        partial.unlink(missing_ok=True)


_REJECTED: Final = b'{"rejected"'


def _outcome(converter: Converter, row: Row | Rejected, file: str, place: str, job: Job) -> bytes:
    """A shard's line. File and place are where a person finds the row, and stand for its uid where it has none."""
    place = f"{file}, {place}"
    uid = f"{job.adapter.name}/{place}"
    try:
        if isinstance(row, Rejected):
            raise row
        draft = converter.draft(row, file)
        uid = converter.uid(draft)
        question = converter.question(draft).to_json(job.output)
        record = json.dumps({"question": question, "place": place}, ensure_ascii=False)
        try:
            return record.encode()
        except UnicodeEncodeError as error:
            raise Rejected("bad_record", f"text that is not Unicode: {error.reason}") from error
    except Rejected as rejected:
        rejection = Rejection(uid, rejected.reason, f"{rejected.detail[:_MAX_DETAIL]} ({place})")
        text = json.dumps({"rejected": rejection._asdict()}, ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace")


def _node() -> str:
    ray = sys.modules.get("ray")  # loaded in Ray's workers; nobody else needs it
    return str(ray.get_runtime_context().get_node_id()) if ray and ray.is_initialized() else "here"


# --- Joining --------------------------------------------------------------------------------------------------------


class Counts:
    """Counts of a dataset's questions, made while they are written."""

    def __init__(self) -> None:
        self.by: dict[str, Counter[str]] = {
            name: Counter() for name in ("modality", "answer_type", "source", "split", "images")
        }

    def add(self, question: Question) -> None:
        for name, counter in self.by.items():
            counter[str(len(question.images)) if name == "images" else getattr(question, name)] += 1


def join(job: Job, spans: Sequence[Span], made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Make the dataset of all shards; a second question with a uid is rejected, whichever worker was first.

    Returns:
        The manifest.

    Raises:
        RuntimeError: what is in the shards does not add up to the input.
    """
    shards = [job.shard(number) for number in range(len(spans))]
    rows, counts = sum(span.rows for span in spans), Counts()
    second, found = _repeated(shards)
    if found != rows:
        raise RuntimeError(f"{job.output / WORK} holds {found} rows for {rows} of the input: remove it and start over")

    def questions() -> Iterator[Question]:
        repeated = iter(second)
        for line in _lines(shards, "writing questions"):
            if not line.startswith(_REJECTED) and not next(repeated):
                question = Question.from_json(json.loads(line)["question"], job.output)
                counts.add(question)
                yield question

    def rejections() -> Iterator[Rejection]:
        repeated = iter(second)
        for line in _lines(shards, "writing rejections"):
            if line.startswith(_REJECTED):
                yield Rejection(**json.loads(line)["rejected"])
            elif next(repeated):
                row = json.loads(line)
                detail = f"an earlier row of the input has the same id ({row['place']})"
                yield Rejection(row["question"]["uid"], "duplicate_uid", detail)

    start_anew(job.output)
    # The counts are filled while the questions are written.
    return write_dataset(job.output, questions(), rejections(), {**made_by, "input_rows": rows, "counts": counts.by})


def _lines(shards: Sequence[Path], doing: str) -> Iterator[bytes]:
    for shard in tqdm(shards, desc=doing, unit=" shards", delay=2):
        with open(shard, "rb") as lines:
            yield from lines


def _repeated(shards: Sequence[Path]) -> tuple[np.ndarray, int]:
    """Of each question in order, whether an earlier one has its uid: (questions,) bool, from 64 bits for each; and the
    number of rows."""
    hashes, rows = array("Q"), 0
    for line in _lines(shards, "looking for repeated ids"):
        rows += 1
        if not line.startswith(_REJECTED):
            hashes.append(stable_hash(json.loads(line)["question"]["uid"]))
    keys = np.asarray(hashes)
    order = np.argsort(keys, kind="stable")  # equal uids keep the order of the input
    repeated = np.zeros(len(keys), dtype=bool)
    repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return repeated, rows
