"""What sharing a question's prompt brings: samples a second and bytes of keys and values, against two other ways.

    python benchmarks/shared_prompt.py [--questions 2] [--rollouts 8] [--tokens 32] [--pairs 3] [--base FILE]

The same requests (four pictures, about 2,000 image tokens, and a question; a Qwen2.5-VL of random weights that is wider
than the shipped one) are answered by the rollout engine's `generate`, by transformers' own `generate` over the same
rows, and, with --base, by the `generate` of another version of `cinema_verl/rollout/generation.py`. The sides take
turns; printed are wall-clock and CPU seconds, ratios with their spread, the bytes that the caches hold at the end, and
how far the log-probabilities of the same tokens are apart. Writes JSON with --json.
"""

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from PIL import Image

from cinema_verl.demo.tiny_model import build_config, build_processor, build_tokenizer
from cinema_verl.rollout import generation

Generate = Callable[[Any, list[generation.Request]], list[generation.Completion]]


def build(device: str, dtype: torch.dtype, hidden: int, layers: int, attention: str) -> tuple[Any, Any]:
    """A Qwen2.5-VL of random weights, and its processor, which keeps pictures of up to 1,280 tokens."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 1280}
    config = build_config(tokenizer)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 2 * hidden, layers
    text.layer_types = ["full_attention"] * layers
    text.num_attention_heads, text.num_key_value_heads = hidden // 64, max(1, hidden // 256)
    text.max_position_embeddings = 8192
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    config.vision_config.out_hidden_size = hidden
    config._attn_implementation = attention
    model = Qwen2_5_VLForConditionalGeneration(config)
    return model.eval().to(device, dtype), processor


def requests_of(processor: Any, questions: int, rollouts: int, tokens: int, side: int) -> list[generation.Request]:
    """As agent loops send them: one for each session, those of all questions mixed."""
    noise = np.random.default_rng(0)
    asked = []
    for question in range(questions):
        images = [Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(4)]
        content = [{"type": "image"}] * 4 + [{"type": "text", "text": f"Which is the largest? {question}"}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        ids = processor(text=[prompt], images=images)["input_ids"][0]
        asked += [
            generation.Request(
                prompt_ids=ids,
                images=[image.copy() for image in images],  # each request arrives with its own
                max_tokens=tokens,
                seed=1000 * question + rollout,
            )
            for rollout in range(rollouts)
        ]
    return [asked[i] for i in np.random.default_rng(1).permutation(len(asked))]


def by_transformers(policy: Any, processor: Any, requests: list[generation.Request]) -> None:
    """Batched `generate` of transformers, sampling as many tokens."""
    texts = [
        processor.tokenizer.decode(generation._collapse(request.prompt_ids, policy.image_token)) for request in requests
    ]
    images = [image for request in requests for image in request.images]
    inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    inputs = inputs.to(policy.model.device, policy.model.dtype)
    tokens = requests[0].max_tokens
    out = policy.model.generate(**inputs, do_sample=True, min_new_tokens=tokens, max_new_tokens=tokens)
    assert out.shape == (len(requests), inputs["input_ids"].shape[1] + tokens)


def load(file: Path) -> Any:
    """Another version of the module."""
    spec = importlib.util.spec_from_file_location("base_generation", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def watched(model: Any) -> Iterator[dict[str, int]]:
    """Bytes that caches hold after the last forward pass."""
    held = {"bytes": 0}

    def look(_: Any, __: Any, arguments: dict[str, Any], output: Any) -> None:
        shared = arguments.get("shared")
        tensors = [] if shared is None else [*shared.keys.values(), *shared.values.values()]
        for layer in output.past_key_values.layers:
            tensors += [layer.keys, layer.values]
        held["bytes"] = sum(tensor.nbytes for tensor in tensors)

    hook = model.register_forward_hook(look, with_kwargs=True)
    try:
        yield held
    finally:
        hook.remove()


def measure(model: Any, work: Callable[[], Any]) -> dict[str, Any]:
    synchronize = torch.cuda.synchronize if model.device.type == "cuda" else lambda: None
    with watched(model) as held:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        synchronize()
        seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "cache": held["bytes"], "result": result}


def report(sides: dict[str, list[dict[str, Any]]], samples: int) -> dict[str, Any]:
    """Print the table, ratios pair by pair, and return it."""
    table: dict[str, Any] = {}
    ours = sides["engine"]
    for name, runs in sides.items():
        ratios = sorted(run["seconds"] / own["seconds"] for run, own in zip(runs, ours, strict=True))
        cpu = sorted(run["cpu"] / own["cpu"] for run, own in zip(runs, ours, strict=True))
        table[name] = {
            "samples_per_second": samples / float(np.median([run["seconds"] for run in runs])),
            "cpu_seconds": float(np.median([run["cpu"] for run in runs])),
            "cache_mib": runs[-1]["cache"] / 2**20,
            "cache_of_ours": ours[-1]["cache"] / runs[-1]["cache"],
            "times_as_long": [ratios[0], float(np.median(ratios)), ratios[-1]],
            "times_the_cpu": [cpu[0], float(np.median(cpu)), cpu[-1]],
        }
        row = table[name]
        print(
            f"{name:<14}{row['samples_per_second']:>8.2f} samples/s{row['cpu_seconds']:>9.2f} CPU s"
            f"{row['cache_mib']:>9.1f} MiB of cache (the engine's is {row['cache_of_ours']:.2f} of it)   "
            f"takes {row['times_as_long'][1]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as long, "
            f"{row['times_the_cpu'][1]:.2f} ({cpu[0]:.2f} to {cpu[-1]:.2f}) times the CPU"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("questions", 2), ("rollouts", 8), ("tokens", 32), ("pairs", 3), ("hidden", 512), ("layers", 4)
    for name, default in (*numbers, ("side", 630)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default}")
    parser.add_argument("--base", type=Path, help="another version of cinema_verl/rollout/generation.py")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", help="float32")
    parser.add_argument("--attention", default="sdpa", help="attention of the prefill and of transformers' side; sdpa")
    parser.add_argument("--json", type=Path, help="file for the table")
    options = parser.parse_args()

    dtype = getattr(torch, options.dtype)
    model, processor = build(options.device, dtype, options.hidden, options.layers, options.attention)
    tokenizer = processor.tokenizer
    known = {
        "model": model,
        "decode": lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        "eos": frozenset(),  # every sample has as many tokens on every side
        "banned": tuple(tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])),
        "pad": tokenizer.pad_token_id,
        "image_token": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    }
    policy = generation.Policy(processor=processor, **known)
    requests = requests_of(processor, options.questions, options.rollouts, options.tokens, options.side)
    print(f"{len(requests)} samples, {len(requests[0].prompt_ids)} prompt tokens, {options.tokens} new ones")
    work: dict[str, Callable[[], Any]] = {"engine": lambda: generation.generate(policy, requests)}
    work["transformers"] = lambda: by_transformers(policy, processor, requests)
    if options.base:
        base = load(options.base)
        old = base.Policy(image_processor=processor.image_processor, **known)
        work["base"] = lambda: base.generate(old, requests)
    for each in work.values():
        each()  # warm
    sides = {name: [] for name in work}
    for _ in range(options.pairs):
        for name, each in work.items():
            sides[name].append(measure(model, each))
    table = report(sides, len(requests))
    if options.base:
        pairs = list(zip(sides["engine"][-1]["result"], sides["base"][-1]["result"], strict=True))
        same = [(a, b) for a, b in pairs if a.token_ids == b.token_ids]
        gap = max((abs(x - y) for a, b in same for x, y in zip(a.log_probs, b.log_probs, strict=True)), default=0.0)
        print(f"{len(same)} of {len(pairs)} samples token for token the base's; log-probs at most {gap:.1e} apart")
        table |= {"same": len(same), "gap": gap}
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
