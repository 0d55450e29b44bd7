"""Files of records, and of lines that are none."""

import json
from pathlib import Path
from typing import Any


def file_with(folder: Path, *lines: Any, name: str = "file.jsonl") -> Path:
    """A line for each: bytes as they are, anything else as JSON."""
    path = folder / name
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path
