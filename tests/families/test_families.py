"""Each family that can be trained, along the whole way, with a tiny random model of its real architecture.

The columns of the table in docs/models.md are the tests here, its rows their parameters (`family_cells`).
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from family_cells import CELLS, DOES_NOT
from PIL import Image
from tiny_families import TINY, save_tiny_family
from verl.utils import hf_processor
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from cinema_verl.checks import preflight
from cinema_verl.checks.compose import compose
from cinema_verl.data.families import FAMILIES
from cinema_verl.data.tokens import PromptCounter, vision_tokens
from cinema_verl.demo.digits import Sizes, token_area, write_dataset
from cinema_verl.export.command import main as export
from cinema_verl.prepare.media.images import shrunk_size
from cinema_verl.registration.command_line import RL_TRAINER
from cinema_verl.rollout.generation import Policy, Request, generate
from cinema_verl.training.model_folder import model_refusals
from cinema_verl.utils.pretrained import load_model

pytestmark = pytest.mark.slow
QUESTION = "Which is the largest?"
EXACT = 1e-5  # between probabilities of the engine and of the actor, both in fp32


def pytest_generate_tests(metafunc):
    """Every test for every family; what is known not to work must fail."""
    test = metafunc.function.__name__
    marked = [
        pytest.param(family, marks=pytest.mark.xfail(reason=DOES_NOT[family, test], strict=True))
        if (family, test) in DOES_NOT
        else family
        for family in TINY
    ]
    assert test in CELLS, f"{test} has no column in the table"
    metafunc.parametrize("family", marked, indirect=True)


@pytest.fixture(scope="module")
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return save_tiny_family(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def processor(folder):
    found = hf_processor(str(folder))
    assert found is not None, "verl does not know it"
    return found


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """digits(pixels): a folder of the digits, each picture shown in so many pixels; made once for each number."""

    @cache
    def digits(pixels):
        output = tmp_path_factory.mktemp("digits")
        write_dataset(output, Sizes(24, 4, 16, 4), pixels=pixels)
        return output

    return digits


@pytest.fixture(scope="module")
def data(processor, digits):
    """The digits, each picture shown as one token of the family's."""
    return digits(token_area(processor.image_processor))


def messages(pictures, **limits):
    content = []
    for picture in pictures:
        content += [{"type": "image", "image": picture, **limits}, {"type": "text", "text": "and"}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]


