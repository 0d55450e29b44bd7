"""The result of each question, appended as one JSON line as soon as it is known.

Whenever the process is killed, only the last line can be incomplete; it is cut off, and its question is done again.
Memory holds the offsets of the lines, not their content.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The file at `path`, made if absent. The process that holds the ledger's lock is its only writer."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 (closed by `close`)
        self._lines: dict[str, tuple[int, bool]] = {}  # uid -> (offset, final)
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                if not line.endswith(b"\n"):
                    break
                self._note(json.loads(line), end)
            except ValueError:  # a power cut can leave zeros where lines were
                break
            end += len(line)
        self._file.truncate(end)

    def _note(self, record: Mapping[str, Any], offset: int) -> None:
        self._lines[record["uid"]] = offset, record["final"]

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record, which has the keys `uid` and `final`. A later record of the same uid replaces it.

        Raises:
            OSError: The disk is full, or the file cannot be written.
        """
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._file.flush()  # survives kill -9. After a power cut, lost lines are made again from the ledger.
        self._note(record, offset)

    def latest(self, number: int) -> Iterator[dict[str, Any]]:
        """The records of the questions that came last, at most so many, in their order."""
        for uid in list(self._lines)[-number:]:
            record = self.get(uid)
            assert record is not None
            yield record

    def done(self, uid: str) -> bool:
        """Whether the question has a final record."""
        return self._lines.get(uid, (0, False))[1]

    def get(self, uid: str) -> dict[str, Any] | None:
        """The last record of a question, or None."""
        if uid not in self._lines:
            return None
        self._file.seek(self._lines[uid][0])
        record: dict[str, Any] = json.loads(self._file.readline())
        return record

    def __len__(self) -> int:
        return len(self._lines)

    def close(self) -> None:
        self._file.close()
