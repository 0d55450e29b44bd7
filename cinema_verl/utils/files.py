"""Atomic writes, a lock that does not wait, and digests of files."""

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What an OSError says of a disk, a quota or a limit that takes no more."""


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", *, durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it when the block ends well, and vanishes when it does not.

    The content is on the disk before the name is: after a crash of the machine, too, the name never points at half
    a file. Missing folders are made. Text is UTF-8. Threads and processes may write the same path at a time.

    Args:
        mode: "w" for text, "wb" for bytes.
        durable: Wait for the disk. False is safe against kill -9, and not against a crash of the machine.

    Raises:
        OSError: the folder cannot be written, or the disk is full, with `path` in it; `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in FULL and error.filename is None:  # a write does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


class Locked(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def only_one(path: str | Path) -> Iterator[None]:
    """Hold the lock file at `path`, made where missing, for as long as the block and the process last.

    The kernel releases the lock of a process that dies, so nothing has to be cleaned up after kill -9. The file stays.

    Raises:
        Locked: another process holds it. It is not waited for.
        OSError: the file cannot be made.
    """
    path = Path(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Locked(f"another process is at work in {path.parent}") from error
            if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
                continue  # who held it has removed it since: a lock that nobody else would find is none
            yield
            return


def sha256_of(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
