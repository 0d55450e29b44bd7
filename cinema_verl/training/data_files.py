"""Are the files of rows there? verl opens them after Ray and the model, minutes into a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.refusal import Refusal, fine_tunes


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
    if not local.exists():
        advice = f"correct data.{split}_files"
        if set(path) & set("*?[~"):
            advice = f"give data.{split}_files whole paths, [a,b] for several: verl expands no patterns and no ~"
        return Unusable(f"{path} does not exist", advice)
    if local.is_dir():
        return Unusable(f"{path} is a folder", f"name its files: data.{split}_files=[a,b]")
    return None


def file_refusals(config: DictConfig) -> list[Refusal]:
    """Every file of a composed configuration that is not there; of files elsewhere (`hdfs://`) nothing is known."""
    supervised = fine_tunes(config)
    return [
        Refusal(f"data.{split}_files", *found)
        for split in ("train", "val")
        for path in dict.fromkeys(_listed(config, split))
        if (local := local_path(path, supervised=supervised)) and (found := unusable(path, local, split))
    ]


def _listed(config: DictConfig, split: str) -> list[str]:
    files = OmegaConf.select(config, f"data.{split}_files")
    return [str(file) for file in ([files] if isinstance(files, str) else files or []) if file]
