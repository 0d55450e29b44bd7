"""Asynchronous training on the CPU, through verl's own entry point: begun under old weights, killed, gone on with."""

import json
import os
import pickle
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.checkpoint import QUEUE, complete_steps

from .conftest import finish, kill, log_of

pytestmark = pytest.mark.slow

SCHEDULE = AnnealingSchedule(exploration_steps=5, annealing_steps=1)  # each step may interrupt a trajectory, or none
TIME_LIMIT = 1800  # seconds; a run takes about one minute where nothing else runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(folder, Sizes(train=96, test=4, sft_train=0, sft_val=0))
    return folder


def start(folder, data, recipe, *overrides):
    command = [sys.executable, "-m", "verl.trainer.main_ppo", f"+recipe={recipe}"]
    command += [f"data.train_files={data}/train.parquet", f"data.val_files={data}/test.parquet"]
    command += [f"cinema.exploration_steps={SCHEDULE.exploration_steps}"]
    command += [f"cinema.annealing_steps={SCHEDULE.annealing_steps}"]
    command += ["cinema.image_conditions=[]", "actor_rollout_ref.actor.optim.lr_warmup_steps=0"]
    command += ["actor_rollout_ref.rollout.agent.num_workers=1"]
    # Several batches of requests for the prompts of a step, and two more steps' prompts: one decodes when it is full.
    command += ["actor_rollout_ref.rollout.max_num_seqs=16", "trainer.v1.colocate_async.num_warmup_batches=2"]
    command += ["trainer.save_freq=1", "trainer.test_freq=-1", "trainer.val_before_train=false"]
    command += [f"trainer.default_local_dir={folder}/run", f"hydra.run.dir={folder}/hydra", *overrides]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=os.environ, stdout=log, stderr=subprocess.STDOUT)


def kill_after(process, folder, step):
    """When a step has been saved and logged."""
    deadline = time.monotonic() + TIME_LIMIT
    while step not in history(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None, log_of(folder)[-5000:]
    kill(process)
    assert step in history(folder), log_of(folder)[-5000:]
    return max(complete_steps(folder / "run"))


def history(folder):
    path = folder / "run" / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert [record["step"] for record in records] == sorted({record["step"] for record in records})
    return {record["step"]: record["data"] for record in records}


def rollouts(folder, step):
    return [json.loads(line) for line in (folder / "run" / "rollouts" / f"{step}.jsonl").read_text().splitlines()]


def groups(folder, step):
    return {row["uid"].split("_")[0] for row in rollouts(folder, step)}


def begun_in(checkpoint):
    """Prompts that a checkpoint of ours has in flight, or ended and waiting."""
    with open(checkpoint / QUEUE / "controller_state.pkl", "rb") as file:
        partition = pickle.load(file)["partitions"]["train"]
    keys = partition["keys_mapping"] if isinstance(partition, dict) else partition.keys_mapping
    return {key for key in keys if "_" not in key}


def assert_trained(folder, unlogged=()):
    """Every step trained what its stage says, every dumped row is scored, and no group was trained twice.

    A step that was saved, and killed before it was logged, has neither metrics nor rollouts.
    """
    metrics = history(folder)
    assert set(metrics) | set(unlogged) == set(range(1, SCHEDULE.total_steps + 1))
    for step, one in metrics.items():
        assert one["cinema/diversity_coefficient"] == pytest.approx(SCHEDULE(step))
        assert one["cinema/stage"] == SCHEDULE.stage(step)
        assert one["cinema/dynamic_sampling/kept_groups"] == 8
        assert "rollout_corr/rollout_is_mean" in one
        rows = rollouts(folder, step)
        assert len(rows) == 64
        assert all(row["pattern"] is not None and row["stop_reason"] for row in rows)
        assert one["cinema/acc"] == pytest.approx(sum(row["acc"] for row in rows) / 64)
        if SCHEDULE.stage(step) == 2:
            by_group = {}
            for row in rows:
                by_group.setdefault(row["uid"].split("_")[0], set()).add(row["acc"])
            assert all(len(accuracies) == 2 for accuracies in by_group.values())
    trained = [groups(folder, step) for step in metrics]
    assert sum(map(len, trained)) == len(set.union(*trained)) == 8 * len(metrics)
    assert metrics[1]["training/rollout_probs_diff_max"] < 1e-4, "rollout engine and actor disagree"
    staleness = [one["training/off_policy/trajectory_staleness_worst/max"] for one in metrics.values()]
    assert max(staleness) >= 1, "nothing was begun under older weights"
    return metrics


def assert_interrupted(folder, metrics):
    spans = [one["training/off_policy/trajectory_spans/max"] for one in metrics.values()]
    assert max(spans) >= 2, "no trajectory went on under new weights"
    saved = complete_steps(folder / "run")
    assert saved == [SCHEDULE.total_steps - 1, SCHEDULE.total_steps], "the last two are kept"
    before, last = (load_file(folder / f"run/global_step_{step}/actor/huggingface/model.safetensors") for step in saved)
    assert any((last[name] != tensor).any() for name, tensor in before.items())


def test_colocated_training_is_interrupted_and_goes_on_under_new_weights(tmp_path, data):
    process = start(tmp_path, data, "cinema_colocate_async_cpu")
    assert finish(process, tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    assert_interrupted(tmp_path, assert_trained(tmp_path))


def test_a_killed_run_goes_on_with_what_was_in_flight(tmp_path, data):
    process = start(tmp_path, data, "cinema_colocate_async_cpu")
    saved = kill_after(process, tmp_path, step=1)
    begun = begun_in(tmp_path / "run" / f"global_step_{saved}")
    assert begun, "a batch of prompts is in flight when a step ends"
    assert not begun & groups(tmp_path, 1)

    process = start(tmp_path, data, "cinema_colocate_async_cpu")
    assert finish(process, tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    metrics = assert_trained(tmp_path, unlogged={saved} - {1})
    assert f"Restored {len(begun)} training prompt groups" in log_of(tmp_path)
    later = [step for step in metrics if step > saved]
    trained = set.union(*(groups(tmp_path, step) for step in later))
    waiting = begun_in(tmp_path / "run" / f"global_step_{SCHEDULE.total_steps}")
    evicted = sum(metrics[step]["cinema/dynamic_sampling/evicted_groups"] for step in later)
    assert trained & begun, "what was in flight is trained"
    assert len(begun - trained - waiting) <= evicted, "or waits still, or taught nothing: nothing is lost"
