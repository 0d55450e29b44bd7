"""LoRA in reinforcement learning, end to end on the CPU: what is rolled out, trained and saved is one policy."""

import json
import os
import subprocess
import sys

import pytest
import torch
import verl  # noqa: F401  its plugin makes torchvision importable
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.training.lora import ADAPTER
from cinema_verl.training.model_folder import model_refusals
from cinema_verl.utils.resolvers import package_path

pytestmark = pytest.mark.slow
POLICY = package_path("demo/digits_cold_start")


def test_adapters_are_rolled_out_trained_resumed_and_saved_merged(tmp_path):
    write_dataset(tmp_path / "data", Sizes(train=64, test=4, sft_train=0, sft_val=0))
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=cinema_cpu"),
        "actor_rollout_ref.model.lora_rank=4",
        "algorithm.rollout_correction.bypass_mode=false",  # compare the probabilities in every step
        "actor_rollout_ref.actor.optim.lr=1e-2",  # so that the adapters show
        f"data.train_files={tmp_path}/data/train.parquet",
        f"data.val_files={tmp_path}/data/test.parquet",
        *("cinema.exploration_steps=2", "cinema.annealing_steps=1", "cinema.image_conditions=[]"),
        *("trainer.save_freq=1", "trainer.test_freq=-1", "trainer.val_before_train=false"),
        f"trainer.default_local_dir={tmp_path}/run",
        f"hydra.run.dir={tmp_path}/hydra",
    ]
    with open(tmp_path / "log.txt", "w") as log:
        done = subprocess.run(command, cwd=tmp_path, env=os.environ, stdout=log, stderr=log, timeout=900)
    assert done.returncode == 0, (tmp_path / "log.txt").read_text()[-4000:]

    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [step["data"]["training/rollout_probs_diff_max"] for step in steps if step["step"] > 0]
    assert len(gaps) == 3
    assert max(gaps) < 1e-5, "the engine has the adapters, in fp32"

    saved = tmp_path / "run" / "global_step_3" / "actor"
    assert list(model_refusals(saved / "huggingface", "model.path")) == []
    merged = load_file(saved / "huggingface" / "model.safetensors")
    adapter = load_file(saved / ADAPTER / "adapter_model.safetensors")
    assert adapter
    assert not any("visual" in name for name in adapter), "the vision tower has no adapters unless asked for"

    base = AutoModelForImageTextToText.from_pretrained(POLICY, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    expected = PeftModel.from_pretrained(base, saved / ADAPTER).merge_and_unload().state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(saved / "huggingface", dtype=torch.float32).state_dict()
    assert merged
    assert plain.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(plain[name], weight, rtol=0, atol=1e-6)
    moved = [name for name, weight in before.items() if not torch.equal(weight, plain[name])]
    assert moved
    assert not any("visual" in name for name in moved)
