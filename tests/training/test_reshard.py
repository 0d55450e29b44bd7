"""A checkpoint cut anew: every row of every tensor is where its rank looks for it, and nothing else is done."""

import json
import os
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from cinema_verl import cli
from cinema_verl.training.checkpoint import is_complete, shard_path, world_sizes, write_progress
from cinema_verl.training.reshard import ReshardError, _load, reshard, rows_of, take

SHAPES = {"embed.weight": (7, 3), "norm.weight": (4,), "small": (1, 2)}


def mesh(ranks, rank, dims=("fsdp",), device="cpu"):
    shape = torch.arange(ranks) if len(dims) == 1 else torch.arange(ranks).reshape(1, -1)
    return DeviceMesh(device, shape, mesh_dim_names=dims, _init_backend=False, _rank=rank)


def cut(whole, ranks, rank, device="cpu"):
    pieces = torch.chunk(whole, ranks)
    local = pieces[rank].clone() if rank < len(pieces) else whole[:0].clone()
    target = mesh(ranks, rank, device=device)
    # As `from_local`, which would move it to a device that this machine need not have.
    spec = DTensorSpec(target, (Shard(0),), TensorMeta(whole.shape, whole.stride(), whole.dtype))
    return DTensor(local, spec, requires_grad=False)


def whole_state():
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    moments = {name: {"step": torch.tensor(5.0), "exp_avg": torch.randn(shape)} for name, shape in SHAPES.items()}
    return weights, moments


def save(checkpoint, ranks, *, version=2, device="cpu", of_rl=True):
    """What verl saves, of `ranks` ranks; the weights and the moments as one process would hold them."""
    weights, moments = whole_state()
    folder = checkpoint / "actor" if of_rl else checkpoint
    folder.mkdir(parents=True)
    for rank in range(ranks):

        def mine(tensor, rank=rank):
            return cut(tensor, ranks, rank, device)

        model = {name: mine(tensor) for name, tensor in weights.items()}
        state = {n: {"step": m["step"], "exp_avg": mine(m["exp_avg"])} for n, m in moments.items()}
        optim = {"state": state, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": list(SHAPES)}]}
        rng = {"cpu": torch.get_rng_state(), "numpy": np.random.get_state(), "random": random.getstate()}
        extra = {"lr_scheduler": {"last_epoch": 5}, "rng": rng}
        for name, value in (("model", model), ("optim", optim), ("extra_state", extra)):
            torch.save(value, shard_path(folder, name, ranks, rank))
    (folder / "fsdp_config.json").write_text(json.dumps({"FSDP_version": version, "world_size": ranks}))
    if of_rl:
        torch.save({}, checkpoint / "data.pt")
    else:
        write_progress(checkpoint, "this", 5)
    return folder


def held(folder, name, ranks):
    return [_load(shard_path(folder, name, ranks, rank)) for rank in range(ranks)]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
def test_pieces_are_those_of_chunk(rows, old, new):
    whole = torch.arange(rows * 2).reshape(rows, 2)
    pieces = [whole[slice(*rows_of(rank, old, rows))] for rank in range(old)]
    for rank in range(new):
        chunks = torch.chunk(whole, new)
        expected = chunks[rank] if rank < len(chunks) else whole[:0]
        assert torch.equal(take(pieces, *rows_of(rank, new, rows)), expected)


@pytest.mark.parametrize("of_rl", [True, False])
@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1), (2, 3), (3, 8)])
def test_every_rank_gets_what_it_would_have_saved_itself(tmp_path, old, new, of_rl):
    checkpoint = tmp_path / "global_step_5"
    folder = save(checkpoint, old, of_rl=of_rl)
    assert len(reshard(checkpoint, new)) == 3 * new
    assert world_sizes(checkpoint) == {old, new}
    assert is_complete(checkpoint)
    fresh = save(tmp_path / "fresh" / "global_step_5", new, of_rl=of_rl)
    for name in ("model", "optim"):
        for ours, verls in zip(held(folder, name, new), held(fresh, name, new), strict=True):
            same(ours, verls)
    assert all(extra["lr_scheduler"] == {"last_epoch": 5} for extra in held(folder, "extra_state", new))
    assert json.loads((folder / "fsdp_config.json").read_text()) == {"FSDP_version": 2, "world_size": new}
    assert reshard(checkpoint, new) == [], "there is nothing left to do"


def same(ours, verls):
    assert type(ours) is type(verls)
    if isinstance(ours, DTensor):
        assert ours.shape == verls.shape
        assert ours.placements == verls.placements
        assert ours.device_mesh == verls.device_mesh
        assert torch.equal(ours._local_tensor, verls._local_tensor)
    elif isinstance(ours, dict):
        assert list(ours) == list(verls)
        for key in ours:
            same(ours[key], verls[key])
    elif isinstance(ours, list):
        for one, other in zip(ours, verls, strict=True):
            same(one, other)
    else:
        assert ours == verls


def test_a_checkpoint_of_gpus_is_cut_where_there_is_none(tmp_path):
    folder = save(tmp_path / "global_step_1", 1, device="cuda")
    reshard(tmp_path / "global_step_1", 2)
    assert {one["small"].device_mesh.device_type for one in held(folder, "model", 2)} == {"cuda"}


def test_what_is_no_whole_checkpoint_of_fsdp2_is_refused(tmp_path):
    checkpoint = tmp_path / "run" / "global_step_5"
    folder = save(checkpoint, 2)
    for path, why in (
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "run", "name a checkpoint of it, .*global_step_5"),
        (tmp_path, "no checkpoint of verl's FSDP engine"),
    ):
        with pytest.raises(ReshardError, match=why):
            reshard(path, 4)
    save(tmp_path / "older", 2, version=1)
    with pytest.raises(ReshardError, match="strategy=fsdp2"):
        reshard(tmp_path / "older", 4)
    cut_off = shard_path(folder, "optim", 2, 1)
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    with pytest.raises(ReshardError, match="missing or cut off"):
        reshard(checkpoint, 4)
    assert world_sizes(checkpoint) == set()


def test_a_tensor_that_is_cut_otherwise_is_refused(tmp_path):
    folder = save(tmp_path / "global_step_1", 2)
    weight = torch.zeros(4, 4)
    for rank in range(2):
        two_dimensional = mesh(2, rank, ("ddp", "fsdp"))
        odd = DTensor.from_local(weight[:2], two_dimensional, [Replicate(), Shard(0)], run_check=False)
        torch.save({"odd": odd}, shard_path(folder, "model", 2, rank))
    with pytest.raises(ReshardError, match="fsdp_size=-1"):
        reshard(tmp_path / "global_step_1", 4)
    assert not any(folder.glob("model_world_size_4*")), "by which a run sees that it can go on"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_that_a_file_holds_is_run(tmp_path):
    folder = save(tmp_path / "global_step_1", 1)
    torch.save({"weight": Evil(tmp_path / "made")}, shard_path(folder, "model", 1, 0), pickle_module=pickle)
    with pytest.raises(ReshardError, match="cannot be read as verl's"):
        reshard(tmp_path / "global_step_1", 2)
    assert not (tmp_path / "made").exists()


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    save(tmp_path / "global_step_1", 1)
    command = ["reshard", str(tmp_path / "global_step_1"), "--world-size"]
    assert cli.main([*command, "2"]) == 0
    assert "model_world_size_2_rank_1.pt" in capsys.readouterr().out
    assert cli.main([*command, "2"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert cli.main(["reshard", str(tmp_path), "--world-size", "2"]) == 1
    assert "global_step_1" in capsys.readouterr().err