def noise(*size):
    return Image.fromarray(np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_tokens_are_counted(family, processor):
    """Against the builder that verl's agent loop calls, with pictures below, within and above the limits."""
    builder = create_continuous_token_builder(processor.tokenizer, hf_model_type=family, processor=processor)
    counter = PromptCounter(processor)
    factor = counter.patching.factor
    for sizes, tokens in (([(factor, factor)], 1), ([(100, 61), (200, 300)], 8), ([(40, 400)] * 3, 20)):
        limits = {"min_pixels": factor**2, "max_pixels": tokens * factor**2}
        asked = messages([noise(*size) for size in sizes], **limits)
        images, _, _ = RLHFDataset._process_multi_modal_info(
            asked, image_patch_size=counter.patching.patch_size, config={}
        )
        expected = len(builder.build_initial_tokens(asked, images=images))
        content = "".join("<image>and" for _ in sizes) + QUESTION
        (text,) = counter.text_tokens([counter.render([{"role": "user", "content": content}])])
        assert text + sum(vision_tokens(*size, counter.patching, **limits) for size in sizes) == expected


def test_a_stored_picture_is_seen_as_it_is(family, processor):
    """A picture that preparation has shrunk for this family is not resized again by its processor."""
    patching, images = PromptCounter(processor).patching, processor.image_processor
    most = int(patching.max_pixels)
    for width, height in ((640, 480), (173, 900), (2000, 2000)):
        stored = noise(*shrunk_size(width, height, most, patching.factor))
        seen = images(images=[stored], return_tensors="pt")["image_grid_thw"][0]
        assert (int(seen[2]) * patching.patch_size, int(seen[1]) * patching.patch_size) == stored.size


def test_data_and_preflight(family, folder, data):
    strategy = "fsdp2" if FAMILIES[family].fsdp2 else "fsdp"
    config, _ = compose("cinema_cpu", [*given(folder, data), f"actor_rollout_ref.actor.strategy={strategy}"])
    report = preflight.examine(config, RL_TRAINER, here=False)
    assert report["ok"], report["findings"]
    (counted,) = [finding for finding in report["findings"] if finding["what"] == "counted"]
    assert counted["ok"], "with the family's own processor"


def given(folder, data):
    return [
        f"actor_rollout_ref.model.path={folder}",
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/test.parquet",
        "data.train_batch_size=4",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
        "data.max_response_length=12",
        *("reward.reward_kwargs.overlong_buffer_cfg.len=3", "reward.reward_kwargs.max_resp_len=12"),
        *("cinema.exploration_steps=1", "cinema.annealing_steps=1", "cinema.image_conditions=[]"),
        *("algorithm.filter_groups.enable=false",),
    ]


def test_rollout(family, folder, processor):
    """Rows that share a prompt and end at different lengths have the log-probabilities of one plain forward pass."""
    from transformers import AutoModelForImageTextToText

    model = load_model(AutoModelForImageTextToText, folder, dtype=torch.float32).eval()
    tokenizer = processor.tokenizer
    policy = Policy(
        model=model,
        processor=processor,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        eos=frozenset({tokenizer.eos_token_id}),
        banned=(processor.image_token_id, processor.video_token_id),
        pad=tokenizer.pad_token_id,
        image_token=processor.image_token_id,
    )
    builder = create_continuous_token_builder(tokenizer, hf_model_type=family, processor=processor)
    requests = []
    for pictures in ([noise(64, 96), noise(96, 96)], [noise(128, 64)]):
        ids = builder.build_initial_tokens(messages(pictures), images=pictures)
        requests += [Request(ids, pictures, max_tokens=3 + 4 * seed, seed=seed) for seed in range(3)]
    for request, completion in zip(requests, generate(policy, requests), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
        vision = dict(processor.image_processor(images=list(request.images), return_tensors="pt"))
        vision["mm_token_type_ids"] = (ids == processor.image_token_id).long()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits[0].float()
        start = len(request.prompt_ids)
        forced = logits[start - 1 : -1].log_softmax(dim=-1).gather(1, ids[0, start:, None]).squeeze(1)
        assert completion.log_probs == pytest.approx(forced.tolist(), abs=EXACT)


def test_steps_of_reinforcement_learning_and_export(family, folder, data, tmp_path):
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=cinema_cpu", *given(folder, data)),
        *("trainer.save_freq=2", "trainer.test_freq=-1", "trainer.val_before_train=false"),
        "algorithm.rollout_correction.bypass_mode=false",  # compare the probabilities in every step
        f"trainer.default_local_dir={tmp_path}/run",
        f"hydra.run.dir={tmp_path}/hydra",
    ]
    finish(command, tmp_path)
    steps = [json.loads(line)["data"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [step["training/rollout_probs_diff_max"] for step in steps if "training/rollout_probs_diff_max" in step]
    assert len(gaps) == 2
    assert max(gaps) < EXACT
    assert export([str(tmp_path / "run"), "--output", str(tmp_path / "policy")]) == 0
    assert model_refusals(tmp_path / "policy", "model.path") == []


def test_steps_of_fine_tuning(family, folder, data, tmp_path):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m", "verl.trainer.sft_trainer"]
    command = [
        *(sys.executable, "-m", *launcher, "+recipe=cinema_cold_start_cpu"),
        f"model.path={folder}",
        *(f"data.train_files={data}/sft_train.parquet", f"data.val_files={data}/sft_val.parquet"),
        *("data.num_workers=0", "trainer.total_training_steps=2", "optim.lr_warmup_steps=1", "trainer.logger=[file]"),
        f"trainer.default_local_dir={tmp_path}/run",
        f"hydra.run.dir={tmp_path}/hydra",
    ]
    finish(command, tmp_path)
    losses = [json.loads(line)["data"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["train/loss"] > 0 for step in losses if "train/loss" in step] == [True, True]
    assert model_refusals(tmp_path / "run" / "global_step_2" / "huggingface", "model.path", rl=False) == []


def finish(command: list[str], folder: Path) -> None:
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "VERL_PLATFORM": "cpu"} | os.environ
    with open(folder / "log.txt", "w") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, timeout=900, check=False)
    assert done.returncode == 0, (folder / "log.txt").read_text()[-4000:]
