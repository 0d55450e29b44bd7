"""Shared fixtures. What a process imports, prints and exits with is tested in processes of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a Python in an empty directory: `run("-c", code, VARIABLE="value")`; stdout and stderr are apart."""
    ours = ("VERL_", "CINEMA_", "PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_RANK", "RAY_ADDRESS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}

    def run(
        *arguments: str, python: str | Path = sys.executable, timeout: int = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python), *arguments],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
