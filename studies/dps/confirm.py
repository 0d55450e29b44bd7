"""An arm of the study through verl itself, with the same questions in the same order and the same random numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cinema_verl.demo.digit_images import load_pools
from cinema_verl.utils.resolvers import package_path
from studies.dps import records
from studies.dps.arms import EXPLOITATION, EXPLORATION, RECIPES, STEPS
from studies.dps.loop import OVERLONG_SHARE, in_order
from studies.dps.measure import measure
from studies.dps.policy import StudyPolicy
from studies.dps.prepare import Pictures, policy_digest
from studies.dps.testbed import RESPONSE, sets, write_parquet


def overrides(recipe: str) -> list[str]:
    """What makes `cinema_cpu` the recipe of an arm: what that recipe sets of the method."""
    found: list[str] = []

    def walk(section: Mapping[str, Any], prefix: str) -> None:
        for name, value in section.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            else:
                found.append(f"{prefix}{name}={'null' if value is None else value}")

    if recipe != "cinema_cpu":
        set_by = yaml.safe_load(Path(package_path(f"recipes/recipe/{recipe}.yaml")).read_text())
        for section in ("algorithm", "cinema", "data"):
            walk(set_by.get(section, {}), f"{section}.")
    return found


def command(file: Path, folder: Path, seed: int, exploration: int, exploitation: int, save_every: int) -> list[str]:
    """verl's training of the testbed's questions, in their order, with every checkpoint kept."""
    steps = exploration + exploitation
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=cinema_cpu"),
        *(f"data.train_files={file}", f"data.val_files={file}", "data.shuffle=false"),
        f"data.max_response_length={RESPONSE}",
        f"reward.reward_kwargs.overlong_buffer_cfg.len={int(RESPONSE * OVERLONG_SHARE)}",
        *(f"actor_rollout_ref.rollout.seed={seed}", "cinema.image_conditions=[]"),
        *(f"cinema.exploration_steps={exploration}", f"cinema.annealing_steps={exploitation}"),
        *("trainer.test_freq=-1", "trainer.val_before_train=false"),
        *(f"trainer.save_freq={save_every}", f"trainer.max_actor_ckpt_to_keep={steps // save_every}"),
        *(f"trainer.default_local_dir={folder.absolute()}/run", f"hydra.run.dir={folder.absolute()}/hydra"),
    ]


def confirm(output: Path, arm: str, seed: int) -> dict[str, Any]:
    """Train an arm that is a recipe through verl and measure it after each stage: a record, found or made.

    Started again, it goes on from verl's last checkpoint.

    Raises:
        RuntimeError: if the training failed; where its output is.
    """
    unit, file = f"{records.THROUGH_VERL}{arm}", output / "records-verl.jsonl"
    if found := records.done(file, policy_digest()).get((unit, seed)):
        return found
    begun, folder, pools = time.time(), output / "verl" / f"{arm}-{seed}", load_pools()
    drawn = sets(pools)
    at = in_order(drawn.train, seed)
    questions = write_parquet(folder / "data", "train", [at(place) for place in range(len(drawn.train))])
    training = command(questions, folder, seed, EXPLORATION, EXPLOITATION, save_every=12) + overrides(RECIPES[arm])
    with open(folder / "log.txt", "a") as log:
        done = subprocess.run(training, env=os.environ, stdout=log, stderr=log)
    if done.returncode:
        raise RuntimeError(f"verl ended with exit code {done.returncode}: see {folder / 'log.txt'}")
    points = {}
    for name, step in (("exploration", EXPLORATION), ("end", STEPS)):
        weights = folder / "run" / f"global_step_{step}" / "actor" / "huggingface"
        points[name] = {"step": step, **measure(StudyPolicy(weights, Pictures(pools)), drawn.test, RESPONSE)}
    record = {
        "unit": unit,
        "seed": seed,
        "policy": policy_digest(),
        "seconds": round(time.time() - begun, 1),
        "arms": {arm: points},
    }
    records.append(file, record)
    return record
