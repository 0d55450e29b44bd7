"""How much host memory a run takes for its images, from token counts alone.

Between rollout and update verl holds every trajectory with the pixel values of its images, as floats and once for each
trajectory of a group (`cinema_verl.training.shared_vision` shares the work of making them, not what is stored). They
outweigh all else that grows with the batch: 18.4 KiB for each image token of Qwen2.5-VL. In a run of recipe cinema_cpu
with 64 trajectories of 256 image tokens (benchmarks/host_memory.py) TransferQueue grew by 1.06 times what is projected
here, the training worker by 1.56 times, its computing included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cinema_verl.data.tokens import Patching

_CHANNELS: Final = 3
_FRAMES: Final = 2  # temporal_patch_size of the Qwen-VL family: a still image counts twice
_FLOAT: Final = 4
_SEQUENCE_BYTES: Final = 84
"""Of a token: int64 ids twice (whole, and as prompt or response) and positions four times, two int64 masks, and five
floats (log-probs of rollout and actor, rewards, advantages, returns)."""
_PREFETCHED: Final = 2  # batches that a worker of PyTorch's loader makes ahead: its default, which verl keeps


@dataclass(frozen=True, slots=True)
class Projection:
    """What takes host memory at one time, and how it is computed."""

    what: str
    bytes: float
    formula: str


def trajectory_bytes(vision: float, total: float, patching: Patching) -> float:
    """What one trajectory takes: `vision` image tokens among `total` tokens."""
    patches = patching.merge_size**2
    pixels = patches * patching.patch_size**2 * _CHANNELS * _FRAMES * _FLOAT
    return vision * pixels + total * _SEQUENCE_BYTES


def project_rl(
    train: float | None, val: float | None, *, batch: int, group: int, rounds: int, val_batch: int, val_group: int
) -> list[Projection]:
    """Over all nodes, of reinforcement learning with verl's V1 trainer.

    Args:
        train, val: Mean bytes of a trajectory of each split; None for one that is not there, or not trained on.
        batch, group: ``data.train_batch_size`` and ``rollout.n``.
        rounds: Batches of groups that dynamic sampling may hold at once; 1 without it.
        val_batch, val_group: Questions validated at once, and ``rollout.val_kwargs.n``.
    """
    result = []
    if train is not None:
        stored = batch * group * train
        result += [
            Projection("a batch in verl's TransferQueue", stored, f"{batch:,} questions x {group} x {size(train)}"),
            Projection("the same, with the training workers' copy", 2 * stored, "each rank fetches its share"),
        ]
        if rounds > 1:
            formula = f"up to {rounds} batches of groups at once"
            result.append(Projection("dynamic sampling, no group mixed", rounds * stored, formula))
    if val is not None:
        formula = f"{val_batch:,} questions x {val_group} x {size(val)}; data.val_batch_size bounds it"
        result.append(Projection("a validation batch", val_batch * val_group * val, formula))
    return result


def project_sft(row: float, *, batch: int, workers: int) -> list[Projection]:
    """Over all nodes, of supervised fine-tuning: what the loaders' workers have ready, in /dev/shm.

    Args:
        row: Mean bytes of a row.
        batch: ``data.train_batch_size``, all ranks together.
        workers: ``data.num_workers``, of each rank.
    """
    batches = max(1, _PREFETCHED * workers)
    return [Projection("a batch", batch * row, f"{batch:,} rows x {size(row)}")] + (
        [Projection("prefetched, in /dev/shm", batches * batch * row, f"{_PREFETCHED} x {workers} workers x a batch")]
        if workers
        else []
    )


def size(number: float) -> str:
    """Bytes, to be read."""
    return f"{number / 2**30:,.2f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"
