"""The `file` logger that keeps its history when a run is resumed."""

import json
from pathlib import Path

import orjson
from verl.utils.tracking import FileLogger

from cinema_verl.utils.files import atomic_write


class AppendingFileLogger(FileLogger):
    """verl's `file` logger (one JSON a step: `{"step", "data"}`), keeping the history of a resumed run.

    verl's opens its file with "wb", so resuming erases what was there. This one keeps every record up to the step that
    the run resumes from, drops the records of later steps, which will be made again, and any line that a crash
    left incomplete, and appends.

    Args:
        path: the file, see `cinema_verl.training.run_folder.metrics_path`.
        resume_step: the last step that the checkpoint contains; 0 for a new run, which starts a new file.
    """

    def __init__(self, path: Path, resume_step: int):
        self.filepath = str(path)
        kept = self._records(path, resume_step) if resume_step > 0 else []
        with atomic_write(path, "wb") as file:  # the old history is there until the new one is
            file.writelines(kept)
        self.fp = open(path, "ab", buffering=0)  # noqa: SIM115  closed by finish()

    @staticmethod
    def _records(path: Path, last_step: int) -> list[bytes]:
        if not path.exists():
            return []
        records = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                step = orjson.loads(line)["step"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
            if line.endswith(b"\n") and step <= last_step:
                records.append(line)
        return records
