"""Every process of a run has the same cinema-verl and verl, or the run ends where it would have begun.

On a cluster each node imports its own installation. Two that differ would train with two rewards, or fail hours later
in a place that says nothing about it. The process that starts a run tells the others what it has: in a variable that
Ray forwards, or through the process group of torchrun.
"""

import hashlib
import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

import verl

from cinema_verl import __version__

VARIABLE: Final = "CINEMA_VERL_STARTED_WITH"


class VersionsDiffer(RuntimeError):
    """Two processes of a run have different installations; the message says which, where, and what to do."""


@cache
def installed() -> str:
    """What this process has: versions, and a digest of the package's own code, which a checkout may have changed."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return f"cinema-verl {__version__} ({digest.hexdigest()[:12]}), verl {verl.__version__}"


def refuse_another_version() -> None:
    """To be called in a process of a run before it does anything.

    Raises:
        VersionsDiffer: the process that started the run has another installation.
    """
    started_with = os.environ.get(VARIABLE, installed())
    if started_with != installed():
        _refuse([("the process that started the run", started_with), (socket.gethostname(), installed())])


def refuse_different(hosts: Sequence[tuple[str, str]]) -> None:
    """The same, where every process knows of all.

    Args:
        hosts: of each process, the name of its machine and what it has installed.

    Raises:
        VersionsDiffer: they are not all the same.
    """
    if len({has for _, has in hosts}) > 1:
        _refuse(sorted(set(hosts)))


def _refuse(hosts: Sequence[tuple[str, str]]) -> None:
    listed = "".join(f"\n  {host}: {has}" for host, has in hosts)
    raise VersionsDiffer(
        f"the processes of this run do not have the same packages:{listed}\nInstall the same release on every node (or "
        "the same commit; the number in brackets is a digest of the package's code), and start again: nothing was "
        "trained"
    )
