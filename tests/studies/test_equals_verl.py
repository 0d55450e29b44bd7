"""The study's loop in one process is verl's training: the same trajectories, rewards, updates and weights."""

import json
import os
import subprocess

import pytest
import torch
import verl  # noqa: F401  its plugin makes torchvision importable
from transformers import AutoModelForImageTextToText

from cinema_verl.demo.digit_images import load_pools
from cinema_verl.schedule import Stage, Stages
from cinema_verl.training.estimators import diversity_preserving
from studies.dps.confirm import command
from studies.dps.loop import Learner, Settings
from studies.dps.prepare import open_policy
from studies.dps.testbed import RESPONSE, questions, write_parquet

pytestmark = pytest.mark.slow
STAGES = Stages((Stage("exploration", 1, 0.1), Stage("exploitation", 2, 0.1, "linear", filter="acc")))
SEED = 7


def test_its_steps_are_those_of_verl(tmp_path):
    pools = load_pools()
    drawn = list(questions(pools, "train", 96))
    file = write_parquet(tmp_path / "data", "train", drawn)
    training = command(file, tmp_path, SEED, exploration=1, exploitation=2, save_every=1)
    with open(tmp_path / "log.txt", "w") as log:
        done = subprocess.run(training, cwd=tmp_path, env=os.environ, stdout=log, stderr=log, timeout=900)
    assert done.returncode == 0, (tmp_path / "log.txt").read_text()[-4000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = {step["step"]: step["data"] for step in map(json.loads, lines) if step["step"] > 0}
    assert list(logged) == [1, 2, 3]

    responses: list[str] = []
    learner = Learner(
        open_policy(pools),
        Settings(STAGES, diversity_preserving),
        lambda place: drawn[place],
        SEED,
        RESPONSE,
        watch=lambda batch, advantage: responses.extend(each.sampled.text for each in batch),
    )
    for step in (1, 2):  # in a third, rounding may have changed a token of the 512
        responses.clear()
        found, verls = learner.step(), logged[step]
        dumped = (tmp_path / "run" / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        assert sorted(responses) == sorted(json.loads(line)["output"] for line in dumped)
        assert found["groups"] == verls["cinema/dynamic_sampling/generated_groups"]
        assert found["reward"] == pytest.approx(verls["critic/rewards/mean"], abs=1e-6)
        assert found["share"] == pytest.approx(verls["cinema/diversity_advantage_share"], abs=1e-6)
        assert found["loss"] == pytest.approx(verls["actor/pg_loss"], abs=1e-6)
        assert found["grad_norm"] == pytest.approx(verls["actor/grad_norm"], rel=1e-4)
        assert found["entropy"] == pytest.approx(verls["actor/entropy"], abs=1e-5)
        saved = tmp_path / "run" / f"global_step_{step}" / "actor" / "huggingface"
        weights = AutoModelForImageTextToText.from_pretrained(saved, dtype=torch.float32).state_dict()
        for name, weight in learner.policy.model.state_dict().items():
            torch.testing.assert_close(weight, weights[name], rtol=0, atol=2e-6)
    assert logged[2]["cinema/dynamic_sampling/generated_groups"] > 8, "the filter must have had something to refill"
