"""How good a small policy is, and how varied: accuracy, format and patterns on held-out questions.

    python -m cinema_verl.demo.measure outputs/cold_start/policy --data outputs/digits/test.parquet

Each question is answered once greedily and `--samples` times at temperature 1, with plain ``transformers.generate`` and
the reward function of the training. It shares no code with the rollout engine, so each checks the other.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image

from cinema_verl.reward import compute_score
from cinema_verl.utils.pretrained import load_model, read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable

ensure_torchvision_importable()

from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

_BATCH = 64  # sequences generated side by side
_PATTERNS = 16  # patterns reported one by one, the most frequent


class PlainPolicy:
    """A model directory, ready to answer rows of the RL parquet."""

    def __init__(self, directory: str | Path) -> None:
        self.processor = read_files(AutoProcessor, directory)
        self.processor.tokenizer.padding_side = "left"
        # fp32 whatever the file's type: reinforcement learning on the CPU computes in fp32 too.
        self.model = load_model(AutoModelForImageTextToText, directory, dtype=torch.float32).eval()

    @torch.inference_mode()
    def answer(self, rows: Sequence[Mapping[str, Any]], max_tokens: int, sample: bool) -> list[str]:
        """One response for each row, without special tokens; `sample` draws at temperature 1, else greedy."""
        texts, images = [], []
        for row in rows:
            prompt = self.processor.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            texts.append(prompt.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>"))
            images.append([Image.open(cell["image"]).convert("RGB") for cell in row["images"]])
        inputs = self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
        output = self.model.generate(**inputs, max_new_tokens=max_tokens, **sampling)
        return self.processor.tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )


def measure(
    policy: PlainPolicy, rows: Sequence[Mapping[str, Any]], samples: int = 8, max_tokens: int = 64, seed: int = 0
) -> dict[str, Any]:
    """Greedy and sampled scores over RL rows.

    Returns:
        greedy_acc, greedy_format: Of one greedy answer a question; greedy_acc_by_task by `data_source`.
        acc, format: Of the samples (acc is pass@1); pass_at_k: share of questions with a correct sample among k.
        mixed_groups: Share of questions with both correct and incorrect samples, from which group advantages can learn.
        unique_patterns, pattern_entropy: Mean over groups; entropy in nats.
        response_tokens: Mean length of a sample.
        acc_by_pattern: The most frequent patterns' shares of the samples, and their accuracies.
    """
    torch.manual_seed(seed)
    greedy = _score(rows, _in_batches(policy, rows, max_tokens, sample=False))
    by_task: dict[str, list[float]] = defaultdict(list)
    for row, score in zip(rows, greedy, strict=True):
        by_task[row["data_source"]].append(score["acc"])
    report: dict[str, Any] = {
        "questions": len(rows),
        "greedy_acc": _mean([score["acc"] for score in greedy]),
        "greedy_format": _mean([score["format"] for score in greedy]),
        "greedy_acc_by_task": {task: _mean(values) for task, values in sorted(by_task.items())},
    }
    if samples < 1:
        return report
    repeated = [row for row in rows for _ in range(samples)]
    texts = _in_batches(policy, repeated, max_tokens, sample=True)
    scores = _score(repeated, texts)
    groups = [scores[start : start + samples] for start in range(0, len(scores), samples)]
    correct = [sum(score["acc"] for score in group) for group in groups]
    counts = [Counter(score["pattern"] for score in group) for group in groups]
    by_pattern: dict[str, list[float]] = defaultdict(list)
    for score in scores:
        by_pattern[score["pattern"]].append(score["acc"])
    common = sorted(by_pattern.items(), key=lambda item: -len(item[1]))[:_PATTERNS]
    lengths = [len(ids) for ids in policy.processor.tokenizer(texts)["input_ids"]]
    return report | {
        "samples": samples,
        "acc": _mean([score["acc"] for score in scores]),
        "format": _mean([score["format"] for score in scores]),
        "pass_at_k": _mean([float(number > 0) for number in correct]),
        "mixed_groups": _mean([float(0 < number < samples) for number in correct]),
        "unique_patterns": _mean([float(len(count)) for count in counts]),
        "pattern_entropy": _mean([_entropy(count) for count in counts]),
        "response_tokens": _mean([float(length) for length in lengths]),
        "acc_by_pattern": {
            pattern: {"share": round(len(values) / len(scores), 4), "acc": _mean(values)} for pattern, values in common
        },
    }


def _in_batches(policy: PlainPolicy, rows: Sequence[Mapping[str, Any]], max_tokens: int, sample: bool) -> list[str]:
    return [
        text
        for start in range(0, len(rows), _BATCH)
        for text in policy.answer(rows[start : start + _BATCH], max_tokens, sample)
    ]


def _score(rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    return [
        compute_score(row["data_source"], text, row["reward_model"]["ground_truth"], row["extra_info"])
        for row, text in zip(rows, texts, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _entropy(counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(count / total * math.log(count / total) for count in counts.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="Hugging Face directory of the policy.")
    parser.add_argument("--data", type=Path, required=True, help="RL parquet, e.g. outputs/digits/test.parquet.")
    parser.add_argument("--samples", type=int, default=8, help="Answers per question at temperature 1. (default: 8)")
    parser.add_argument(
        "--questions", type=int, default=None, help="Number of questions, from the start. (default: all)"
    )
    arguments = parser.parse_args(argv)
    rows = pq.read_table(arguments.data).to_pylist()[: arguments.questions]
    print(json.dumps(measure(PlainPolicy(arguments.model), rows, arguments.samples), indent=2))


if __name__ == "__main__":
    main()
