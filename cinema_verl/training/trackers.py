"""What trackers show of a validation: a few questions with their images, and the rollouts of each as a group.

verl writes `trainer.log_val_generations` single generations, as input, output and score. Here it is the number of
questions, the same ones at every validation. Weights & Biases and TensorBoard get our columns and the images, through
the loggers that verl has opened; its other trackers get verl's own three columns.

What a model wrote is untrusted: TensorBoard's Markdown holds it in indented code only, where nothing is a link.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageOps
from verl.utils.tracking import Tracking, ValidationGenerationsLogger

from cinema_verl.meta_action import Trajectory, parse
from cinema_verl.utils.stable_random import rank

logger = logging.getLogger(__name__)

NAME: Final = "val/generations"
"""verl's own name for it."""
COLUMNS: Final = (
    *("step", "question", "images", "gold", "rollout", "pattern", "answer"),
    *("acc", "format", "score", "verdict", "stop", "tokens", "response", "source", "uid"),
)
SIDE: Final = 160
"""Pixels of a picture's longer side. Our choice: that of the report's pictures."""
ACROSS: Final = 8
MOST_ROLLOUTS: Final = 16
"""Of a question. Our choice: those of an evaluation's pass@16."""


@dataclass(frozen=True)
class ShownGroup:
    """A question and its rollouts.

    Attributes:
        prompt: as verl decodes it.
        images: paths, in the question's order.
        rollouts: what the reward said of each, with `output` and `score`.
    """

    uid: str
    source: str
    prompt: str
    question: str
    gold: str
    images: tuple[str, ...]
    rollouts: tuple[Mapping[str, Any], ...]


def choose(
    sources: Sequence[str], uids: Sequence[str], infos: Mapping[str, Sequence[Any]], count: int
) -> list[tuple[tuple[str, str], list[int]]]:
    """The questions to be shown, by source and name, and where their rollouts are, ordered by a hash of their names.

    Args:
        sources: (B,) `data_source` of each rollout.
        uids: (B,) verl's names for the questions, new ones at each validation.
        infos: columns of (B,), what the reward said.
        count: how many questions at most.
    """
    named = infos.get("question_uid") or [None] * len(uids)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, (source, name, uid) in enumerate(zip(sources, named, uids, strict=True)):
        groups.setdefault((source, name or uid), []).append(i)
    chosen = sorted(groups, key=lambda key: (rank(0, key[1]), key))[:count]
    return [(key, groups[key][:MOST_ROLLOUTS]) for key in chosen]


def shown_groups(
    sources: Sequence[str],
    uids: Sequence[str],
    samples: Mapping[str, Sequence[Any]],
    infos: Mapping[str, Sequence[Any]],
    rows: Iterable[Mapping[str, Any]],
    count: int,
) -> list[ShownGroup]:
    """As `choose`, with the questions' texts and images.

    Args:
        samples: columns of (B,), verl's inputs, outputs and scores.
        rows: of the validation data, in `cinema_verl.data.schema.RL_SCHEMA`; a question that is not among them is shown
            by its prompt.
    """
    chosen = choose(sources, uids, infos, count)
    wanted = {key for key, _ in chosen}
    named = (((row["data_source"], row["extra_info"]["uid"]), row) for row in rows)  # uids recur over other images
    known = {key: row for key, row in named if key in wanted}
    groups = []
    for (source, name), places in chosen:
        row, first = known.get((source, name)), places[0]
        groups.append(
            ShownGroup(
                uid=name,
                source=source,
                prompt=str(samples["inputs"][first]),
                question=str((row["extra_info"].get("question") if row else None) or samples["inputs"][first]),
                gold=str(row["reward_model"]["ground_truth"]) if row else "",
                images=tuple(str(cell["image"]) for cell in row["images"] or ()) if row else (),
                rollouts=tuple(
                    {key: column[i] for key, column in infos.items()}
                    | {"output": str(samples["outputs"][i]), "score": float(samples["scores"][i])}
                    for i in places
                ),
            )
        )
    return groups


