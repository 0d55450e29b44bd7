"""Weights over gloo: what one side sends, the others have, bit for bit; a real store and real sockets."""

import asyncio
import json
import threading

import pytest
import torch
from verl.checkpoint_engine import CheckpointEngineRegistry
from verl.utils.net_utils import get_free_port

from cinema_verl.training.cpu import checkpoint_engine
from cinema_verl.training.cpu.checkpoint_engine import GlooCheckpointEngine, _dtype

WEIGHTS = {
    "matrix": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),  # not contiguous
    "half": torch.tensor([1.5, -0.0, float("inf")], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "empty": torch.zeros(0, 5),
    "integers": torch.tensor([[1], [2]], dtype=torch.int64),
}


def exchange(actors, rollouts, weights):
    """What each rollout process receives; each rank is a thread with its own connection."""
    port, _ = get_free_port("127.0.0.1")
    of_actors, of_rollouts = GlooCheckpointEngine.build_topology(actors, rollouts, [("127.0.0.1", port), None])
    received, walked, errors = [[] for _ in range(rollouts)], [0] * actors, []

    def engine(arguments, i):
        one = GlooCheckpointEngine(bucket_size=1 << 20)
        one.init_process_group(**{name: values[i] for name, values in arguments.items()})
        return one

    def walk(i):
        for item in weights.items():
            walked[i] += 1
            yield item

    def send(i):
        one = engine(of_actors, i)
        asyncio.run(one.send_weights(walk(i), 7))
        one.finalize()

    async def collect(one, i):
        async for item in one.receive_weights(7):
            received[i].append(item)

    def receive(i):
        one = engine(of_rollouts, i)
        asyncio.run(collect(one, i))
        one.finalize()

    def guarded(function, i):
        try:
            function(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(send, i), daemon=True) for i in range(actors)]
    threads += [threading.Thread(target=guarded, args=(receive, i), daemon=True) for i in range(rollouts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)
    assert walked == [len(weights)] * actors, "every rank of the trainer walks: tensors are gathered from all"
    return received


@pytest.mark.parametrize(("actors", "rollouts"), [(1, 1), (3, 2)])
def test_everybody_has_every_tensor(actors, rollouts):
    for received in exchange(actors, rollouts, WEIGHTS):
        assert [name for name, _ in received] == list(WEIGHTS)
        for name, tensor in received:
            assert (tensor.shape, tensor.dtype) == (WEIGHTS[name].shape, WEIGHTS[name].dtype)
            assert torch.equal(tensor, WEIGHTS[name])


def test_nothing_to_send_ends_too():
    assert exchange(1, 1, {}) == [[]]


def test_verl_finds_it_by_name_in_every_process():
    assert CheckpointEngineRegistry.get("gloo") is GlooCheckpointEngine


def test_only_the_first_rank_says_where_the_store_is(monkeypatch):
    monkeypatch.setattr(checkpoint_engine.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    address, port = GlooCheckpointEngine(1, is_master=True).prepare()
    assert (address, port > 0) == ("127.0.0.1", True)
    assert GlooCheckpointEngine(1).prepare() is None


@pytest.mark.parametrize("name", ["torch.load", "__import__('os')", "float31", ""])
def test_what_is_announced_is_no_code(name):
    with pytest.raises(ValueError, match="torch does not know"):
        _dtype(json.loads(json.dumps(name)))
