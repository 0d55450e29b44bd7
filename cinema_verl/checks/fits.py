"""`cinema-verl plan`: does a run fit into its GPUs, and about how long does it take?

The configuration is composed as the run composes it, the model's sizes are read from its `config.json` or known by its
name, and the rest is arithmetic (`checks.memory`): no GPU, no model and no data are needed. Memory is computed; hours
and disk are estimates, by formulas that docs/hardware.md states.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from cinema_verl.checks.compose import UsageError, compose, program_for, split_overrides
from cinema_verl.checks.memory import GIB, Load, Memory, Shape, cache_of_token, memory, shape_of
from cinema_verl.registration.command_line import RL_TRAINER
from cinema_verl.training.settings import group_sizes
from cinema_verl.utils.arguments import Parser, did_you_mean

EXAMPLES = """\
examples:
  cinema-verl plan +recipe=cinema                                          the paper's 7B on 8 x 80 GB
  cinema-verl plan +recipe=cinema_3b_lora_24gb --gpu-memory 24             3B with LoRA on one small GPU
  cinema-verl plan +recipe=cinema_7b_4gpu data.max_prompt_length=4096      shorter prompts
  cinema-verl plan +recipe=cinema actor_rollout_ref.model.path=/models/mine

The exit code is 0 when the run fits, 1 when it does not, 2 for a command line that is not understood.
"""

PADDING: Final = 1.5
"""Tokens of a padded micro-batch for each token in it. Our choice: lengths spread between a third of the longest and
the longest. Packed sequences have no padding."""
SPARE: Final = 0.95
"""Part of a GPU's memory that may be planned. Our choice: fragments, and what other processes hold."""
TYPICAL: Final = 0.5
"""Length of a usual prompt and response, as a part of the longest. Our choice, for hours and disk."""
REFILL: Final = 1.5
"""Rollouts made for each one trained on. Our choice: dynamic sampling drops a third of the groups."""
BUSY: Final = 0.35
STREAMING: Final = 0.6
"""Parts of a GPU's arithmetic and of its memory bandwidth that are used. Our choice: usual for training and for
vLLM."""
ROLLOUT_BYTES: Final = 1500
"""Bytes of a rollout on the disk beside its text. Our choice: measured 3 KB with short texts."""


@dataclass(frozen=True)
class Device:
    """A GPU, by its memory: operations a second in bfloat16, and bytes a second."""

    name: str
    flops: float
    bandwidth: float


DEVICES: Final = {24: Device("RTX 4090", 165e12, 1.01e12), 48: Device("L40S", 362e12, 0.86e12),
                  80: Device("H100", 989e12, 3.35e12), 141: Device("H200", 989e12, 4.8e12)}  # fmt: skip
"""Memory in GB -> the GPU of that size whose published figures are used for hours."""


def known_models() -> dict[str, Mapping[str, Any]]:
    """Published configurations by short name, without what memory does not depend on."""
    text = (files("cinema_verl") / "checks" / "known_models.json").read_text(encoding="utf-8")
    models: dict[str, Mapping[str, Any]] = json.loads(text)
    return models


def model_of(config: Any, name: str | None) -> tuple[str, Shape]:
    """The model's name and shape: the one that is named, the folder of the configuration, or its name on a hub.

    Raises:
        UsageError: It is not known.
    """
    known, path = known_models(), name or str(config.actor_rollout_ref.model.path)
    folder = Path(path) / "config.json"
    try:
        if folder.is_file():
            return path, shape_of(json.loads(folder.read_text(encoding="utf-8")))
        wanted = name or Path(path).name.lower()
        for each in (wanted, wanted.removesuffix("-instruct")):
            if each in known:
                return each, shape_of(known[each])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the model {path} cannot be planned with: {error}") from error
    raise UsageError(
        f"the sizes of {wanted!r} are not known: give a folder with the model's config.json as "
        f"actor_rollout_ref.model.path or --model, or one of {', '.join(known)}{did_you_mean(wanted, known)}"
    )


