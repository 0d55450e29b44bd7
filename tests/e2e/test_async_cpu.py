"""Asynchronous training on the CPU, through verl's own entry point: begun under old weights, killed, gone on with."""

import json
import os
import pickle
import random
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.checkpoint import QUEUE, complete_steps, progress_of, step_folder

from .conftest import finish, kill, log_of

pytestmark = pytest.mark.slow

RECIPES = ("cinema_colocate_async_cpu", "cinema_separate_async_cpu")
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
    mode = recipe.removeprefix("cinema_").removesuffix("_cpu")
    command += ["actor_rollout_ref.rollout.max_num_seqs=16", f"trainer.v1.{mode}.num_warmup_batches=2"]
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


def keys_in(checkpoint):
    """What a checkpoint of ours has in flight: `UID` for a prompt, `UID_SESSION_INDEX` for a trajectory."""
    with open(checkpoint / QUEUE / "controller_state.pkl", "rb") as file:
        partition = pickle.load(file)["partitions"]["train"]
    return set(partition["keys_mapping"] if isinstance(partition, dict) else partition.keys_mapping)


def begun_in(checkpoint):
    """Prompts that a checkpoint of ours has in flight, or ended and waiting."""
    return {key for key in keys_in(checkpoint) if "_" not in key}


def trained_in(checkpoint):
    """Trajectories of the step that a checkpoint was written in: those without a prompt, which it has taken."""
    keys = keys_in(checkpoint)
    return {key for key in keys if "_" in key and key.split("_")[0] not in keys}


def assert_trained(folder, unlogged=()):
    """Every step trained what its stage says, every dumped row is scored, and no group was trained twice.

    A step that was saved, and killed before it was logged, has no rollouts.
    """
    metrics = history(folder)
    assert set(metrics) == set(range(1, SCHEDULE.total_steps + 1))
    metrics = {step: one for step, one in metrics.items() if step not in unlogged}
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


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_goes_on_with_what_was_in_flight(tmp_path, data, recipe):
    process = start(tmp_path, data, recipe)
    saved = kill_after(process, tmp_path, step=1)
    begun = begun_in(tmp_path / "run" / f"global_step_{saved}")
    assert begun, "a batch of prompts is in flight when a step ends"
    assert not begun & groups(tmp_path, 1)

    process = start(tmp_path, data, recipe)
    assert finish(process, tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    metrics = assert_trained(tmp_path, unlogged={saved} - {1})
    assert f"Restored {len(begun)} training prompt groups" in log_of(tmp_path)
    later = [step for step in metrics if step > saved]
    trained = set.union(*(groups(tmp_path, step) for step in later))
    waiting = begun_in(tmp_path / "run" / f"global_step_{SCHEDULE.total_steps}")
    evicted = sum(metrics[step]["cinema/dynamic_sampling/evicted_groups"] for step in later)
    assert trained & begun, "what was in flight is trained"
    assert len(begun - trained - waiting) <= evicted, "or waits still, or taught nothing: nothing is lost"


# ---- kill -9, again and again -----------------------------------------------------------------------------------

KILLS = int(os.environ.get("CINEMA_KILLS", 2))
ROWS = 40 * KILLS  # more than a run can draw, so that its loader counts them once
SHORT = 8.0  # seconds; two steps


def killed_at_random(process, folder, chance):
    """The exit code of a run that ended before it was killed, or None; one kill of four comes before the first step."""
    early, begun, moment = chance.random() < 0.25, len(history(folder)), time.monotonic() + TIME_LIMIT
    if early:
        moment = time.monotonic() + chance.uniform(0, 5 * SHORT)
    while time.monotonic() < moment:
        if process.poll() is not None:
            return process.returncode
        if not early and len(history(folder)) > begun:
            early, moment = True, time.monotonic() + chance.uniform(0, SHORT)
        time.sleep(0.05)
    kill(process)
    return None


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_kill_loses_a_trajectory_or_has_it_trained_twice(tmp_path, recipe):
    """Every prompt that was drawn is trained once, was evicted, or is in the queue; after each step of each life."""
    write_dataset(tmp_path / "data", Sizes(train=ROWS, test=4, sft_train=0, sft_val=0))
    run, chance, saved = tmp_path / "run", random.Random(recipe), []
    steps = 3 * KILLS + 3
    options = f"cinema.exploration_steps={2 * steps // 3}", f"cinema.annealing_steps={steps - 2 * steps // 3}"
    for _ in range(KILLS):
        process = start(tmp_path, tmp_path / "data", recipe, *options, "trainer.max_actor_ckpt_to_keep=null")
        assert killed_at_random(process, tmp_path, chance) is None, log_of(tmp_path)[-5000:]
        complete = complete_steps(run)
        print(f"killed with {len(history(tmp_path))} steps logged, {len(complete)} saved", flush=True)
        assert complete[: len(saved)] == saved, "what was saved stays"
        saved = complete
    process = start(tmp_path, tmp_path / "data", recipe, *options, "trainer.max_actor_ckpt_to_keep=null")
    assert finish(process, tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]

    assert list(history(tmp_path)) == complete_steps(run) == list(range(1, steps + 1))
    trained, evicted = set(), 0
    for step in range(1, steps + 1):
        checkpoint = step_folder(run, step)
        mine, waiting = trained_in(checkpoint), begun_in(checkpoint)
        assert len(mine) == 64
        assert not {key.split("_")[0] for key in mine} & {key.split("_")[0] for key in trained}, "trained twice"
        trained |= mine
        evicted += progress_of(checkpoint)["metrics"]["cinema/dynamic_sampling/evicted_groups"]
        drawn = torch.load(checkpoint / "data.pt", weights_only=False)["_num_yielded"]
        assert drawn == 8 * step + evicted + len(waiting) < ROWS
    print(f"{KILLS} kills, {steps} steps, {len(trained)} trajectories trained once, {evicted:g} groups evicted")
