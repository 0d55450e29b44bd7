"""Reading columns of a batch from verl's transfer queue, without its wrappers."""

from collections.abc import Sequence
from typing import Any

import transfer_queue as tq


def read_columns(keys: Sequence[str], partition_id: str, *names: str) -> list[list[Any]]:
    """The values of some columns.

    Args:
        keys: (B,) keys of rows in the partition.
        names: column names.

    Returns:
        One list of B plain values for each name, in the order of `keys`.

    Raises:
        KeyError: if the queue has not every column of every row; it leaves out what it does not know.
    """
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=list(names))
    if missing := [name for name in names if name not in data.keys()]:  # noqa: SIM118  a TensorDict
        raise KeyError(f"the transfer queue has no column {', '.join(missing)} in partition {partition_id}")
    columns = [[getattr(value, "data", value) for value in data[name]] for name in names]
    if short := [name for name, column in zip(names, columns, strict=True) if len(column) != len(keys)]:
        raise KeyError(f"the transfer queue lacks rows of {len(keys)} in {', '.join(short)} (partition {partition_id})")
    return columns
