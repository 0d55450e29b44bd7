"""What has become of each question, one JSON line each, appended the moment it is known.

After a kill at any moment the lines are whole but for the last, which is cut off and done again. Memory holds where the
lines are, not what they say.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The file at `path`, made if absent; one writer at a time (who also holds the ledger's lock)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 (open for as long as we are)
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
        """Keep a record, which has a `uid` and says whether it is `final`; a later one of the same uid replaces it.

        Raises:
            OSError: the disk is full, or the file cannot be written.
        """
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())
        self._file.flush()  # with the kernel: survives us. A power cut costs lines, and the ledger brings them back.
        self._note(record, offset)

    def done(self, uid: str) -> bool:
        """Whether the question need not be asked about again."""
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
