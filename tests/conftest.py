"""Shared fixtures. What a process imports, prints and exits with is tested in processes of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No deadlines: a busy machine is no failure. `ci` looks where it looked yesterday; HYPOTHESIS_PROFILE=thorough looks
# ten times as long, and elsewhere each time.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: the tiny Qwen2.5-VL with random weights, its tokenizer and processor."""
    from cinema_verl.cpu.tiny_model import save_tiny_model

    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path
