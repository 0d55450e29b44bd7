"""The weights of a checkpoint, whatever number of processes wrote it, without holding them in memory.

verl's FSDP engines write a pickle a process, `model_world_size_N_rank_R.pt`, of `DTensor`s. Here the files are mapped
and unpickled as weights only; a tensor is a row of pieces that are read when they are written on.
`verl.model_merger` does the same with all of it in memory, rounds everything to bf16 on the way, unpickles anything,
and leaves the adapters of LoRA apart.
"""

import json
import math
import os
import re
import sys
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from cinema_verl.utils.quiet_logger import errors_only

_BLOCK: Final = 16 << 20  # bytes that are read and handed on at a time
_OPEN: Final = 64  # files at once: a process may have 1,024 or fewer


class ExportError(RuntimeError):
    """The checkpoint cannot be exported; the message says what is wrong with it, and what to do."""


@dataclass(frozen=True)
class Weight:
    """One tensor that is read when it is needed.

    Attributes:
        shape: of the whole tensor.
        dtype: as stored.
        pieces: gives parts of it that follow one another in memory; together they are the whole tensor. Each is good
            until the next one of any weight of its folder is asked for.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[torch.Tensor]]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def whole(self) -> torch.Tensor:
        """The tensor itself, in memory.

        Raises:
            ExportError: the pieces are not as many values as the shape has.
        """
        values, filled = torch.empty(self.numel, dtype=self.dtype), 0
        for piece in self.pieces():
            filled += piece.numel()
            if filled <= self.numel:
                values[filled - piece.numel() : filled] = piece.reshape(-1)
        if filled != self.numel:
            raise _mixed(f"a tensor of shape {self.shape} has {filled} values")
        return values.reshape(self.shape)


def world_size_of(folder: Path) -> int:
    """How many processes wrote the shards in a folder: what `fsdp_config.json` says, or what the names of files do.

    Raises:
        ExportError: there are none, several sets and nothing says which, or a rank's file is missing or cut short.
    """
    ranks: dict[int, set[int]] = {}
    for path in folder.glob("model_world_size_*_rank_*.pt"):
        if match := re.fullmatch(r"model_world_size_(\d+)_rank_(\d+)\.pt", path.name):
            ranks.setdefault(int(match[1]), set()).add(int(match[2]))
    if not ranks:
        raise ExportError(f"{folder} holds no shards (model_world_size_N_rank_R.pt)")
    try:
        size = int(json.loads((folder / "fsdp_config.json").read_bytes())["world_size"])
    except FileNotFoundError:
        size = next(iter(ranks)) if len(ranks) == 1 else 0
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder}/fsdp_config.json cannot be read ({error!r}): copy the checkpoint again") from error
    if size < 1:
        found = ", ".join(map(str, sorted(ranks)))
        raise ExportError(f"{folder} holds shards of {found} processes and no fsdp_config.json: keep one set of them")
    missing = sorted(set(range(size)) - ranks.get(size, set()))
    if missing:
        raise ExportError(
            f"{folder}: the checkpoint is of {size} processes, and the files of ranks {', '.join(map(str, missing))} "
            "are missing: copy them from the machines that wrote them, or export another step"
        )
    cut = [rank for rank in range(size) if not zipfile.is_zipfile(_shard(folder, size, rank))]
    if cut:
        raise ExportError(f"{_shard(folder, size, cut[0])} is cut short: copy it again, or export another step")
    return size


def _shard(folder: Path, size: int, rank: int) -> Path:
    return folder / f"model_world_size_{size}_rank_{rank}.pt"


def read_shards(folder: Path) -> dict[str, Weight]:
    """Every tensor of a folder's shards by its name in the module that was trained.

    Raises:
        ExportError: see `world_size_of`; or a file holds other things than tensors, ranks do not fit together, or a
            tensor is laid out in a way that FSDP does not use.
    """
    size = world_size_of(folder)
    # Torch remarks that a mesh was unpickled before its process groups: there are none here.
    with errors_only("torch.distributed.device_mesh"):
        ranks = [_load(_shard(folder, size, rank)) for rank in range(size)]
    read = _Reader([_shard(folder, size, rank) for rank in range(size)])
    for rank, state in enumerate(ranks):
        if different := sorted(state.keys() ^ ranks[0].keys()):
            raise _mixed(f"{_shard(folder, size, rank)} and that of rank 0 differ in {different[0]}")
    return {name: _weight(f"{folder}: {name}", [state[name] for state in ranks], read) for name in ranks[0]}


def _mixed(what: str) -> ExportError:
    return ExportError(f"{what}: the shards are not of one step. Copy the checkpoint again, or export another step")


def _load(path: Path) -> dict[str, Any]:
    from torch.distributed.tensor import DTensor  # its import makes DTensors readable as weights

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling raises anything
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{path} cannot be read as weights: {why[0]}") from error
    if not isinstance(state, Mapping) or not state:
        raise ExportError(f"{path} holds no weights: copy it again, or export another step")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ExportError(f"{path}: {name} is {type(value).__name__}; shards hold tensors")
        local = value.to_local() if isinstance(value, DTensor) else value
        if local.layout is not torch.strided or local.is_meta:
            raise ExportError(f"{path}: {name} has no plain values")
    return dict(state)


def _weight(name: str, values: Sequence[Any], read: "_Reader") -> Weight:
    """One tensor from what each rank has of it."""
    from torch.distributed.tensor import DTensor

    first = values[0]
    if not all(isinstance(value, DTensor) == isinstance(first, DTensor) for value in values):
        raise _mixed(f"{name} is sharded on some ranks only")
    if len({(tuple(value.shape), value.dtype) for value in values}) > 1:
        raise _mixed(f"{name} has another shape or dtype on another rank")
    shape = tuple(first.shape)
    if not isinstance(first, DTensor):
        return Weight(shape, first.dtype, lambda: _copies(name, values, read))
    if any(value.placements != first.placements for value in values):
        raise _mixed(f"{name} is placed in another way on another rank")
    dim, ranks = _split_over(name, first)
    if max(ranks) >= len(values):
        raise _mixed(f"{name} is of {max(ranks) + 1} ranks or more, and there are files of {len(values)}")
    parts = [values[rank].to_local() for rank in ranks]
    whole = list(shape)
    if dim is not None:
        whole[dim] = sum(part.shape[dim] for part in parts)
    if tuple(whole) != shape or any(_but(part.shape, dim) != _but(shape, dim) for part in parts):
        raise _mixed(f"{name}: the parts of {len(parts)} ranks do not make up {shape}")
    return Weight(shape, first.dtype, (lambda: _in_turn(parts, read)) if not dim else (lambda: _joined(parts, dim)))


def _but(shape: Sequence[int], dim: int | None) -> tuple[int, ...]:
    """A shape without one of its dimensions."""
    return tuple(size for axis, size in enumerate(shape) if axis != dim)


def _split_over(name: str, value: Any) -> tuple[int | None, list[int]]:
    """Along which dimension a DTensor is split (None: not at all), and the ranks that have its parts, in order."""
    from torch.distributed.tensor import Replicate, Shard

    shards = [axis for axis, placement in enumerate(value.placements) if type(placement) is Shard]
    replicas = [axis for axis, placement in enumerate(value.placements) if type(placement) is Replicate]
    if len(shards) > 1 or len(shards) + len(replicas) != len(value.placements):
        raise ExportError(
            f"{name} is placed as {value.placements}; only FSDP's are read (one Shard, Replicate beside it): tensor "
            "parallel checkpoints go through verl.model_merger"
        )
    mesh = value.device_mesh.mesh
    index = tuple(slice(None) if axis in shards else 0 for axis in range(mesh.ndim))
    ranks = mesh[index].reshape(-1).tolist()
    return (value.placements[shards[0]].dim if shards else None), ranks


def _in_turn(parts: Sequence[torch.Tensor], read: "_Reader") -> Iterator[torch.Tensor]:
    for part in parts:
        for block in part.view(-1).split(_BLOCK // part.element_size()) if part.is_contiguous() else [part]:
            yield read(block)


def _joined(parts: Sequence[torch.Tensor], dim: int) -> Iterator[torch.Tensor]:
    yield torch.cat(list(parts), dim=dim)


def _copies(name: str, values: Sequence[torch.Tensor], read: "_Reader") -> Iterator[torch.Tensor]:
    for rank, value in enumerate(values[1:], 1):
        if not torch.equal(value, values[0]):
            raise _mixed(f"{name} is not sharded, and rank {rank} has other values than rank 0")
    yield from _in_turn(values[:1], read)


class _Reader:
    """Reads parts of mapped tensors through their files, into one block of memory: a third less work for the kernel
    than when mapped pages are touched, and nothing that has been read stays in memory.

    Args:
        paths: of the files. What the system does not say the place of (macOS) is left to the mapping, and so is what
            the mapping holds in another way than the file: bytes of another order.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files: dict[Path, int] = {}
        weakref.finalize(self, _close, self._files)
        self._block = torch.empty(_BLOCK, dtype=torch.uint8)
        block: Any = self._block.numpy()
        self._bytes = memoryview(block)
        self._mapped: list[tuple[int, int, Path, int]] = []  # first address, last one, file, place of the first in it
        wanted = {os.fsencode(path.resolve()): path for path in paths if _in_our_order(path)}
        maps = Path("/proc/self/maps")
        for line in maps.read_bytes().strip().split(b"\n") if maps.exists() else ():
            addresses, _, place, _, _, *path = line.split(maxsplit=5)
            if path and path[0] in wanted:
                first, last = (int(address, 16) for address in addresses.split(b"-"))
                self._mapped.append((first, last, wanted[path[0]], int(place, 16)))

    def __call__(self, part: torch.Tensor) -> torch.Tensor:
        """The part's values, good until the next call.

        Raises:
            ExportError: the file has become shorter.
        """
        start, size = part.data_ptr(), part.nbytes
        if size > _BLOCK or not part.is_contiguous() or part.is_neg() or part.is_conj():
            return part
        for first, last, path, place in self._mapped:
            if first <= start and start + size <= last:
                self._fill(self._bytes[:size], path, place + start - first)
                return self._block[:size].view(part.dtype).view(part.shape)
        return part

    def _fill(self, block: memoryview, path: Path, place: int) -> None:
        file, filled = self._open(path), 0
        while filled < len(block):
            read = os.preadv(file, [block[filled:]], place + filled)
            if not read:
                raise ExportError(f"{path} became shorter while it was read: export again")
            filled += read
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, place, len(block), os.POSIX_FADV_DONTNEED)

    def _open(self, path: Path) -> int:
        if path not in self._files:
            if len(self._files) >= _OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            self._files[path] = os.open(path, os.O_RDONLY)
        return self._files[path]


def _close(files: Mapping[Path, int]) -> None:
    for file in files.values():
        os.close(file)


def _in_our_order(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        orders = [archive.read(name) for name in archive.namelist() if name.endswith("/byteorder")]
    return orders == [sys.byteorder.encode()]


def read_safetensors(folder: Path) -> dict[str, Weight]:
    """Every tensor of a Hugging Face folder, by the names in its files.

    Raises:
        ExportError: a file is cut short, or there is none.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, Weight] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  it is no mapping
                    part = file.get_slice(name)
                    dtype = getattr(torch, _NAMES[part.get_dtype()])
                    weights[name] = Weight(tuple(part.get_shape()), dtype, _reader(path, name))
        except (SafetensorError, OSError, KeyError) as error:
            raise ExportError(f"{path} cannot be read ({error}): copy it again, or export another step") from error
    if not weights:
        raise ExportError(f"{folder} holds no *.safetensors")
    return weights


_NAMES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16", "I64": "int64", "I32": "int32"}


def _reader(path: Path, name: str) -> Callable[[], Iterator[torch.Tensor]]:
    def pieces() -> Iterator[torch.Tensor]:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            yield file.get_tensor(name)

    return pieces
