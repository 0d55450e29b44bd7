"""What the end-to-end runs share: how one ends, what it said, how it is killed."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(errors="replace")


def finish(process: subprocess.Popen, folder: Path, limit: float) -> int:
    """The exit code of a run; one that takes more than `limit` seconds is killed, and the test fails."""
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        kill(process)
        pytest.fail(f"no end after {limit} s:\n{log_of(folder)[-5000:]}")


def kill(process: subprocess.Popen) -> None:
    """kill -9 for the driver and everything that it started, as a machine that goes down does."""
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            child.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
