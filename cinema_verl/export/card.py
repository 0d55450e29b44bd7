"""The model card: what the run itself says of the policy, and what it does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cinema_verl.data import sources as known_sources
from cinema_verl.evaluate.validations import read_validation, table
from cinema_verl.export.find import Found, sources_of, train_files
from cinema_verl.export.manner import STOP, Manner
from cinema_verl.prepare.sources import adapter
from cinema_verl.runs.locate import RUN
from cinema_verl.runs.rollouts import step_files
from cinema_verl.runs.stages import planned
from cinema_verl.schedule import Stages

_DEMO: Final = {
    "digits": ("handwritten digits of scikit-learn (UCI, Optical Recognition of Handwritten Digits)", "cc-by-4.0")
}
_UNKNOWN: Final = "not known here: state it before you publish"
_RECIPES: Final = ("+recipe=", "recipe=")


def card(found: Found, manner: Manner, dtype: str, name: str) -> str:
    """The text of `README.md`.

    Args:
        dtype: of the weights that are written, as torch calls it.
        name: of the exported folder.
    """
    base = str(found.setting("actor_rollout_ref.model.path") or found.setting("model.path") or "")
    on_hub = base if base.count("/") == 1 and not base.startswith((".", "/", "~")) else ""
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "tags: [cinema, multi-image, verl]",
    ]
    head += [f"base_model: {on_hub}"] * bool(on_hub) + ["---", ""]
    sections = [
        f"# {name}",
        "A policy of the method CINEMA (arXiv 2601.07298): it answers questions over images by meta-actions "
        "(`<global>`, `<focus>`, `<hint>`, `<think>`) that end with one `<answer>`.",
        _made(found, on_hub or Path(base).name, dtype),
        _data(found),
        _evaluation(found),
        _use(manner),
        _limits(),
    ]
    return "\n".join(head) + "\n\n".join(sections) + "\n"


def last_start(found: Found) -> Mapping[str, Any]:
    """What `run.json` says of the latest start; empty where there is none that can be read."""
    try:
        start = json.loads((found.folder / RUN).read_bytes())["starts"][-1]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return {}
    return start if isinstance(start, dict) else {}


def _made(found: Found, base: str, dtype: str) -> str:
    start = last_start(found)
    overrides = [str(each) for each in start.get("overrides") or (found.run.overrides if found.run else ())]
    recipes = [each.partition("=")[2] for each in overrides if each.startswith(_RECIPES)]
    seeds = ", ".join(f"{key} {value}" for key, value in (start.get("seeds") or {}).items())
    versions = ", ".join(f"{key} {value}" for key, value in (start.get("versions") or {}).items())
    plan = planned(found.run) if found.run else None
    total = plan.total_steps if plan else 0
    rows = {
        "base model": base,
        "recipe": ", ".join(recipes),
        "step": f"{found.step}" + (f" of {total}" if found.step <= total else ""),
        "stages": _reached(plan, found.step) if plan else "",
        "advantage estimator": found.setting("algorithm.adv_estimator"),
        "rollouts a question": found.setting("actor_rollout_ref.rollout.n"),
        "questions a step": found.setting("data.train_batch_size"),
        "learning rate": found.setting("actor_rollout_ref.actor.optim.lr") or found.setting("optim.lr"),
        "LoRA rank": found.setting("actor_rollout_ref.model.lora_rank") or found.setting("model.lora_rank"),
        "seeds": seeds,
        "versions": versions,
        "commit of cinema-verl": (start.get("commits") or {}).get("cinema_verl"),
        "weights": dtype,
    }
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items() if value not in (None, "", 0)]
    return "\n".join(["## How it was made", "", "| | |", "| --- | --- |", *lines])


def _reached(plan: Stages, step: int) -> str:
    """The stages up to a step, and how far the last one came."""
    begun = [(stage, last) for stage, first, last in plan.spans() if first <= step]
    return "; ".join(f"{stage}" + (f", to step {step}" if step < last else "") for stage, last in begun)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _data(found: Found) -> str:
    counts = sources_of(train_files(found))
    if not counts:
        return f"## Data\n\nThe training files were not found. Sources and licences: {_UNKNOWN}."
    lines = ["| source | rows | what | licence |", "| --- | ---: | --- | --- |"]
    for source, rows in counts.items():
        what, licence = _source(source)
        lines.append(f"| {_cell(source)} | {rows:,} | {_cell(what)} | {_cell(licence)} |")
    return "\n".join(
        [
            "## Data",
            "",
            *lines,
            "",
            "Licences are as the sources' cards state them; the base model's holds beside them.",
        ]
    )


def _source(name: str) -> tuple[str, str]:
    if name in _DEMO:
        return _DEMO[name]
    if name not in known_sources.kinds():
        return "", _UNKNOWN
    known = adapter(name)
    return known.summary, known.license


def _evaluation(found: Found) -> str:
    rows = []
    for folder, what in _validations(found):
        files = dict(step_files(folder))
        for step in sorted({0, found.step} & files.keys()) if what == "validation" else sorted(files):
            name = "before training" if step == 0 and what == "validation" else f"this policy ({what})"
            rows.append((name, read_validation(files[step])))
    if not rows:
        return "## Evaluation\n\nNo validation of this step was found: its accuracy is not known."
    asked = rows[-1][1]
    return (
        f"## Evaluation\n\n{table(rows)}\n\n{len(asked.questions)} questions of the run's validation file, "
        f"{asked.rollouts} rollouts each; means over questions with 95 % intervals."
    )


def _validations(found: Found) -> list[tuple[Path, str]]:
    named = found.setting("trainer.validation_data_dir")
    places = [found.folder / "validation", found.folder.parent / "validation", *([Path(str(named))] if named else [])]
    folders = [(place, "validation") for place in places if step_files(place)][:1]
    evaluation = found.folder / "evaluation" / f"global_step_{found.step}"
    return folders + ([(evaluation, "evaluation")] if step_files(evaluation) else [])


def _use(manner: Manner) -> str:
    system = (
        f"The system prompt it was trained under is in `cinema.json`, and begins: “{manner.system[:80]}…”."
        if (manner.system)
        else "It was trained without a system prompt."
    )
    if manner.native_reasoning == "strip":
        system += " It reasons on its own first: its trajectory begins behind the `</think>` that ends that."
    return (
        "## Use\n\n"
        f'    cinema-verl ask FOLDER --image a.jpg --image b.jpg "Which …?"\n\n{system} Generation must stop at '
        f"`{STOP}`: `generation_config.json` has it as `stop_strings`, for which transformers wants "
        "`model.generate(…, tokenizer=processor.tokenizer)`. vLLM reads no stop texts from that file: send "
        f'`"stop": ["{STOP}"], "include_stop_str_in_output": true` with each request.'
    )


def _limits() -> str:
    return (
        "## Limits\n\nThe reward looked at the answer and at the form of the actions, not at whether what they say of "
        "the images is true: read them as the policy's words, not as evidence. Questions of other kinds than those of "
        "the data above were not measured."
    )
