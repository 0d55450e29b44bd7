"""How much host memory a run takes for its images, from token counts alone.

Between rollout and update verl holds every trajectory, and the pixel values of its images as floats: 18.4 KiB for each
image token of Qwen2.5-VL, which outweighs all else that grows with the batch. verl has them once for each trajectory of
a group; here a group is stored with them once, and each training worker that has any of it has them once
(`cinema_verl.training.shared_vision`). benchmarks/host_memory.py measures both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

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


class Row(NamedTuple):
    """Bytes of one row of the data, as a trajectory or as a row of fine-tuning.

    Attributes:
        pixels: Of its images.
        sequence: Of its tokens.
    """

    pixels: float
    sequence: float

    def group(self, size: int, copies: int = 1) -> float:
        """Of `size` trajectories over the same images, whose pixel values are there `copies` times."""
        return copies * self.pixels + size * self.sequence


def row_bytes(vision: float, total: float, patching: Patching) -> Row:
    """What a row takes: `vision` image tokens among `total` tokens."""
    patches = patching.merge_size**2
    pixels = patches * patching.patch_size**2 * _CHANNELS * _FRAMES * _FLOAT
    return Row(vision * pixels, total * _SEQUENCE_BYTES)


def project_rl(
    train: Row | None,
    val: Row | None,
    *,
    batch: int,
    group: int,
    ranks: int,
    rounds: int,
    val_batch: int,
    val_group: int,
) -> list[Projection]:
    """Over all nodes, of reinforcement learning with verl's V1 trainer.

    Args:
        train, val: Mean of each split; None for one that is not there, or not trained on.
        batch, group: ``data.train_batch_size`` and ``rollout.n``.
        ranks: Training workers, over which verl's balancing spreads a group.
        rounds: Batches of groups that dynamic sampling may hold at once; 1 without it.
        val_batch, val_group: Questions validated at once, and ``rollout.val_kwargs.n``.
    """
    result = []
    if train is not None:
        one = train.group(group)
        stored, copied = batch * one, batch * train.group(group, min(ranks, group))
        formula = f"{batch:,} questions x {size(one)}, {size(train.pixels)} of it images"
        result += [
            Projection("a batch in verl's TransferQueue", stored, formula),
            Projection("the same, with the training workers' copy", stored + copied, "each rank fetches its share"),
        ]
        if rounds > 1:
            formula = f"up to {rounds} batches of groups at once"
            result.append(Projection("dynamic sampling, no group mixed", rounds * stored, formula))
    if val is not None:
        one = val.group(val_group)
        formula = f"{val_batch:,} questions x {size(one)}; data.val_batch_size bounds it"
        result.append(Projection("a validation batch", val_batch * one, formula))
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
