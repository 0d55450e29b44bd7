"""Where an evaluation lies: beside the dump that it was made from, as `<step>.evaluation.json`, `.md` and `.html`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cinema_verl.evaluate.records import read_rollouts
from cinema_verl.evaluate.summary import summarise
from cinema_verl.evaluate.tables import to_html, to_markdown
from cinema_verl.files import atomic_write

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


def evaluate_dump(
    dump: Path, rollouts_per_question: int | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Sum a dump up and write the three files.

    Args:
        rollouts_per_question, settings: See `summarise`; None takes those of an evaluation that lies there already.

    Raises:
        FileNotFoundError, ValueError: the dump is not there or not one; nothing was written.
    """
    target = dump.with_suffix(f"{_SUFFIX}.json")
    if settings is None and rollouts_per_question is None and target.exists():
        earlier = json.loads(target.read_text(encoding="utf-8"))
        settings, rollouts_per_question = earlier["settings"], earlier["rollouts_per_question"]
    summary = summarise(read_rollouts(dump), rollouts_per_question, settings)
    name = str(summary["settings"].get("model") or dump)
    for suffix, text in (
        (".md", to_markdown(summary, name)),
        (".html", to_html(summary, name)),
        (".json", json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"),
    ):
        with atomic_write(dump.with_suffix(_SUFFIX + suffix)) as file:
            file.write(text)
    return summary