def load_of(config: Any, gpu: float) -> Load:
    """What a composed configuration of reinforcement learning asks of each GPU of `gpu` bytes."""
    at = config.actor_rollout_ref
    sequence = config.data.max_prompt_length + config.data.max_response_length
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    packed = bool(at.model.use_remove_padding)
    if at.actor.use_dynamic_bsz:
        tokens = max(sequence, int(at.actor.ppo_max_token_len_per_gpu * (1.0 if packed else PADDING)))
    else:
        tokens = sequence * (at.actor.ppo_micro_batch_size_per_gpu or 1)
    fsdp = at.actor.fsdp_config
    cut = gpus if fsdp.fsdp_size in (-1, None) else min(fsdp.fsdp_size, gpus)
    return Load(
        shards=cut,
        weight_bytes=2 if str(fsdp.get("model_dtype", "fp32")) in ("bf16", "bfloat16", "fp16") else 4,
        lora_rank=int(at.model.get("lora_rank", 0) or 0),
        tokens=tokens,
        packed=packed,
        fused=bool(at.model.get("use_fused_kernels", False)),
        checkpointing=bool(at.model.enable_gradient_checkpointing),
        image_share=0.9 * config.data.max_prompt_length / sequence,
        param_offload=bool(fsdp.param_offload),
        optimizer_offload=bool(fsdp.optimizer_offload),
        gpu=int(gpu),
        engine_share=at.rollout.gpu_memory_utilization,
        tensor_parallel=at.rollout.tensor_model_parallel_size,
        sequence=sequence,
    )


@dataclass(frozen=True)
class Effort:
    """Estimates for 1,000 steps: hours by what they are spent on, bytes on the disk, and in host memory."""

    generating: float
    computing: float
    checkpoint: float
    rollouts: float
    host: float

    @property
    def hours(self) -> float:
        return self.generating + self.computing


def effort(config: Any, shape: Shape, load: Load, found: Memory, device: Device) -> Effort:
    """Hours and disk of 1,000 steps.

    Generation is bound by memory bandwidth: each step of decoding reads the weights once, and the keys and values of
    the sequences beside each other. Training is bound by arithmetic: 2 operations for a parameter and a token in each
    of the old log-probs and the forward pass, 4 in the backward pass, 2 more with checkpointing.
    """
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rows = config.data.train_batch_size * max(group_sizes(config))
    prompt, response = (TYPICAL * each for each in (config.data.max_prompt_length, config.data.max_response_length))
    engines = gpus / load.tensor_parallel
    beside = max(1.0, min(found.sequences / TYPICAL, rows / engines))
    kept_beside = beside * (prompt + response) * cache_of_token(shape)
    reads = (shape.parameters * 2 + kept_beside) / load.tensor_parallel
    decoding = math.ceil(rows / engines / beside) * response * reads / (STREAMING * device.bandwidth)
    prefill = 2 * shape.parameters * prompt * config.data.train_batch_size / (gpus * BUSY * device.flops)
    operations = (2 + 6 + (2 if load.checkpointing else 0)) * shape.parameters * rows * (prompt + response)
    trained = shape.lora(load.lora_rank) if load.lora_rank else shape.parameters
    checkpoint = shape.parameters * load.weight_bytes + trained * 2 * (4 if load.lora_rank else load.weight_bytes)
    kept = (config.trainer.max_actor_ckpt_to_keep or 1) + 1
    waiting = load.param_offload * found.weights + load.optimizer_offload * found.optimizer
    return Effort(
        generating=REFILL * (decoding + prefill) * 1000 / 3600,
        computing=operations / (gpus * BUSY * device.flops) * 1000 / 3600,
        checkpoint=float(checkpoint * kept),
        rollouts=REFILL * 1000.0 * rows * (4 * response + ROLLOUT_BYTES),
        host=waiting * config.trainer.n_gpus_per_node,
    )


def needed(found: Memory) -> float:
    """The larger of the two phases."""
    return max(found.update, found.generate)


def fits(found: Memory, gpu: float) -> bool:
    """Whether both phases fit, and the engine has room for a sequence."""
    return needed(found) <= SPARE * gpu and found.sequences >= 1


