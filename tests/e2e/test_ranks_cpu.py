"""Two ranks, and two nodes, train what one does; a run goes on with more of them; what is lost ends it, in words."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import cinema_verl
from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.training.checkpoint import complete_steps
from cinema_verl.training.reshard import reshard

from .conftest import finish, kill, log_of

pytestmark = pytest.mark.slow

TIME_LIMIT = 900  # seconds; a run takes about one minute
STEPS = 2
TOLERANCE = 1e-6
TWO = ("trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2")
HALF = tuple(
    f"actor_rollout_ref.{key}=32"
    for key in (
        "actor.ppo_micro_batch_size_per_gpu",
        "ref.log_prob_micro_batch_size_per_gpu",
        "rollout.log_prob_micro_batch_size_per_gpu",
    )
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(folder, Sizes(train=200, test=16, sft_train=0, sft_val=0))
    return folder


def start(folder, data, *overrides, **environment):
    """A run whose folder is named as people do, relative to where they stand."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=cinema_cpu"]
    command += [f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet"]
    command += ["cinema.exploration_steps=1", f"cinema.annealing_steps={STEPS - 1}"]
    command += ["trainer.save_freq=1", "trainer.test_freq=-1", "trainer.val_before_train=false"]
    command += ["trainer.default_local_dir=run", *overrides]
    variables = os.environ | {"VERL_FILE_LOGGER_PATH": "metrics.jsonl", "VERL_PLATFORM": "cpu"} | environment
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)


def train(folder, data, *overrides, **environment):
    assert finish(start(folder, data, *overrides, **environment), folder, TIME_LIMIT) == 0, log_of(folder)[-5000:]
    return folder


def history(folder):
    return {record["step"]: record["data"] for record in map(json.loads, open(folder / "metrics.jsonl"))}


def weights_of(folder):
    return load_file(folder / f"run/global_step_{STEPS}/actor/huggingface/model.safetensors")


def assert_same(one, other, steps=range(1, STEPS + 1)):
    first, second = history(one), history(other)
    for step in steps:
        for name in ("cinema/acc", "cinema/pattern_entropy", "actor/pg_loss", "actor/grad_norm", "actor/lr"):
            expected = pytest.approx(first[step][name], rel=10 * TOLERANCE, abs=TOLERANCE)
            assert second[step][name] == expected, (step, name)
    weights, others = (
        load_file(f / f"run/global_step_{STEPS}/actor/huggingface/model.safetensors") for f in (one, other)
    )
    assert weights.keys() == others.keys()
    difference = max((weights[name] - others[name]).abs().max().item() for name in weights)
    print(f"{other.name}: weights differ by {difference:.1e} at most")
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=0, atol=10 * TOLERANCE, msg=name)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory, data):
    return train(tmp_path_factory.mktemp("one") / "one", data)


# ---- ranks ------------------------------------------------------------------------------------------------------


def test_two_ranks_go_on_from_a_checkpoint_of_one_that_was_cut_anew(tmp_path, data, one_rank):
    folder, checkpoint = tmp_path / "two", one_rank / "run" / "global_step_1"
    options = [*TWO, *HALF, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}"]
    assert finish(start(folder, data, *options), folder, TIME_LIMIT) == 1
    assert f"cinema-verl reshard {checkpoint} --world-size 2" in log_of(folder)
    assert "Nothing was started" in log_of(folder) or "nothing was started" in log_of(folder)
    assert len(reshard(checkpoint, 2)) == 6
    train(folder, data, *options)
    assert_same(one_rank, folder, steps=[2])


def test_a_replica_that_is_killed_ends_the_run_with_its_checkpoint(tmp_path, data):
    folder = tmp_path / "killed"
    process = start(folder, data, *TWO, *HALF, "cinema.annealing_steps=50")
    deadline = time.monotonic() + TIME_LIMIT
    while not complete_steps(folder / "run"):
        assert process.poll() is None, log_of(folder)[-5000:]
        assert time.monotonic() < deadline, log_of(folder)[-5000:]
        time.sleep(0.05)
    servers = [p for p in psutil.Process(process.pid).children(recursive=True) if "TransformersServer" in name_of(p)]
    assert len(servers) == 2
    servers[0].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    assert finish(process, folder, TIME_LIMIT) != 0
    print(f"ended {time.monotonic() - begun:.0f} s after")
    assert complete_steps(folder / "run")
    assert "ActorDiedError" in log_of(folder) or "a rollout server died" in log_of(folder)


def name_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


# ---- nodes ------------------------------------------------------------------------------------------------------


@contextmanager
def cluster(folder, second=None):
    """Two nodes of Ray, each started by somebody else, somewhere else: what `ray start` is on two machines.

    Args:
        second: more variables of the second node.
    """
    # A token is asked of a Ray that was started from the command line, and this one listens on the loopback only.
    common = os.environ | {"RAY_AUTH_MODE": "disabled", "VERL_PLATFORM": "cpu"}
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--node-ip-address=127.0.0.1", "--num-gpus=1"]
    ray += ["--num-cpus=8", "--disable-usage-stats", "--block"]
    port = 20_000 + os.getpid() % 10_000
    address = f"127.0.0.1:{port}"
    nodes = (
        ([f"--port={port}", "--head", "--include-dashboard=false", f"--temp-dir={short(folder)}"], {}),
        ([f"--address={address}"], second or {}),
    )
    with ExitStack() as started:
        for number, (options, variables) in enumerate(nodes):
            place = folder / f"node{number}"
            place.mkdir(parents=True)
            with open(place / "log.txt", "wb") as log:
                node = subprocess.Popen([*ray, *options], cwd=place, env=common | variables, stdout=log, stderr=log)
            started.callback(kill, node)
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (place / "log.txt").read_text(errors="replace"):
                assert node.poll() is None, (place / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    shutil.rmtree(short(folder), ignore_errors=True)


def short(folder):
    """Ray's folder; the name of a socket in it may have 107 characters."""
    return Path("/tmp") / f"ray-{folder.name}-{os.getpid()}"


NODES = ("trainer.nnodes=2", *HALF)


def test_two_nodes_train_what_one_does_and_all_files_are_where_the_run_was_started(tmp_path, data, one_rank):
    folder = tmp_path / "nodes"
    with cluster(tmp_path / "c") as environment:
        train(folder, data, *NODES, **environment)
    assert_same(one_rank, folder)
    assert complete_steps(folder / "run") == [1, 2]
    assert sorted(path.name for path in (folder / "run" / "rollouts").iterdir()) == ["1.jsonl", "2.jsonl"]
    for node in (tmp_path / "c").glob("node*"):
        assert [path.name for path in node.iterdir()] == ["log.txt"], "nothing lands where the cluster was started"


def test_nodes_that_have_other_code_end_the_run_before_it_trains(tmp_path, data):
    other = tmp_path / "other"
    shutil.copytree(Path(cinema_verl.__file__).parent, other / "cinema_verl", ignore=shutil.ignore_patterns("recipes"))
    with open(other / "cinema_verl" / "reward.py", "a") as file:
        file.write("\n# of another commit\n")
    folder = tmp_path / "differ"
    with cluster(tmp_path / "d", second={"PYTHONPATH": str(other)}) as environment:
        assert finish(start(folder, data, *NODES, **environment), folder, TIME_LIMIT) != 0
    assert "do not have the same packages" in log_of(folder)
    assert not complete_steps(folder / "run")
