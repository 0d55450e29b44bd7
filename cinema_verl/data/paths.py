"""Stub."""
from pathlib import Path


def resolve(root: str | Path, name: str) -> Path:
    """Raises Rejected path_url/path_outside/path_missing. A file or a folder (of frames)."""
    raise NotImplementedError


def is_url(name: str) -> bool:
    raise NotImplementedError


class Downloads:
    def __init__(
        self, hosts: frozenset[str], directory: str | Path, *, max_bytes: int = 1 << 30, timeout: float = 30.0
    ) -> None:
        raise NotImplementedError

    def fetch(self, url: str) -> Path:
        """Raises Rejected download_refused/download_failed, path_url when no hosts are allowed; OSError for the disk."""
        raise NotImplementedError