def text(name: str, shape: Shape, load: Load, found: Memory, spent: Effort, device: Device) -> str:
    """The plan as a table."""
    what = f"LoRA of rank {load.lora_rank}" if load.lora_rank else "all parameters"
    cut = f"of {load.weight_bytes} bytes over {load.shards} GPU(s)"
    offloaded = load.param_offload or load.optimizer_offload
    rows = [
        ("weights", found.weights, f"{shape.parameters:,} parameters {cut}"),
        ("gradients", found.gradients, what),
        ("optimizer", found.optimizer, "two moments"),
        ("gathered layers", found.gathered, "two layers and the embeddings, whole, in bfloat16"),
        ("activations", found.kept, f"{load.tokens:,} tokens" + (", checkpointed" * load.checkpointing)),
        ("one layer", found.inside, "computed again in the backward pass"),
        ("logits", found.logits, f"{load.tokens:,} x {shape.vocab:,}; not at the same time as one layer"),
        ("update", found.update, "the sum, with 1.5 GiB for CUDA and NCCL"),
        (
            "engine",
            found.engine,
            f"weights, and the cache of {found.sequences:,} sequences of {load.sequence:,} tokens",
        ),
        (
            "generation",
            found.generate,
            "the engine" + (", and what is not offloaded" if offloaded else " and the shard"),
        ),
    ]
    lines = [f"{name}: {shape.parameters / 1e9:.2f} billion parameters", ""]
    lines += [f"{what:<16} {size / GIB:8.1f} GiB   {why}" for what, size, why in rows]
    verdict = "fits" if fits(found, load.gpu) else "does not fit"
    most = f"{needed(found) / GIB:.1f} GiB of {load.gpu / GIB:.0f} (of which {SPARE:.0%} may be planned)"
    lines += ["", f"{verdict}: {most}"]
    if found.sequences < 1:
        lines.append(
            "the engine has no room for a sequence: raise gpu_memory_utilization or tensor_model_parallel_size"
        )
    lines += [
        "",
        f"1,000 steps on {device.name} GPUs, an estimate (docs/hardware.md has the formulas):",
        f"  {spent.hours:,.0f} hours, {spent.generating:,.0f} of them generating",
        f"  {(spent.checkpoint + spent.rollouts) / 1e9:,.0f} GB of disk, {spent.checkpoint / 1e9:,.0f} for checkpoints",
        f"  {spent.host / GIB:,.0f} GiB of host memory a node for what is offloaded",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl plan`; see `--help`."""
    parser = Parser(
        prog="cinema-verl plan",
        description="Compute the memory of each GPU for a recipe and its overrides; estimate hours and disk.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="+", metavar="+recipe=NAME key=value", help="What the run is given.")
    parser.add_argument(
        "--gpu-memory", type=int, default=80, choices=DEVICES, metavar="GB",
        help=f"Memory of each GPU, one of {', '.join(map(str, DEVICES))} GB. (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="A model's folder, or a published one, such as qwen2.5-vl-7b. (default: the model of the path)",
    )
    parsed = parser.parse_intermixed_args(arguments)
    try:
        recipe, overrides = split_overrides(parsed.overrides)
        if program_for(recipe) != RL_TRAINER:
            raise UsageError(f"+recipe={recipe} is for SFT; only reinforcement learning is planned")
        config, composed = compose(recipe, overrides)
        if config is None:
            raise UsageError(f"{composed[-1].detail}\n{composed[-1].advice}")
        if OmegaConf.select(config, "trainer.device") == "cpu":
            raise UsageError(f"+recipe={recipe} trains on the CPU: cinema-verl preflight compares it with this machine")
        name, shape = model_of(config, parsed.model)
    except UsageError as error:
        parser.error(str(error))
    load, device = load_of(config, parsed.gpu_memory * GIB), DEVICES[parsed.gpu_memory]
    found = memory(shape, load)
    print(text(name, shape, load, found, effort(config, shape, load, found, device), device))
    return 0 if fits(found, load.gpu) else 1


if __name__ == "__main__":
    sys.exit(main())
