"""A small made-up run on the disk, as verl and this package write one; tests leave out or spoil its parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.prompts import messages
from cinema_verl.reward import compute_score

RIGHT, WRONG = "B", "A"
ASKED = "Image 1: <image>\nImage 2: <image>\nWhich square is red?"
OPTIONS = ("first", "second")
TEXTS = (
    f"<focus>the second one is red</focus><answer>{RIGHT}</answer>",
    f"<global>both show a square</global><think>red is the second</think><answer>{RIGHT}</answer>",
    f"<focus>the first one is red</focus><answer>{WRONG}</answer>",
    f"<think>no closing tag<answer>{WRONG}</answer>",
)


def question(index: int, source: str, images: list[Path], text: str, options: tuple[str, ...]) -> dict[str, Any]:
    return rl_row(
        uid=f"squares/{index}", index=index, split="train", data_source=source, ability="colour", modality="multi",
        prompt=messages(text), images=[image_cell(path, min_pixels=3136, max_pixels=602112) for path in images],
        question=text, answer=RIGHT, answer_type="mcq", options=list(options),
    )  # fmt: skip


def rollouts(step: int, rows: list[dict[str, Any]], texts: tuple[str, ...], coefficient: float) -> list[dict[str, Any]]:
    """What `trainer.rollout_data_dir` holds of one step: a group of `texts` for each row."""
    dumped = []
    for number, row in enumerate(rows):
        for session, text in enumerate(texts):
            score = compute_score(row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"])
            dumped.append(
                {"input": "user\nWhich square is red?\nassistant\n", "output": text, "gts": RIGHT, "step": step}
                | score
                | {"data_source": row["data_source"], "stop_reason": "answer", "response_tokens": len(text) // 4}
                | {"diversity_coefficient": coefficient, "uid": f"prompt{step}x{number}_{session}_0"}
            )
    return dumped


def metrics(step: int, stage: int, coefficient: float) -> dict[str, Any]:
    return {
        "critic/rewards/mean": 0.5 + step / 100, "cinema/acc": 0.5, "cinema/format": 0.75, "actor/entropy": 1 / step,
        "cinema/pattern_entropy": 1.0, "cinema/unique_patterns": 3.0, "cinema/diversity_coefficient": coefficient,
        "cinema/diversity_advantage_share": 0.01, "cinema/stage": float(stage), "response_length/mean": 20.0 + step,
        "prompt_length/mean": 30.0, "cinema/dynamic_sampling/mixed": 0.5, "cinema/dynamic_sampling/all_right": 0.4,
        "cinema/dynamic_sampling/all_wrong": 0.1, "val-core/squares/acc/mean@4": 0.6, "timing_s/step": 2.0,
    }  # fmt: skip


def write_lines(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_run(
    folder: Path,
    steps: int = 6,
    sources: tuple[str, ...] = ("squares", "circles"),
    texts: tuple[str, ...] = TEXTS,
    asked: str = ASKED,
    options: tuple[str, ...] = OPTIONS,
    images: int = 2,
    model: str = "/models/made-up",
) -> Path:
    """Two stages, a group of `texts` for each source at each step, `images` a question."""
    rows = []
    (folder / "data" / "images").mkdir(parents=True)
    for index, source in enumerate(sources):
        paths = [folder / "data" / "images" / f"{index}-{place}.png" for place in range(images)]
        for place, path in enumerate(paths):
            Image.new("RGB", (40, 30), (255 * place % 256, 40 * index, 90)).save(path)
        rows.append(question(index, source, paths, asked, options))
    write_parquet(rows, RL_SCHEMA, folder / "data" / "train.parquet")

    exploration = steps // 2
    lines = []
    for step in range(1, steps + 1):
        stage = 1 if step <= exploration else 2
        coefficient = 0.1 if stage == 1 else 0.05
        lines.append({"step": step, "data": metrics(step, stage, coefficient)})
        write_lines(folder / "rollouts" / f"{step}.jsonl", rollouts(step, rows, texts, coefficient))
    write_lines(folder / "metrics.jsonl", lines)

    config = {
        "cinema": {"coefficient": 0.1, "exploration_steps": exploration, "annealing_steps": steps - exploration,
                   "annealing_shape": "linear", "pattern_mode": "exact"},
        "trainer": {"project_name": "cinema", "experiment_name": "made_up", "total_training_steps": None},
        "actor_rollout_ref": {"model": {"path": model}, "rollout": {"n": len(texts)}},
        "data": {"train_files": str(folder / "data" / "train.parquet"), "val_files": None},
    }  # fmt: skip
    (folder / "hydra" / ".hydra").mkdir(parents=True)
    (folder / "hydra" / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """`make_run(folder, steps=6, sources=..., texts=..., ...)`: see `write_run`."""
    return write_run


@pytest.fixture(scope="session")
def report() -> Callable[..., tuple[int, str]]:
    """Run the command in this process: `report(*arguments)`."""
    from cinema_verl.report.command import main

    return lambda *arguments: main([str(argument) for argument in arguments])
