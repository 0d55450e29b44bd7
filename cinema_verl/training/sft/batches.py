"""Which rows a step trains on, and which a validation looks at: a function of the step, not of what a loader remembers.

verl saves the state of its data loader. At the end of an epoch that state is an exhausted loader: a run resumed from
it trains nothing more (`verl.trainer.sft_trainer`, 0.9.1). The order of the rows is a function of the epoch, so that
the step says where to go on.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from cinema_verl.training.stop_signal import ignore_stop_signal


class PositionedSampler(DistributedSampler):
    """`DistributedSampler` that can begin in the middle of an epoch.

    Batch k of an epoch is the same set of rows for any number of ranks.
    """

    skipped = 0

    def go_to(self, epoch: int, skipped: int) -> None:
        """Make the next iteration that of an epoch, without its first `skipped` rows of this rank."""
        self.set_epoch(epoch)
        self.skipped = skipped

    def __iter__(self) -> Iterator[int]:
        return islice(super().__iter__(), self.skipped, None)


class PaddedRows(Dataset):
    """A validation set that fills whole batches: the rows it is short of are repeated, without any loss.

    Args:
        rows: items with a `loss_mask` tensor, as verl's `MultiTurnSFTDataset` has them.
        multiple: rows in a batch, all ranks together.
    """

    def __init__(self, rows: Any, multiple: int):
        self.rows, self.multiple = rows, multiple

    def __len__(self) -> int:
        return -(-len(self.rows) // self.multiple) * self.multiple

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index % len(self.rows)]
        if index >= len(self.rows):
            row = {**row, "loss_mask": torch.zeros_like(row["loss_mask"])}
        return row


def check_sizes(rows: int, val_rows: int | None, batch_size: int, micro_batch_size: int | None, ranks: int) -> None:
    """Refuse sizes that do not fit together, before a model is loaded.

    Args:
        rows: in the training set.
        val_rows: in the validation set; None for no validation set.
        batch_size: `data.train_batch_size`.
        micro_batch_size: `data.micro_batch_size_per_gpu`; None where `data.use_dynamic_bsz` decides.
        ranks: data-parallel ones.

    Raises:
        ValueError: naming the keys to change.
    """
    if rows < batch_size:
        raise ValueError(
            f"{rows} training rows, fewer than data.train_batch_size={batch_size}: not one step could be trained. "
            "Lower data.train_batch_size, or add rows to data.train_files"
        )
    if val_rows == 0:
        raise ValueError("data.val_files has no rows. Without a validation: data.val_files=null")
    if batch_size % ranks:
        raise ValueError(f"data.train_batch_size={batch_size} cannot be shared among {ranks} data-parallel ranks")
    if micro_batch_size and batch_size // ranks % micro_batch_size:
        raise ValueError(
            f"data.train_batch_size={batch_size} over {ranks} data-parallel ranks is {batch_size // ranks} rows each, "
            f"which data.micro_batch_size_per_gpu={micro_batch_size} does not divide"
        )


def loader_of(
    rows: Any, sampler: DistributedSampler, batch_size: int, collate: Any, workers: int, device: str
) -> DataLoader:
    """A loader whose processes outlive a SIGTERM that is meant for the trainer."""
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=ignore_stop_signal,
        pin_memory=False,
        pin_memory_device=device,
        drop_last=True,
    )
