"""The study's records: one JSON object a line, written whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

PROPERTIES: Final = "properties.json"
"""What the cold start is like, beside the records."""
FILES: Final = "records-*.jsonl"
"""One for each process."""
THROUGH_VERL: Final = "verl/"
"""Begins the name of a unit that was trained through verl itself."""


def of_unit(unit: str, seed: int, policy: str, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record of what `train` finds for each arm, with the seconds that it takes.

    Args:
        policy: digest of the weights that it begins from.
    """
    begun, cpu = time.time(), time.process_time()
    arms = train()
    return {
        "unit": unit,
        "seed": seed,
        "policy": policy,
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "seconds": round(time.time() - begun, 1),
        "arms": arms,
    }


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record, on the disk when this returns."""
    line = json.dumps(record, sort_keys=True) + "\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def mend(path: Path) -> None:
    """Cut off the unfinished last line that a killed process may have left, before its successor writes on."""
    if not path.exists():
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


class OtherPolicy(ValueError):
    """Records in the output folder belong to another policy at the start."""


def done(file: Path, policy: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The records beside a file that is about to be written on, and in it, by unit and seed.

    Args:
        file: of this process, mended first.
        policy: digest of the weights that the study begins from.

    Raises:
        OtherPolicy: if a record began from others.
    """
    mend(file)
    found = {}
    for record in read(sorted(file.parent.glob(FILES))):
        if record["policy"] != policy:
            raise OtherPolicy(
                f"{file.parent} holds records of the policy {record['policy'][:12]}, and it would begin from "
                f"{policy[:12]} now: choose another --output"
            )
        found[record["unit"], record["seed"]] = record
    return found


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """All records but an unfinished last line, which a running process is writing, or a killed one left.

    Raises:
        ValueError: for any other line that is no JSON object.
    """
    found = []
    for path in paths:
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}:{number} is no record: {line[:60]!r}") from error
    return found
