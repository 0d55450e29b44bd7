"""The answers of an evaluation that has not ended: when it is started again, it asks only what is missing.

verl writes a validation to the disk at its end. Until then `unfinished.jsonl` in `trainer.validation_data_dir` has what
each rollout said, appended batch by batch, below a first line that says what was asked of which policy. The file is
removed when the evaluation is written. Kept answers are scored again, which is cheap.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from cinema_verl.data.check import DataError
from cinema_verl.evaluate.files import settings_of
from cinema_verl.utils.files import Locked, only_one, sha256_of

NAME: Final = "unfinished.jsonl"
_LOCK: Final = ".unfinished.lock"

Asked = tuple[str, str]
"""A row's uid and its `data_source`, which says under which condition it was asked."""
Answer = tuple[np.ndarray, str]
"""The token ids (int32) that the agent loop kept of one rollout, and its `StopReason` as a word."""


class Unfinished:
    """The file in `folder`, made where it is missing; one process at a time has it open.

    Attributes:
        answers: what earlier runs left, by question and then by session (which of its rollouts, counted from 0).

    Args:
        asked: what answers depend on (`asked_of`). Answers to anything else do not belong to this evaluation.

    Raises:
        DataError: the answers in the file are to something else, or another process has it open.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]):
        self.path, self._lock = folder / NAME, folder / _LOCK
        self.answers: dict[Asked, dict[int, Answer]] = {}
        with ExitStack() as opened:
            try:
                opened.enter_context(only_one(self._lock))
            except Locked as error:
                raise DataError(
                    f"another evaluation is writing to {folder}: wait for it, or give this one a "
                    "trainer.validation_data_dir of its own"
                ) from error
            self._file: IO[bytes] = opened.enter_context(open(self.path, "a+b"))
            self._read(json.loads(json.dumps(asked)))
            self._open = opened.pop_all()

    def _read(self, asked: dict[str, Any]) -> None:
        before, end = None, 0
        self._file.seek(0)
        for line in self._file:
            try:
                record = json.loads(line)
            except ValueError:  # a power cut can leave zeros where lines were
                break
            if not line.endswith(b"\n"):  # a kill cut it off
                break
            end += len(line)
            if before is None:
                before = record
                continue
            uid, source, session, response, stop_reason = record
            self.answers.setdefault((uid, source), {})[session] = np.array(response, dtype=np.int32), stop_reason
        if before is None or not self.answers:
            self._file.truncate(0)
            self._write([asked])
            return
        self._file.truncate(end)
        if before != asked:
            changed = sorted(name for name in before.keys() | asked.keys() if before.get(name) != asked.get(name))
            raise DataError(
                f"{self.path} holds {len(self)} answers of an evaluation that did not end and that asked something "
                "else: "
                + "; ".join(f"{name} was {before.get(name)!r}, is {asked.get(name)!r}" for name in changed)
                + ". To continue that evaluation, use its settings. To start over, remove the file or choose another "
                "trainer.validation_data_dir"
            )

    def __len__(self) -> int:
        return sum(map(len, self.answers.values()))

    def add(self, answers: Iterable[tuple[Asked, int, Answer]]) -> None:
        """Append the answers that are not there yet. A kill after this returns does not lose them.

        Raises:
            OSError: the disk is full. What was written before stays.
        """
        self._write(
            (*question, session, response.tolist(), stop_reason)
            for question, session, (response, stop_reason) in answers
            if session not in self.answers.get(question, {})
        )

    def _write(self, records: Iterable[Any]) -> None:
        self._file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        self._file.flush()

    def close(self) -> None:
        """Leave the file for the next run."""
        self._open.close()

    def remove(self) -> None:
        """Remove the file and its lock: the evaluation is written."""
        self.path.unlink(missing_ok=True)
        self._lock.unlink(missing_ok=True)
        self.close()


def asked_of(config: Any) -> dict[str, Any]:
    """What the answers of an evaluation depend on, from the whole config of the run.

    Their number and how they are computed (batches, memory, parallelism) may differ between two runs.

    Raises:
        OSError: a file of questions cannot be read.
    """
    asked = settings_of(config, step=0)
    del asked["step"]  # not known before the weights are loaded; `weights` says more
    del asked["native_reasoning"]  # of how they are scored, which is done anew
    data, rollout = config.data, config.actor_rollout_ref.rollout
    files = [Path(file) for file in asked["files"]]
    return asked | {
        "questions": [sha256_of(file) if file.is_file() else None for file in files],
        "weights": [
            _stamp(Path(path)) if path and os.path.isdir(path) else None
            for path in (asked["model"], asked["checkpoint"])
        ],
        "dtype": rollout.get("dtype"),
        "chat_template": repr(data.get("apply_chat_template_kwargs")),
        "processor": repr(data.get("mm_processor_kwargs")),
    }


def _stamp(folder: Path) -> str:
    """A hash of the names, sizes and times of a folder's files: tells contents apart without reading them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
