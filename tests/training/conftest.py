"""What a run needs beside its configuration, made up."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def files_of_digits(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work where the files are that the recipes for a CPU name; their rows are made up."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "outputs" / "digits").mkdir(parents=True)
    for name in ("train", "test", "sft_train", "sft_val"):
        column = "messages" if name.startswith("sft") else "prompt"
        pq.write_table(pa.table({column: ["x"] * 5000}), folder / "outputs" / "digits" / f"{name}.parquet")
    monkeypatch.chdir(folder)
    return folder
