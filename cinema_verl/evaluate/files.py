"""Where an evaluation lies: beside the dump that it was made from, as `<step>.evaluation.json`, `.md` and `.html`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinema_verl import __version__
from cinema_verl.evaluate.summary import summarise
from cinema_verl.evaluate.tables import to_html, to_markdown
from cinema_verl.runs.rollouts import read_rollouts
from cinema_verl.utils.files import atomic_write

_SUFFIX = ".evaluation"


def dump_of(path: Path) -> Path:
    """The dump that is meant: the file, or the latest of a folder or of its `validation` folder.

    Raises:
        FileNotFoundError: there is none; the message says what was looked for.
    """
    if path.is_file():
        return path
    for folder in (path, path / "validation"):
        if dumps := [file for file in folder.glob("*.jsonl") if file.stem.isdigit()]:
            return max(dumps, key=lambda file: int(file.stem))
    raise FileNotFoundError(f"{path} is no validation dump and holds none (trainer.validation_data_dir/<step>.jsonl)")


def settings_of(config: Any, step: int) -> dict[str, Any]:
    """What of verl's config an evaluation's numbers depend on, to stand in its JSON.

    Args:
        config: the whole config of the run, composed.
        step: training steps that the weights have seen since ``model``.
    """
    rollout, data = config.actor_rollout_ref.rollout, config.data
    files = [data.val_files] if isinstance(data.val_files, str) else list(data.val_files)
    return {
        "model": config.actor_rollout_ref.model.path,
        "checkpoint": config.trainer.resume_from_path if config.trainer.resume_mode == "resume_path" else None,
        "step": step,
        "prompt_mode": data.get("cinema_prompt_mode"),
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
    """Sum a dump up and write the three files.

    Args:
        settings: See `summarise`; None takes those of an evaluation that lies there already.

    Raises:
        FileNotFoundError, ValueError: the dump is not there or not one; nothing was written.
    """
    target = dump.with_suffix(f"{_SUFFIX}.json")
    if settings is None and target.exists():
        settings = _settings_in(target)
    summary = summarise(read_rollouts(dump), settings)
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
        raise ValueError(f"{evaluation} is no evaluation ({error!r}): remove it to make it anew") from error
