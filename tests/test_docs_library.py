"""docs/library.md: its programs run, in the frameworks they are for where those are installed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cinema_verl.utils.torchvision import ensure_torchvision_importable

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
GOOD, BAD = "<think>so</think><answer>B</answer>", "B"


def program(name):
    (found,) = [each for each in PROGRAMS if each.startswith(f"# {name}\n")]
    names = {}
    exec(found, names)
    return names


def test_the_tour_holds():
    exec(PROGRAMS[0], {})


def test_trl_s_reward_scores_texts_and_chats():
    reward = program("trl")["cinema_reward"]
    columns = {"answer": ["B"] * 2, "answer_type": ["mcq"] * 2, "num_images": [2] * 2, "prompts": ["?"] * 2}
    assert reward(completions=[GOOD, BAD], **columns) == [1.0, 0.0]
    chats = [[{"role": "assistant", "content": text}] for text in (GOOD, BAD)]
    assert reward(completions=chats, **columns) == [1.0, 0.0]


def test_easyr1_s_reward():
    gold = json.dumps({"answer": "B", "answer_type": "mcq", "num_images": 2})
    scores = program("easyr1")["compute_score"]([{"response": text, "ground_truth": gold} for text in (GOOD, BAD)])
    assert scores == [
        {"overall": 1.0, "accuracy": 1.0, "format": 1.0},
        {"overall": 0.0, "accuracy": 0.0, "format": 0.0},
    ]


@pytest.mark.slow
def test_trl_trains_a_step_on_it(tmp_path):
    trl = pytest.importorskip("trl")
    ensure_torchvision_importable()  # beside a PyTorch for CPUs
    from datasets import Dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from cinema_verl.demo.train_policy import digits_cold_start

    tokenizer = AutoTokenizer.from_pretrained(digits_cold_start())
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    row = {"prompt": "Which digit is shown?", "answer": "7", "answer_type": "number", "num_images": 1}
    seen, reward = [], program("trl")["cinema_reward"]

    def watched(**columns):
        seen.append(reward(**columns))
        return seen[-1]

    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, num_generations=2, per_device_train_batch_size=2, use_cpu=True,
        max_completion_length=4, report_to="none", save_strategy="no", bf16=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=watched, args=arguments, train_dataset=Dataset.from_list([row] * 2),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert [len(each) for each in seen] == [2]


EASYR1 = """
import json, sys
import numpy as np, torch
from transformers import PreTrainedTokenizerFast
import verl
from verl.protocol import DataProto
from verl.workers.reward import AutoRewardManager, RewardConfig
assert not hasattr(verl, "experimental"), "this is verl, and not EasyR1"
config = RewardConfig(reward_function=sys.argv[1] + ":compute_score")
config.post_init()
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
texts, gold = json.loads(sys.argv[3]), sys.argv[4]
ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
assert [tokenizer.decode(each) for each in ids] == texts
width = max(map(len, ids))
responses = torch.tensor([each + [0] * (width - len(each)) for each in ids])
mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in ids])
golds = np.array([gold] * len(texts), dtype=object)
data = DataProto.from_dict(tensors={"responses": responses, "response_mask": mask}, non_tensors={"ground_truth": golds})
rewards, metrics = AutoRewardManager(config, tokenizer).compute_reward(data)
last = [rewards[i, len(each) - 1].item() for i, each in enumerate(ids)]
print(json.dumps([last, rewards.sum().item(), dict(metrics)]))
"""


@pytest.mark.slow
def test_easyr1_s_own_reward_manager_takes_it(tmp_path):
    """Its package is called verl, too, so it cannot be installed beside verl: EASYR1 names a clone of it."""
    if not (clone := os.environ.get("EASYR1")):
        pytest.skip("EASYR1 does not name a clone of EasyR1")
    from cinema_verl.demo.train_policy import digits_cold_start

    (source,) = [each for each in PROGRAMS if each.startswith("# easyr1\n")]
    (tmp_path / "reward.py").write_text(source)
    gold = json.dumps({"answer": "3", "answer_type": "number", "num_images": 2})
    texts = ["<think>7</think><answer>3</answer>", "<answer>7</answer>", "3"]
    command = [
        sys.executable,
        "-c",
        EASYR1,
        str(tmp_path / "reward.py"),
        str(digits_cold_start()),
        json.dumps(texts),
        gold,
    ]
    path = os.pathsep.join([clone, str(Path(__file__).parents[1])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    last, total, metrics = json.loads(done.stdout.splitlines()[-1])
    assert last == [1.0, 0.0, 0.0]
    assert total == 1.0
    assert metrics == {"overall": [1.0, 0.0, 0.0], "accuracy": [1.0, 0.0, 0.0], "format": [1.0, 0.0, 0.0]}