def log_groups(groups: Sequence[ShownGroup], tracking: Tracking, verls: ValidationGenerationsLogger, step: int) -> None:
    """Write the groups to every tracker of the run."""
    others = []
    for backend, opened in tracking.logger.items():
        if backend == "wandb":
            _to_wandb(groups, opened, step)
        elif backend == "tensorboard":
            _to_tensorboard(groups, opened.writer, step)
        else:
            others.append(backend)
    verls.log(others, [(g.prompt, each["output"], each["score"]) for g in groups for each in g.rollouts], step)


def contact_sheet(paths: Sequence[str]) -> Image.Image | None:
    """The pictures of a question, numbered from 1, eight in a row; None if it has none.

    One that is gone by now is warned of, and its place stays empty: a tracker's picture is not worth a run.
    """
    if not paths:
        return None
    high = SIDE + 14
    size = (SIDE * min(ACROSS, len(paths)), high * (1 + (len(paths) - 1) // ACROSS))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for i, path in enumerate(paths):
        x, y = i % ACROSS * SIDE, i // ACROSS * high
        draw.text((x + 2, y + 1), str(i + 1), fill="black")
        try:
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            logger.warning("%s is not shown beside its question: %s", path, error)
            continue
        sheet.paste(ImageOps.contain(picture, (SIDE - 4, SIDE - 4)), (x + 2, y + 14))
    return sheet


def _to_wandb(groups: Sequence[ShownGroup], wandb: Any, step: int) -> None:
    table = wandb.Table(columns=list(COLUMNS))
    for group in groups:
        sheet = contact_sheet(group.images)
        image = wandb.Image(sheet) if sheet else None
        for number, rollout in enumerate(group.rollouts, start=1):
            cells = {
                "step": step,
                "question": group.question,
                "images": image,
                "gold": group.gold,
                "rollout": number,
                "answer": _trajectory(rollout).answer,
                "stop": rollout.get("stop_reason"),
                "tokens": rollout.get("response_tokens"),
                "response": rollout["output"],
                "source": group.source,
                "uid": group.uid,
            }
            table.add_data(*(cells[name] if name in cells else rollout.get(name) for name in COLUMNS))
    wandb.log({NAME: table}, step=step)


def _to_tensorboard(groups: Sequence[ShownGroup], writer: Any, step: int) -> None:
    for number, group in enumerate(groups, start=1):
        writer.add_text(f"{NAME}/{number}", markdown(group), step)
        if sheet := contact_sheet(group.images):
            writer.add_image(f"{NAME}/{number}", np.asarray(sheet), step, dataformats="HWC")
    writer.flush()


def markdown(group: ShownGroup) -> str:
    """A group as TensorBoard shows it: the question, a table of its rollouts, and each in full."""
    lines = [_code(f"{group.source} {group.uid}\n{group.question}\ngold: {group.gold}"), ""]
    lines += ["| | pattern | acc | format | score |", "| --- | --- | --- | --- | --- |"]
    for number, rollout in enumerate(group.rollouts, start=1):
        pattern = _trajectory(rollout).pattern or "none"  # of the grammar's words
        cells = [str(number), pattern, *(_number(rollout.get(name)) for name in ("acc", "format", "score"))]
        lines.append("| " + " | ".join(cells) + " |")
    for number, rollout in enumerate(group.rollouts, start=1):
        lines += ["", f"**{number}**", "", _code(rollout["output"])]
    return "\n".join(lines)


def _trajectory(rollout: Mapping[str, Any]) -> Trajectory:
    """Without what the reward took off for the model's own reasoning."""
    return parse(rollout["output"].removeprefix(rollout.get("stripped") or ""))


def _code(text: str) -> str:
    # splitlines, as Markdown sees lines: no line of the text may stand outside the indented block.
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "


def _number(value: Any) -> str:
    return "" if value is None else f"{float(value):g}"
