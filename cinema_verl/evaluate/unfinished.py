"""The answers of an evaluation that has not ended: one that is killed, started again, asks only what is missing.

verl writes a validation down at its end. Until then `unfinished.jsonl` in `trainer.validation_data_dir` has what each
rollout said, appended batch by batch, under a first line that says what was asked of whom. It goes when the
evaluation is written. Answers are scored again when they are taken up: a verdict costs little, a rollout does not.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from cinema_verl.data.check import DataError
from cinema_verl.evaluate.files import settings_of
from cinema_verl.utils.files import sha256_of

NAME: Final = "unfinished.jsonl"


Question = tuple[str, str]
"""A row's uid and its data_source, which says under which condition it was asked."""
Answer = tuple[np.ndarray, str]
"""The token ids (int32) that the agent loop kept of one rollout, and how it ended
(`cinema_verl.training.agent_loop.cut`)."""


class Unfinished:
    """The file in `folder`, made if absent, and locked as long as it is open.

    Attributes:
        answers: What earlier runs left, by question and then by session, which of its rollouts counted from 0.

    Args:
        asked: What answers depend on (`asked_of`): those of anything else are not this evaluation's.

    Raises:
        DataError: The answers there are to something else, or another process writes there now.
        OSError: The file cannot be written.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        self.answers: dict[Question, dict[int, Answer]] = {}
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115  open until the evaluation is written
        try:
            self._lock()
            self._read(json.loads(json.dumps(asked)))
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another evaluation is writing to {self.path.parent}: wait for it, or give this one a "
                "trainer.validation_data_dir of its own"
            ) from error

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
                f"{self.path} holds {len(self)} answers of an evaluation that did not end, and it asked otherwise: "
                + "; ".join(f"{name} was {before.get(name)!r}, is {asked.get(name)!r}" for name in changed)
                + ". To go on with it, ask as it did. To start anew, remove the file or choose another "
                "trainer.validation_data_dir"
            )

    def __len__(self) -> int:
        return sum(map(len, self.answers.values()))

    def add(self, answers: Iterable[tuple[Question, int, Answer]]) -> None:
        """Keep what earlier runs have not left; a kill after this returns cannot take it.

        Raises:
            OSError: The disk is full. What was kept before stays.
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
        self._file.close()

    def remove(self) -> None:
        """The evaluation is written: nothing is unfinished."""
        self.path.unlink(missing_ok=True)
        self.close()


def asked_of(config: Any) -> dict[str, Any]:
    """What the answers of an evaluation depend on, from the whole config of the run.

    How they are computed may change between two runs (batches, memory, parallelism), and so may their number.

    Raises:
        OSError: A file of questions cannot be read.
    """
    asked = settings_of(config, step=0)
    del asked["step"]  # not known before the weights are loaded; `weights` says more
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
    """Tells apart what a folder holds, without reading it: names, sizes and times of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
