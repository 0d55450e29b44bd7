"""What the testbed is like before any reinforcement learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cinema_verl.demo.digit_images import Pools, draw_image
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.utils.files import atomic_write, sha256_of
from studies.dps.measure import measure
from studies.dps.policy import StudyPolicy
from studies.dps.records import PROPERTIES
from studies.dps.testbed import RESPONSE, sets


class Pictures(dict[str, Image.Image]):
    """Every image by its name, drawn when it is first asked for."""

    def __init__(self, pools: Pools) -> None:
        super().__init__()
        self.pools = pools

    def __missing__(self, name: str) -> Image.Image:
        self[name] = draw_image(self.pools, name).convert("RGB")
        return self[name]


def policy_digest() -> str:
    """SHA-256 of the shipped policy's weights."""
    return sha256_of(digits_cold_start() / "model.safetensors")


def open_policy(pools: Pools) -> StudyPolicy:
    """The shipped cold-started policy."""
    return StudyPolicy(digits_cold_start(), Pictures(pools))


def prepare(output: Path, pools: Pools) -> dict[str, Any]:
    """Measure the cold start into `output`; what is there already is only read."""
    file = output / PROPERTIES
    if file.exists():
        return json.loads(file.read_text())
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    report = {"policy": policy_digest(), **measure(open_policy(pools), sets(pools).test, RESPONSE)}
    with atomic_write(file) as writing:
        writing.write(json.dumps(report, indent=2) + "\n")
    return report
