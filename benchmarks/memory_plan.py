"""The arithmetic of `cinema-verl plan` against measurement: a Qwen2.5-VL on the CPU, forward and backward in bfloat16.

    python benchmarks/memory_plan.py

For each size it prints the parameters, and the peak of what PyTorch has allocated beyond weights and gradients while
the log-probs of one micro-batch go forward and backward, with checkpointing and verl's own log-probs, packed and
padded, beside what `checks.memory` says. The measured peak is the largest running sum of the profiler's allocations
and frees.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch.profiler import profile
from verl.utils.torch_functional import logprobs_from_logits_v2

from cinema_verl.checks.memory import Load, activations, logits, shape_of
from cinema_verl.demo.tiny_model import build_config, build_model, build_tokenizer


@dataclass(frozen=True)
class Size:
    """A model and a micro-batch: `images` squares of 28 x 28 pixels are one token each."""

    name: str
    hidden: int
    layers: int
    intermediate: int
    vocab: int
    rows: int
    tokens: int
    images: int
    packed: bool = True


SIZES = (
    Size("tiny", 128, 3, 256, 0, 8, 128, 4),
    Size("tiny, long", 128, 3, 256, 0, 8, 512, 4),
    Size("wide", 512, 4, 1408, 0, 4, 256, 4),
    Size("deep", 256, 16, 704, 0, 4, 256, 4),
    Size("large vocabulary", 256, 4, 704, 32_000, 4, 256, 4),
    Size("large vocabulary, padded", 256, 4, 704, 32_000, 4, 256, 4, packed=False),
)


def measured(size: Size) -> tuple[int, float, float]:
    """(parameters, peak bytes measured, peak bytes computed) of one size."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    text = config.text_config
    text.hidden_size, text.num_hidden_layers, text.intermediate_size = size.hidden, size.layers, size.intermediate
    text.num_attention_heads, text.num_key_value_heads = size.hidden // 32, size.hidden // 64
    text.layer_types = ["full_attention"] * size.layers
    config.vision_config.out_hidden_size = size.hidden
    text.vocab_size = size.vocab or text.vocab_size
    model = build_model(config).train().to(torch.bfloat16)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(10, 200, (size.rows, size.tokens))
    ids[:, 1 : 2 * size.images : 2] = config.image_token_id  # apart: neighbours would be one image
    grid = torch.tensor([[1, 2, 2]] * (size.rows * size.images))
    pixels = torch.randn(4 * len(grid), 3 * 2 * 14 * 14).to(torch.bfloat16)
    kinds = (ids == config.image_token_id).long()

    def step() -> None:
        found = model(input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=kinds, use_cache=False)
        if size.packed:
            rows = found.logits.view(-1, text.vocab_size)
        else:  # as verl takes the padding away, after the model
            lengths = torch.full((size.rows,), size.tokens)
            kept = torch.nested.narrow(found.logits, 1, torch.zeros_like(lengths), lengths, layout=torch.jagged)
            rows = torch.cat([*kept.unbind()])
        logprobs_from_logits_v2(rows, ids.roll(-1, 1).reshape(-1)).sum().backward()

    step()  # gradients are there from now on
    with profile(profile_memory=True) as profiled:
        step()
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    shape = shape_of({**config.to_dict(), "model_type": "qwen2_5_vl"})
    load = Load(
        shards=1, weight_bytes=2, lora_rank=0, tokens=size.rows * size.tokens, packed=size.packed, fused=False,
        checkpointing=True, image_share=size.images / size.tokens, param_offload=False, optimizer_offload=False,
        gpu=0, engine_share=0.0, tensor_parallel=1, sequence=size.tokens,
    )  # fmt: skip
    parameters = sum(each.numel() for each in model.parameters())
    assert parameters == shape.parameters, (parameters, shape.parameters)
    kept, inside = activations(shape, load)
    return parameters, float(peak), kept + max(inside, logits(shape, load))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        "| size | parameters | measured (MiB) | computed (MiB) | computed / measured |\n"
        "| --- | ---: | ---: | ---: | ---: |"
    )
    for size in SIZES:
        parameters, peak, computed = measured(size)
        print(f"| {size.name} | {parameters:,} | {peak / 2**20:.1f} | {computed / 2**20:.1f} | {computed / peak:.2f} |")


if __name__ == "__main__":
    main()
