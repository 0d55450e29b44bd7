"""What only a GPU can show: the rollout engine on CUDA against the CPU, and the estimator on the device, as JSON.

    bash benchmarks/gpu.sh OUTPUT

runs this and the other parts. The same tiny Qwen2.5-VL of random weights answers the same requests on the CPU in fp32,
and on the device in fp32 and bf16 with each attention that is installed. Each of the CPU's responses is put to the
device's model once more: printed is how far log-probabilities are apart, token by token. With `--device cpu` it
compares the CPU with itself, to see that the script works.
"""

import argparse
import json
import platform
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_prompt import build, requests_of

from cinema_verl.rollout.generation import Policy, Request, generate
from cinema_verl.training.advantage import GroupFeed, feed, group_estimator

GAP = {"float32": 1e-3, "bfloat16": 0.5}
"""Our choice, in nats: TF32 and other orders of adding stay well within; a wrong mask or position does not."""


def policy_of(model: Any, processor: Any) -> Policy:
    tokenizer = processor.tokenizer
    placeholders = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    return Policy(
        model=model,
        processor=processor,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        eos=frozenset(),
        banned=tuple(placeholders),
        pad=tokenizer.pad_token_id,
        image_token=placeholders[0],
    )


@torch.inference_mode()
def forced(policy: Policy, request: Request, response: list[int]) -> np.ndarray:
    """Log-probabilities (T,) of a response by one forward pass over the prompt and it."""
    device = policy.model.device
    ids = torch.tensor([[*request.prompt_ids, *response]], device=device)
    vision = dict(policy.processor.image_processor(images=list(request.images), return_tensors="pt").to(device))
    vision["pixel_values"] = vision["pixel_values"].to(policy.model.dtype)
    vision["mm_token_type_ids"] = (ids == policy.image_token).long()
    logits = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), **vision).logits[0].float()
    start = len(request.prompt_ids)
    taken = logits[start - 1 : -1].log_softmax(dim=-1).gather(1, ids[0, start:, None])
    return np.asarray(taken.squeeze(1).cpu())


def rollout(device: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Gaps and tokens a second, for each precision and attention of the device."""
    sizes = options.hidden, options.layers
    model, processor = build("cpu", torch.float32, *sizes, "sdpa")
    requests = requests_of(processor, options.questions, options.rollouts, options.tokens, options.side)
    reference = generate(policy_of(model, processor), requests)
    weights, rows = model.state_dict(), []
    attentions = ["sdpa", *(["flash_attention_2"] if device == "cuda" and find_spec("flash_attn") else [])]
    for dtype, attention in (("float32", "sdpa"), *(("bfloat16", each) for each in attentions)):
        there, _ = build(device, getattr(torch, dtype), *sizes, attention)
        there.load_state_dict({name: weight.to(device, there.dtype) for name, weight in weights.items()})
        policy = policy_of(there, processor)
        generate(policy, requests)  # warm
        start = time.perf_counter()
        own = generate(policy, requests)
        seconds = time.perf_counter() - start  # tokens have come to the host: the device is through
        across = [
            np.abs(forced(policy, request, one.token_ids) - one.log_probs).max()
            for request, one in zip(requests, reference, strict=True)
        ]
        within = [
            np.abs(forced(policy, request, one.token_ids) - one.log_probs).max()
            for request, one in zip(requests, own, strict=True)
        ]
        row = {"dtype": dtype, "attention": attention, "tokens_per_second": len(requests) * options.tokens / seconds}
        row |= {"gap_to_cpu_max": float(max(across)), "gap_to_forward_max": float(max(within))}
        rows.append(row | {"ok": max(row["gap_to_cpu_max"], row["gap_to_forward_max"]) < GAP[dtype]})
        print(row)
    return rows


def estimator(device: str) -> dict[str, Any]:
    """`cinema_dps` over tensors of the device and of the CPU: the same advantages."""
    random = np.random.default_rng(0)
    acc = random.integers(0, 2, 256).astype(float)
    patterns = random.choice(["focus>answer", "think>answer"], 256).tolist()
    groups = np.repeat(np.arange(32), 8).astype(object)
    mask, rewards = torch.ones(256, 64), torch.zeros(256, 64)
    rewards[:, -1] = torch.as_tensor(acc, dtype=torch.float32)
    compute = group_estimator("cinema_dps")
    assert compute is not None
    found = []
    for where in ("cpu", device):
        with feed(GroupFeed(acc=acc, patterns=patterns, coefficient=0.1, padding=np.zeros(256, dtype=bool))):
            found.append(compute(rewards.to(where), mask.to(where), groups)[0])
    gap = float((found[0] - found[1].cpu()).abs().max())
    return {"gap_max": gap, "stays_on_device": found[1].device.type == device, "ok": gap < 1e-6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("questions", 4), ("rollouts", 8), ("tokens", 64), ("hidden", 512), ("layers", 4), ("side", 336)
    for name, default in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: nothing is measured. --device cpu shows that the script works")
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor()
    result = {"device": options.device, "name": name, "torch": torch.__version__}
    result |= {"rollout": rollout(options.device, options), "estimator": estimator(options.device)}
    result["ok"] = all(each["ok"] for each in (*result["rollout"], result["estimator"]))
    options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{'all within the limits' if result['ok'] else 'NOT within the limits'}: {options.json}")
    return int(not result["ok"])


if __name__ == "__main__":
    raise SystemExit(main())
