"""Room on this machine, against sizes that are worked out by hand."""

import shutil
from collections import namedtuple

import pytest
from omegaconf import OmegaConf

from cinema_verl.checks import machine
from cinema_verl.checks.host_memory import Projection

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create(
        {
            "trainer": {
                "save_freq": 50,
                "nnodes": 1,
                "max_actor_ckpt_to_keep": 2,
                "default_local_dir": str(tmp_path / "not" / "yet"),
            },
            "actor_rollout_ref": {
                "actor": {"checkpoint": {"save_contents": ["model", "optimizer", "extra", "hf_model"]}},
                "rollout": {"n": 8},
            },
        }
    )


def found(config, folder=None, memory=(), rl=True):
    return {finding.what: finding for finding in machine.inspect_machine(config, folder, memory, rl=rl)}


def test_bytes_of_a_checkpoint():
    # float32 weights, two float32 moments, bfloat16 weights: 4 + 8 + 2 bytes a parameter.
    assert machine.checkpoint_bytes(10, ["model", "optimizer", "extra", "hf_model"]) == 140
    assert machine.checkpoint_bytes(10, ["model", "hf_model"], float32=True) == 80


def test_disk_for_the_checkpoints_that_are_kept_and_one_more(config, tiny_model, monkeypatch):
    from safetensors.torch import load_file

    parameters = sum(weight.numel() for weight in load_file(tiny_model / "model.safetensors").values())
    need = 3 * 14 * parameters
    for free, ok in ((need + 1, True), (need, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(0, 0, free))
        assert found(config, tiny_model)["disk"].ok is ok
    for everything in (None, 0, -1):
        config.trainer.max_actor_ckpt_to_keep = everything
        assert found(config, tiny_model)["disk"].ok is None
        assert "all are kept" in found(config, tiny_model)["disk"].detail


def test_a_training_that_saves_nothing_is_said(config):
    for never in (-1, 0):
        config.trainer.save_freq = never
        assert found(config)["disk"].ok is None
        assert "no checkpoint is written" in found(config)["disk"].detail
    config.trainer.val_only = True
    assert found(config) == {}


def test_fine_tuning_saves_its_last_step_whatever_it_is_told(tiny_model, tmp_path):
    trainer = {"save_freq": -1, "max_ckpt_to_keep": 1, "nnodes": 1, "default_local_dir": str(tmp_path)}
    config = OmegaConf.create({"trainer": trainer, "checkpoint": {"save_contents": ["model"]}})
    assert "1 + 1 checkpoints" in found(config, tiny_model, rl=False)["disk"].detail


def test_host_memory_of_a_node(config, monkeypatch):
    monkeypatch.setattr(machine, "memory_here", lambda: 100)
    batch = [Projection("a batch", 99.0, ""), Projection("a small one", 1.0, "")]
    assert found(config, memory=batch)["host memory"].ok is True
    batch = [Projection("a batch", 150.0, "")]
    assert found(config, memory=batch)["host memory"].ok is False
    config.trainer.nnodes = 2
    assert found(config, memory=batch)["host memory"].ok is True


def test_batches_made_ahead_are_in_shared_memory(config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 64))
    ahead = [Projection("a batch", 10.0, ""), Projection("prefetched, in /dev/shm", 65.0, "")]
    assert found(config, memory=ahead, rl=False)["/dev/shm"].ok is False
    assert found(config, memory=[Projection("prefetched, in /dev/shm", 63.0, "")], rl=False)["/dev/shm"].ok is True


def test_a_container_has_what_it_is_limited_to(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(limit),))
    whole = machine.memory_here()
    limit.write_text("4096\n")
    assert machine.memory_here() == 4096
    limit.write_text("max\n")
    assert machine.memory_here() == whole > 4096
