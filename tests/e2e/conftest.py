"""What the end-to-end runs share: how one is killed."""

import signal
import subprocess

import psutil


def kill(process: subprocess.Popen) -> None:
    """kill -9 for the driver and everything that it started, as a machine that goes down does."""
    for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            child.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
