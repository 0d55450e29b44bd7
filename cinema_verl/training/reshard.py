"""`cinema-verl reshard`: a checkpoint of any number of processes, for another number of them.

verl saves what each rank holds, under names with the number of ranks, and resumes from names with its own number. FSDP2
cuts every parameter, and the optimizer's state of it, along its first dimension (as `torch.chunk`), so the pieces for
another number of ranks are made of rows of those that are there. This is done one rank after the other, in one process,
without a GPU: the old files are mapped and not read into memory, which holds one new piece.

What else a run goes on with (the data loader, the step, the patterns' schedule) does not depend on the number of ranks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from cinema_verl.training.checkpoint import shard_folder, shard_path, steps_on_disk, whole_world_sizes
from cinema_verl.utils.arguments import Parser, positive
from cinema_verl.utils.files import atomic_write

CONFIG: Final = "fsdp_config.json"
KINDS: Final = ("model", "optim", "extra_state")
"""verl's names of what a rank saves (`FSDPCheckpointManager`)."""
_SAFE: Final = [
    np.dtype,
    np.dtypes.UInt32DType,
    np.ndarray,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
]
"""Of NumPy's random state, which verl saves; tensors and their meshes PyTorch lets through itself."""

EXAMPLES = """\
examples:
  cinema-verl reshard outputs/run/global_step_500 --world-size 16      from 8 GPUs to 16; then start the run as before,
                                                                       with trainer.nnodes=2
  cinema-verl reshard outputs/cold_start/global_step_300 --world-size 4    supervised fine-tuning, too

The new pieces are put beside the old ones, which stay: a run of either size goes on from the folder. It takes as much
disk as the checkpoint has, and as much memory as one new piece.
"""


class ReshardError(ValueError):
    """A checkpoint that cannot be cut anew; the message says why, and what to do."""


