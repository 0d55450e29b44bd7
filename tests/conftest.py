"""Shared fixtures. What a process imports, prints and exits with is tested in processes of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No deadlines: a busy machine is no failure. `ci` looks where it looked yesterday; HYPOTHESIS_PROFILE=thorough looks
# ten times as long, and elsewhere each time.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Data sets and runs that several folders of tests make up (tests/fixtures/).
pytest_plugins = ["made_up_data", "made_up_package", "made_up_run"]

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
    from cinema_verl.demo.tiny_model import save_tiny_model

    path = tmp_path_factory.mktemp("tiny")
    save_tiny_model(path)
    return path


@pytest.fixture(scope="session")
def processor() -> Any:
    """The tiny model's processor."""
    from cinema_verl.demo.tiny_model import build_processor, build_tokenizer

    return build_processor(build_tokenizer())


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the package `datasets` that a test has for itself."""
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def _open_page(path: Path, viewport: dict[str, int] = DESKTOP, color_scheme: str = "light") -> Iterator[Any]:
    """The page of a local HTML file; `page.problems` collects console errors, exceptions, dialogs and requests.

    Chromium comes from the system (`apt-get install chromium`), its driver from the package `playwright`. Without a
    browser the test is skipped, unless CINEMA_REQUIRE_CHROMIUM is set, as it is in CI.
    """
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        if os.environ.get("CINEMA_REQUIRE_CHROMIUM"):
            pytest.fail("CINEMA_REQUIRE_CHROMIUM is set and there is no chromium on the PATH")
        pytest.skip("no chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            page = browser.new_page(viewport=viewport, color_scheme=color_scheme)
            problems: list[str] = []
            page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
            page.on(
                "request",
                lambda request: request.url.startswith(("file:", "data:")) or problems.append(f"asked {request.url}"),
            )
            page.problems = problems
            page.goto(path.absolute().as_uri())
            yield page
        finally:
            browser.close()


@pytest.fixture(scope="session")
def open_page() -> Callable[..., AbstractContextManager[Any]]:
    """`with open_page(path, viewport=PHONE, color_scheme="dark") as page`: see `_open_page`."""
    return _open_page
