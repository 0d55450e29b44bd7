"""Which checkpoint of a run is meant, and what else the run left that belongs beside its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.export.manner import Manner, default, of_row
from cinema_verl.export.shards import ExportError
from cinema_verl.runs.locate import NothingFound, RunFiles, locate
from cinema_verl.training.checkpoint import step_folder, steps_on_disk
from cinema_verl.utils import native_reasoning

TEMPLATE_KWARGS: Final = "data.apply_chat_template_kwargs"
"""What a run gave its chat template."""


@dataclass(frozen=True)
class Found:
    """A checkpoint to export.

    Attributes:
        step: global step.
        folder: of all checkpoints of the run.
        shards: where verl wrote the shards of this one; `huggingface/` is in it.
        run: what else there is of the run; None for checkpoints alone.
    """

    step: int
    folder: Path
    shards: Path
    run: RunFiles | None

    def setting(self, key: str) -> Any:
        return self.run.setting(key) if self.run else None


def find(directory: Path, step: int | None = None) -> Found:
    """The checkpoint of a step, or the newest one, of the run that a folder belongs to.

    Args:
        directory: any folder of the run, as for `cinema-verl report`; or the checkpoint's own.
        step: global step; None for the newest.

    Raises:
        ExportError: there is no such folder, it has no checkpoint, or not this one; those that there are, are named.
    """
    if directory.name.startswith("global_step_") and directory.name[12:].isdecimal():
        named = int(directory.name[12:])
        if step not in (None, named):
            raise ExportError(f"{directory} is step {named}, and --step {step} was asked for: leave one of them out")
        step = named
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise ExportError(f"{directory} {what}: give the folder of a run, or of one of its steps (global_step_N)")
    try:
        run: RunFiles | None = locate(directory)
    except NothingFound:  # checkpoints alone, or the folder of several runs
        run = None
    folder = next((each for each in _places(directory, run) if steps_on_disk(each)), None)
    if folder is None:
        around = {path.parent for depth in ("*", "*/*") for path in directory.glob(f"{depth}/global_step_*")}
        if below := sorted(str(place) for place in around if steps_on_disk(place)):
            raise ExportError(f"{directory} holds no checkpoint itself; give one of {', '.join(below)}")
        if run is None:
            raise ExportError(
                f"{directory} holds neither a model (config.json) nor a run's checkpoints (global_step_N)"
            )
        raise ExportError(
            f"{directory} has no checkpoint (global_step_N) yet: trainer.save_freq says when one is written"
        )
    steps = steps_on_disk(folder)
    step = max(steps) if step is None else step
    if step not in steps:
        raise ExportError(f"{folder} has no step {step}; it has {', '.join(map(str, steps))}")
    checkpoint = step_folder(folder, step)
    actor = checkpoint / "actor"
    return Found(step, folder, actor if actor.is_dir() else checkpoint, run)


def _places(directory: Path, run: RunFiles | None) -> list[Path]:
    directory = directory.absolute()
    around = [directory, directory / "checkpoints", directory.parent, directory.parent / "checkpoints"]
    configured = run and run.setting("trainer.default_local_dir")
    return [*around[:2], *([Path(str(configured))] if configured else []), *around[2:]]


def train_files(found: Found) -> list[Path]:
    """The parquet files that the run was trained on, as far as they are there."""
    if found.run is None:
        return []
    wanted = found.setting("data.train_files")
    names = {Path(str(each)).name for each in (wanted if isinstance(wanted, list) else [wanted]) if each}
    return [path for path in found.run.data if path.name in names]


def manner_of(found: Found) -> tuple[Manner, bool]:
    """How the policy was asked, and whether the run's data says so; else as the recipes ask."""
    manner, known = _asked_in(found)
    return replace(manner, native_reasoning=found.setting(native_reasoning.KEY) or "none"), known


def _asked_in(found: Found) -> tuple[Manner, bool]:
    mode = found.setting("data.cinema_prompt_mode")
    for path in train_files(found):
        with pq.ParquetFile(path) as file:
            if not {"prompt", "images"} <= set(file.schema_arrow.names):
                continue
            batches = file.iter_batches(batch_size=64, columns=["prompt", "images"])
            rows = next(batches, pa.RecordBatch.from_pylist([])).to_pylist()
        if rows:
            row = max(rows, key=lambda row: len(row["images"]))
            return of_row(row["prompt"], row["images"], mode), True
    return default(mode), False


def sources_of(files: Sequence[Path]) -> dict[str, int]:
    """How many rows of each source the files hold, by the part of `data_source` before the first slash."""
    counts: dict[str, int] = {}
    for path in files:
        with pq.ParquetFile(path) as file:
            if "data_source" not in file.schema_arrow.names:
                continue
            for batch in file.iter_batches(columns=["data_source"]):
                for entry in batch.column(0).value_counts().to_pylist():
                    name = str(entry["values"]).partition("/")[0]
                    counts[name] = counts.get(name, 0) + entry["counts"]
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
