"""What a run needs of this machine: host memory, /dev/shm, disk for checkpoints.

The number of CPUs is checked by `cinema_verl.training.arithmetic`, GPUs by the doctor.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.host_memory import Projection, size
from cinema_verl.training.checkpoint import keeps, saves_nothing
from cinema_verl.training.model_folder import read_headers

WHERE: Final = "machine"
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SHM: Final = "/dev/shm"
_BYTES: Final = {"model": 4, "optimizer": 8, "hf_model": 2}
"""Of a checkpoint, for each parameter: float32 weights, Adam's two float32 moments, bfloat16 weights for transformers.
Where the engine trains in float32 throughout, as recipe cinema_cpu does, the last are 4."""


def inspect_machine(config: Any, folder: Path | None, memory: Sequence[Projection], *, rl: bool) -> list[Finding]:
    """Whether this machine, or as many like it as the run has nodes, has room for it.

    Args:
        config: The composed configuration.
        folder: The model's; None where it is not on this machine.
        memory: What is projected over all nodes.
        rl: Whether it is reinforcement learning.
    """
    return [*_memory(config, memory), *_disk(config, folder, rl=rl)]


def _memory(config: Any, memory: Sequence[Projection]) -> Iterator[Finding]:
    nodes = OmegaConf.select(config, "trainer.nnodes") or 1
    if not memory:
        return
    largest = max(memory, key=lambda item: item.bytes)
    have = memory_here()
    detail = f"{largest.what}: {size(largest.bytes / nodes)} a node, and this one has {size(have)} in all"
    advice = "lower data.train_batch_size, the rollouts of a question, or the images' max_pixels; add nodes"
    yield Finding(WHERE, "host memory", largest.bytes / nodes < have, detail, advice)
    shared = [item for item in memory if _SHM in item.what]
    if shared and Path(_SHM).is_dir():
        free = shutil.disk_usage(_SHM).free
        need = max(item.bytes for item in shared) / nodes
        detail = f"{size(need)} of batches made ahead, and {size(free)} are free"
        yield Finding(WHERE, _SHM, need < free, detail, "lower data.num_workers, or enlarge it (docker --shm-size)")


def memory_here() -> int:
    """Bytes of memory that this process may have: the machine's, or what its container is limited to."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _CGROUP_LIMITS):
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def checkpoint_bytes(parameters: int, contents: Sequence[str], *, float32: bool = False) -> int:
    """Of one checkpoint.

    Args:
        parameters: Of the model.
        contents: ``checkpoint.save_contents``.
        float32: Whether the weights for transformers are written as they are trained.
    """
    return parameters * sum(
        _BYTES["model"] if float32 and part == "hf_model" else _BYTES.get(part, 0) for part in contents
    )


def _disk(config: Any, folder: Path | None, *, rl: bool) -> Iterator[Finding]:
    """Room for the checkpoints that are kept, and one more while it is written."""
    if OmegaConf.select(config, "trainer.val_only"):
        return
    if saves_nothing(config):
        detail = f"trainer.save_freq={config.trainer.save_freq}: no checkpoint is written: the run cannot be resumed"
        yield Finding(WHERE, "disk", None, detail, "set trainer.save_freq; the last step is saved with it, too")
        return
    if folder is None:
        return  # said where tokens are counted
    try:
        headers = read_headers(folder)
    except (OSError, ValueError, KeyError):
        return  # said of the model
    parameters = sum(prod(header.shape) for header in headers.values())
    contents = OmegaConf.select(config, f"{'actor_rollout_ref.actor.' if rl else ''}checkpoint.save_contents") or ()
    precision = "actor_rollout_ref.actor.fsdp_config" if rl else "engine"
    float32 = OmegaConf.select(config, f"{precision}.mixed_precision.param_dtype") == "fp32"
    one = checkpoint_bytes(parameters, contents, float32=float32)
    key = "trainer.max_actor_ckpt_to_keep" if rl else "trainer.max_ckpt_to_keep"
    keep = keeps(OmegaConf.select(config, key))
    target = Path(str(OmegaConf.select(config, "trainer.default_local_dir"))).absolute()
    existing = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if keep is None:
        detail = f"{size(one)} a checkpoint, {key} is not set: all are kept, and {size(free)} are free at {existing}"
        yield Finding(WHERE, "disk", None if one < free else False, detail, f"set {key}")
        return
    need = one * (keep + 1)
    detail = f"{keep} + 1 checkpoints of {size(one)} are {size(need)}, and {size(free)} are free at {existing}"
    advice = f"set trainer.default_local_dir to a larger disk, or lower {key}"
    yield Finding(WHERE, "disk", need < free, detail, advice)
