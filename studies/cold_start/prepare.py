"""What all arms begin from: the backbone after its pretraining, and every question's second paths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch

from cinema_verl.cold_start.retrieval import PACKAGED_ENCODER, Encoder
from cinema_verl.demo.digit_images import Pools, load_pools
from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.demo.tiny_model import save_tiny_model
from cinema_verl.utils.files import atomic_write, sha256_of
from studies.cold_start import data
from studies.cold_start.sft import fine_tune
from studies.dps.measure import measure
from studies.dps.policy import StudyPolicy
from studies.dps.prepare import Pictures
from studies.dps.records import PROPERTIES
from studies.dps.testbed import RESPONSE, sets

SAMPLES: Final = 8  # our choice: a measurement of 400 questions then costs 6 CPU seconds
SECONDS: Final = "seconds.json"


def backbone(output: Path) -> Path:
    """Where the pretrained weights are: a Hugging Face directory."""
    return output / "backbone"


def prepare(output: Path) -> dict[str, Any]:
    """Pretrain and retrieve into `output`; each of the two is done once."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    pools = load_pools()
    pretraining, cold_start = data.draw(pools)
    if not (output / SECONDS).exists():
        _write(output / SECONDS, _second_paths(cold_start[: data.QUESTIONS]))
    if not (output / PROPERTIES).exists():
        _write(output / PROPERTIES, _pretrained(output, pools, pretraining))
    return json.loads((output / PROPERTIES).read_text())


def second_paths(output: Path) -> data.Seconds:
    """What `prepare` retrieved."""
    return [
        {tuple(first): (tuple(least), tuple(most)) for first, least, most in each}
        for each in json.loads((output / SECONDS).read_text())
    ]


def _second_paths(questions: list[DigitsQuestion]) -> list[Any]:
    print(f"retrieving second paths of {len(questions)} questions", flush=True)
    found = data.second_paths(questions, Encoder(PACKAGED_ENCODER, "cpu"))
    return [[[first, *both] for first, both in each.items()] for each in found]


def _pretrained(output: Path, pools: Pools, questions: list[DigitsQuestion]) -> dict[str, Any]:
    directory = backbone(output)
    shutil.rmtree(directory, ignore_errors=True)
    save_tiny_model(directory)
    policy = StudyPolicy(directory, Pictures(pools))
    rows = [data.Row(question, data.HABIT) for question in questions]
    fine_tune(
        policy, rows, lambda step, loss: step % 100 or print(f"pretraining, step {step}: loss {loss:.3f}", flush=True)
    )
    save_tiny_model(directory, weights=policy.model.state_dict())
    report = measure(policy, sets(pools).test, RESPONSE, SAMPLES)
    return {"policy": sha256_of(directory / "model.safetensors"), **report}


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(value) + "\n")
