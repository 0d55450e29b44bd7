"""Weights from the trainer to rollout processes elsewhere, over gloo: for machines without accelerators.

verl's checkpoint engines need a GPU or a network card of their own. This one, `gloo`, is for its mode separate_async on
a CPU (`actor_rollout_ref.rollout.checkpoint_engine.backend=gloo`). The trainer's first rank broadcasts one tensor after
the other; what each is, is announced as JSON in a store that the first rank holds.
"""

import json
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, Final

import ray
import torch
import torch.distributed as dist
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.utils.net_utils import get_free_port

NAME: Final = "gloo"
TIME_LIMIT: Final = timedelta(seconds=300)
"""After which a rank that waits for another one ends with an error. Our choice: small models take a second."""

_OUTSIDE: Final = -1  # ranks of the trainer beside the first one: they gather tensors, and send none


@CheckpointEngineRegistry.register(NAME)
class GlooCheckpointEngine(CheckpointEngine):
    """See the module.

    Args:
        bucket_size: of verl's contract; tensors are sent one by one.
        is_master: whether this is the trainer's first rank.
    """

    def __init__(self, bucket_size: int, is_master: bool = False):
        self.is_master = is_master
        self.rank = _OUTSIDE
        self.store: Any = None
        self.group: Any = None

    def prepare(self) -> tuple[str, int] | None:  # type: ignore[override]
        """Where the first rank will hold the store."""
        if not self.is_master:
            return None
        address = ray.util.get_node_ip_address().strip("[]")
        port, _ = get_free_port(address)
        return address, port

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[Any]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Rank 0 is the trainer's first one; the rollout processes follow."""
        size = rollout_world_size + 1
        actors = [0] + [_OUTSIDE] * (actor_wg_world_size - 1)

        def arguments(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "world_size": [size] * len(ranks), "address": [metadata[0]] * len(ranks)}

        return arguments(actors), arguments(list(range(1, size)))

    def init_process_group(self, rank: int, world_size: int, address: tuple[str, int]) -> None:  # type: ignore[override]
        self.rank = rank
        if rank != _OUTSIDE:
            host, port = address
            self.store = dist.TCPStore(host, port, world_size, rank == 0, TIME_LIMIT, wait_for_workers=False)  # type: ignore[attr-defined]
            self.group = dist.ProcessGroupGloo(self.store, rank, world_size, TIME_LIMIT)

    def finalize(self) -> None:
        self.group = self.store = None

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, float]:
        """Send every tensor; all ranks walk through them, because each is gathered from all."""
        number = 0
        for name, tensor in weights:
            if self.rank == 0:
                whole = tensor.detach().cpu().contiguous()
                self._announce(number, {"name": name, "shape": list(whole.shape), "dtype": str(whole.dtype)})
                self._broadcast(whole)
            number += 1
        if self.rank == 0:
            self._announce(number, None)
            self.group.barrier().wait()  # the store goes with this rank: everybody has read the end
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:  # type: ignore[override]
        """Yield the tensors that are sent, in their order."""
        number = 0
        while (header := json.loads(self.store.get(_key(number)))) is not None:
            tensor = torch.empty(header["shape"], dtype=_dtype(header["dtype"]))
            self._broadcast(tensor)
            yield header["name"], tensor
            number += 1
        self.group.barrier().wait()

    def _announce(self, number: int, header: dict[str, Any] | None) -> None:
        self.store.set(_key(number), json.dumps(header))

    def _broadcast(self, tensor: torch.Tensor) -> None:
        if tensor.numel():
            # As bytes: gloo does not know every dtype.
            self.group.broadcast(tensor.view(-1).view(torch.uint8), 0).wait()


def _key(number: int) -> str:
    return f"tensor {number}"


def _dtype(name: str) -> torch.dtype:
    """The dtype of "torch.float32", say.

    Raises:
        ValueError: torch has none of that name.
    """
    found = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"a weight of dtype {name!r} was announced, which torch does not know")
    return found