def rows_of(rank: int, ranks: int, rows: int) -> tuple[int, int]:
    """The first row, and the one after the last, that a rank holds of so many: what `torch.chunk` gives it."""
    size = -(-rows // ranks)
    return min(rank * size, rows), min((rank + 1) * size, rows)


def take(pieces: Sequence[torch.Tensor], first: int, last: int) -> torch.Tensor:
    """Rows `first` to `last` (exclusive) of what is cut into `pieces` along the first dimension; a copy."""
    parts, start = [], 0
    for piece in pieces:
        end = start + len(piece)
        if first < end and last > start:
            parts.append(piece[max(first - start, 0) : last - start])
        start = end
    return torch.cat(parts) if parts else pieces[0][:0].clone()


def recut(name: str, old: Sequence[Any], rank: int, ranks: int) -> Any:
    """What one of `ranks` ranks holds of a value that the old ranks held as `old`.

    Args:
        name: of the value, for errors.
        old: of each old rank: a sharded tensor, or dictionaries and lists of such; anything else is the same on all.

    Raises:
        ReshardError: a tensor that is cut otherwise than FSDP2 does.
    """
    first = old[0]
    if isinstance(first, DTensor):
        return _recut_tensor(name, old, rank, ranks)
    if isinstance(first, Mapping):
        if any(one.keys() != first.keys() for one in old):
            raise ReshardError(f"{name}: the ranks' files do not have the same names; they are of different saves")
        return {key: recut(f"{name}.{key}", [one[key] for one in old], rank, ranks) for key in first}
    if isinstance(first, list | tuple) and any(isinstance(item, DTensor | Mapping) for item in first):
        return [recut(f"{name}.{i}", [one[i] for one in old], rank, ranks) for i in range(len(first))]
    if type(first).__name__ == "ShardedTensor":
        raise ReshardError(f"{name} was saved by FSDP1, and only FSDP2's can be cut anew: train with strategy=fsdp2")
    return first


def _recut_tensor(name: str, old: Sequence[DTensor], rank: int, ranks: int) -> DTensor:
    first, mesh = old[0], old[0].device_mesh
    if mesh.ndim != 1 or tuple(first.placements) not in ((Shard(0),), (Replicate(),)):
        raise ReshardError(
            f"{name} is placed as {first.placements} on {mesh}: only parameters that are cut along their first "
            "dimension over all ranks can be cut anew (fsdp_size=-1, without expert or tensor parallelism)"
        )
    pieces = [one._local_tensor for one in old]
    if any(one.shape != first.shape for one in old):
        raise ReshardError(f"{name}: the ranks' files do not have the same shapes; they are of different saves")
    if tuple(first.placements) == (Shard(0),):
        if sum(map(len, pieces)) != first.shape[0]:
            raise ReshardError(f"{name}: {sum(map(len, pieces))} of {first.shape[0]} rows are in the ranks' files")
        local = take(pieces, *rows_of(rank, ranks, first.shape[0]))
    else:
        local = pieces[0].clone()
    # No process group: a mesh is a list of ranks here, as it is in the file.
    target = DeviceMesh(
        mesh.device_type, list(range(ranks)), mesh_dim_names=mesh.mesh_dim_names, _init_backend=False, _rank=rank
    )
    # `from_local` would move the rows to the mesh's device, which this machine need not have.
    return DTensor(local, dataclasses.replace(first._spec, mesh=target), requires_grad=False)


def reshard(checkpoint: Path, ranks: int, say: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Write the pieces for `ranks` processes beside those that a checkpoint has.

    Args:
        checkpoint: a folder `global_step_N` that verl wrote, of either trainer.
        say: told what was written.

    Returns:
        the new files; none where the checkpoint has whole ones for so many already.

    Raises:
        ReshardError: it is no checkpoint, not whole, or not FSDP2's.
        OSError: the folder cannot be read or written; no new file has a name a run would look for unless it is whole.
    """
    folder = shard_folder(checkpoint)
    old = _what_is_there(checkpoint, folder)
    if ranks in old:
        return []
    source = min(old)
    kinds = [kind for kind in KINDS if shard_path(folder, kind, source, 0).is_file()]
    needed = sum(shard_path(folder, kind, source, rank).stat().st_size for kind in kinds for rank in range(source))
    if needed > (free := shutil.disk_usage(folder).free):
        raise ReshardError(f"{needed:,} bytes are to be written to {folder}, and {free:,} are free")
    written = []
    for kind in reversed(kinds):  # the model's last: it is by these that a run sees for how many there is a checkpoint
        loaded = [_load(shard_path(folder, kind, source, rank)) for rank in range(source)]
        for rank in range(ranks):
            if kind == "extra_state":
                value = loaded[rank % source]  # schedules are the same; a random state cannot be divided
            else:
                value = recut(kind, loaded, rank, ranks)
            path = shard_path(folder, kind, ranks, rank)
            with atomic_write(path, "wb") as file:
                torch.save(value, file)
            say(f"{path}: {path.stat().st_size:,} bytes")
            written.append(path)
    _note_world_size(folder, ranks)
    return written


def _what_is_there(checkpoint: Path, folder: Path) -> set[int]:
    if not checkpoint.is_dir():
        what = "is no folder" if checkpoint.exists() else "does not exist"
        raise ReshardError(f"{checkpoint} {what}: name a checkpoint, global_step_N")
    if steps := steps_on_disk(checkpoint):
        raise ReshardError(
            f"{checkpoint} is a run's folder: name a checkpoint of it, {checkpoint}/global_step_{steps[-1]}"
        )
    found = {
        int(match[1]) for path in folder.glob("model_world_size_*_rank_*.pt") if (match := _WORLD.search(path.name))
    }
    if not found:
        raise ReshardError(f"{folder} holds no model_world_size_*_rank_*.pt: it is no checkpoint of verl's FSDP engine")
    kinds = [kind for kind in KINDS if any(folder.glob(f"{kind}_world_size_*_rank_*.pt"))]
    whole = whole_world_sizes(folder, kinds)
    if not whole:
        raise ReshardError(f"{folder} is not whole: a file of {', '.join(kinds)} is missing or cut off for some rank")
    version = _config(folder).get("FSDP_version")
    if version != 2:
        raise ReshardError(
            f"{folder} was saved by FSDP{version or '?'}, and only FSDP2's can be cut anew "
            "(actor_rollout_ref.actor.strategy=fsdp2; engine.strategy=fsdp2 in fine-tuning). Begin a new run from "
            f"its weights: {folder}/huggingface"
        )
    return whole


_WORLD: Final = re.compile(r"world_size_(\d+)_")


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note_world_size(folder: Path, ranks: int) -> None:
    with atomic_write(folder / CONFIG) as file:
        json.dump(_config(folder) | {"world_size": ranks}, file, indent=4)


def _load(path: Path) -> Any:
    """A rank's file, mapped into memory; nothing in it is run."""
    try:
        with torch.serialization.safe_globals(_SAFE):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ReshardError(f"{path} cannot be read as verl's: {type(error).__name__}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl reshard`; see `--help`."""
    parser = Parser(
        prog="cinema-verl reshard",
        description="Cut a checkpoint anew, so that a run goes on with another number of GPUs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="a folder global_step_N, of either trainer")
    parser.add_argument(
        "--world-size", type=positive, required=True, metavar="N", help="processes of the run to come: nodes x GPUs"
    )
    parsed = parser.parse_args(arguments)
    logging.getLogger("torch.distributed.device_mesh").setLevel(logging.ERROR)  # it misses the processes of the mesh
    try:
        written = reshard(parsed.checkpoint, parsed.world_size, print)
    except (ReshardError, OSError) as error:
        print(f"cinema-verl reshard: {error}", file=sys.stderr)
        return 1
    if written:
        print(f"{parsed.checkpoint} can be gone on from with {parsed.world_size} processes")
    else:
        print(f"{parsed.checkpoint} has whole files for {parsed.world_size} processes already: nothing was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
