"""The files of an evaluation: `<step>.evaluation.json`, `.md` and `.html` beside the dump that it was made from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from cinema_verl import __version__
from cinema_verl.evaluate.summary import summarise
from cinema_verl.evaluate.tables import to_html, to_markdown
from cinema_verl.runs.rollouts import read_strictly, step_files
from cinema_verl.utils import native_reasoning
from cinema_verl.utils.files import atomic_write

_SUFFIX = ".evaluation"


def dump_of(path: Path) -> Path:
    """The dump that `path` names: the file itself, or the latest of the folder or of its `validation` folder.

    Raises:
        FileNotFoundError: there is none; the message says what was looked for.
    """
    if path.is_file():
        return path
    for folder in (path, path / "validation"):
        if dumps := step_files(folder):
            return dumps[-1][1]
    what = "is no validation dump and holds none" if path.exists() else "does not exist"
    raise FileNotFoundError(f"{path} {what}: name a file <step>.jsonl of trainer.validation_data_dir, or its folder")


def settings_of(config: Any, step: int) -> dict[str, Any]:
    """The values of verl's config that an evaluation's numbers depend on, for its JSON.

    Args:
        config: the whole composed config of the run.
        step: training steps between `model` and the weights that are evaluated.
    """
    rollout, data = config.actor_rollout_ref.rollout, config.data
    files = [data.val_files] if isinstance(data.val_files, str) else list(data.val_files)
    return {
        "model": config.actor_rollout_ref.model.path,
        "checkpoint": config.trainer.resume_from_path if config.trainer.resume_mode == "resume_path" else None,
        "step": step,
        "prompt_mode": data.get("cinema_prompt_mode"),
        "native_reasoning": OmegaConf.select(config, native_reasoning.KEY, default="none"),
        "engine": rollout.name,
        "temperature": float(rollout.val_kwargs.temperature),
        "top_p": float(rollout.val_kwargs.top_p),
        "top_k": int(rollout.val_kwargs.top_k),
        "seed": rollout.get("seed"),
        "max_prompt_length": data.max_prompt_length,
        "max_response_length": data.max_response_length,
        "files": files,
        "image_sample": config.cinema.image_sample,
        "cinema_verl": __version__,
    }


def evaluate_dump(dump: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Summarise a dump and write the three files.

    Args:
        settings: see `summarise`; None takes those of an earlier evaluation of this dump, if there is one.

    Returns:
        The summary, as written to the JSON.

    Raises:
        FileNotFoundError, ValueError: the dump is missing or is not one; nothing was written.
    """
    target = dump.with_suffix(f"{_SUFFIX}.json")
    if settings is None and target.exists():
        settings = _settings_in(target)
    summary = summarise(read_strictly(dump), settings)
    run = summary["settings"]
    name = str(run.get("checkpoint") or run.get("model") or dump)
    for suffix, text in (
        (".md", to_markdown(summary, name)),
        (".html", to_html(summary, name)),
        (".json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        with atomic_write(dump.with_suffix(_SUFFIX + suffix)) as file:
            file.write(text)
    return summary


def _settings_in(evaluation: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(evaluation.read_bytes())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{evaluation} is no evaluation ({error!r}): remove it and evaluate its dump again") from error
