"""Are the files of rows there, and of the kind that the run reads? verl opens them minutes into a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.refusal import VERLS_OWN, Refusal, fine_tunes, value_of


class Unusable(NamedTuple):
    """What is wrong with a file, and what to do."""

    what: str
    advice: str


def local_path(path: str, *, supervised: bool) -> Path | None:
    """Where verl looks for a file on this machine; None for one that is elsewhere (`hdfs://`).

    Args:
        path: as `data.train_files` or `data.val_files` has it.
        supervised: whether verl's SFT program reads it, with pandas, which knows `~`; `datasets` does not.
    """
    if re.match(r"\w+://", path):
        return None
    return Path(path).expanduser() if supervised else Path(path)


def unusable(path: str, local: Path, split: str) -> Unusable | None:
    """Why no run of this machine can open a file; None for one that is there.

    Args:
        path, local: see `local_path`.
        split: `train` or `val`.
    """
    if not local.exists() and path in VERLS_OWN:
        return Unusable(f"no file is named ({path} is verl's own default)", f"name them: data.{split}_files=[a,b]")
    if not local.exists():
        advice = f"correct data.{split}_files"
        if set(path) & set("*?[~"):
            advice = f"give data.{split}_files whole paths, [a,b] for several: verl expands no patterns and no ~"
        return Unusable(f"{path} does not exist", advice)
    if local.is_dir():
        return Unusable(f"{path} is a folder", f"name its files: data.{split}_files=[a,b]")
    return None


def file_refusals(config: DictConfig) -> list[Refusal]:
    """Every file of a composed configuration that cannot be read; of files elsewhere (`hdfs://`) nothing is known."""
    supervised = fine_tunes(config)
    found = []
    for split in ("train", "val"):
        key, paths = f"data.{split}_files", _listed(config, split)
        if not paths and not (supervised and split == "val"):
            advice = "name one; a reinforcement learning run opens both, whether it validates or not"
            found.append(Refusal(key, "no file is named", "name one" if supervised else advice))
        for path in dict.fromkeys(paths):
            local = local_path(path, supervised=supervised)
            if local and (fault := unusable(path, local, split) or _of_another_kind(config, path, local)):
                found.append(Refusal(key, *fault))
    return found


def _of_another_kind(config: DictConfig, path: str, local: Path) -> Unusable | None:
    """Why a parquet file has no rows for this program: from its footer."""
    if local.suffix != ".parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(local).names
    except (OSError, pa.ArrowException) as error:
        return Unusable(f"{path} cannot be read: {error}", "copy it again, or make it again")
    reader = str(value_of(config, "data.custom_cls.path") or "cinema_verl.data")
    key, default = ("messages_key", "messages") if fine_tunes(config) else ("prompt_key", "prompt")
    column = value_of(config, f"data.{key}", default)
    if column in columns or "cinema_verl.data" not in reader:  # somebody's own class may read anything
        return None
    other = {"messages": "supervised fine-tuning", "prompt": "reinforcement learning"}
    made_for = [program for name, program in other.items() if name in columns]
    what = f"{path} has no column {column} for data.{key}" + (f": its rows are for {made_for[0]}" if made_for else "")
    return Unusable(what, f"name another file, or the column that it has as data.{key}")


def _listed(config: DictConfig, split: str) -> list[str]:
    files = OmegaConf.select(config, f"data.{split}_files")
    return [str(file) for file in ([files] if isinstance(files, str) else files or []) if file]
