"""What a run needs beside its configuration, made up."""

from pathlib import Path

import pytest


@pytest.fixture
def files_of_digits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the files are that the recipes for a CPU name; there is nothing in them."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "outputs" / "digits").mkdir(parents=True)
    for name in ("train", "test", "sft_train", "sft_val"):
        (folder / "outputs" / "digits" / f"{name}.parquet").touch()
    monkeypatch.chdir(folder)
    return folder
