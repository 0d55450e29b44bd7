"""docs/library.md: its programs run, in the frameworks they are for where those are installed."""

import json
import re
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
