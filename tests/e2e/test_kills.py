"""kill -9 at random moments, again and again, of reinforcement learning and of an evaluation, as a user starts them.

Supervised fine-tuning has its own in `training/sft/test_kills.py`. A moment is anywhere from the first import to the
end: it is drawn over the time that an undisturbed run takes on this machine. `CINEMA_KILLS` says how many there are of
each (4 by default), four to a run.
"""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.evaluate.unfinished import NAME
from cinema_verl.training.checkpoint import complete_steps

from . import test_evaluate_cpu as evaluation
from . import test_train_cpu as training
from .conftest import finish, kill, log_of

pytestmark = pytest.mark.slow

IN_A_RUN = 4
SEEDS = range(-(-int(os.environ.get("CINEMA_KILLS", IN_A_RUN)) // IN_A_RUN))
STEPS = training.SCHEDULE.total_steps
RL = (
    *("cinema.image_conditions=[]", "trainer.val_before_train=false", "trainer.test_freq=2"),
    *("actor_rollout_ref.rollout.n=4", "trainer.max_actor_ckpt_to_keep=1"),
    *(f"actor_rollout_ref.{name}_micro_batch_size_per_gpu=32" for name in ("actor.ppo", "rollout.log_prob")),
)
ASKED = ("cinema.image_conditions=[]", "data.val_batch_size=4")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(folder, Sizes(train=64, test=16, sft_train=0, sft_val=0))
    return folder


def killed(start: Callable[[], subprocess.Popen], seconds: float) -> int | None:
    """The exit code of a run that came to its end before it was killed; None for one that was killed."""
    process, moment = start(), time.monotonic() + seconds
    while time.monotonic() < moment:
        if process.poll() is not None:
            return process.returncode
        time.sleep(0.02)
    kill(process)
    return None


# ---- an evaluation ----------------------------------------------------------------------------------------------


def started(folder: Path, data: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    return evaluation.start(folder, *ASKED, f"data.val_files={data}/test.parquet")


def ended(folder: Path, data: Path) -> None:
    said, _ = (process := started(folder, data)).communicate(timeout=evaluation.TIME_LIMIT)
    assert process.returncode == 0, said[-5000:]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data):
    """An undisturbed evaluation: its records, and its seconds."""
    folder, begun = tmp_path_factory.mktemp("evaluated"), time.monotonic()
    ended(folder, data)
    return evaluation.records_of(folder), time.monotonic() - begun


@pytest.mark.parametrize("seed", SEEDS)
def test_an_evaluation(tmp_path, data, evaluated, seed):
    """On the CPU each rollout has a seed of its own, so that a disturbed evaluation ends as one that was not."""
    expected, seconds = evaluated
    journal, summary = (tmp_path / "evaluation" / name for name in (NAME, "0.evaluation.json"))
    chance, answered = random.Random(seed), 0
    for _ in range(IN_A_RUN):
        code = killed(lambda: started(tmp_path, data), chance.uniform(0, seconds))
        assert code in (0, None)
        assert code is None or summary.exists(), "exit 0 is for an evaluation that is written"
        now = len(journal.read_bytes().splitlines()) if journal.exists() else 0
        assert now >= answered or summary.exists(), "what was answered is kept"
        answered = now
        print(f"killed: {code is None}, lines in the journal: {now}, written: {summary.exists()}")
    ended(tmp_path, data)
    assert evaluation.records_of(tmp_path) == expected
    assert json.loads(summary.read_text())["failed_rollouts"] == 0
    assert not journal.exists()


# ---- reinforcement learning -------------------------------------------------------------------------------------


def trained(folder: Path) -> list[int]:
    return [record["step"] for record in training.records(folder) if "cinema/acc" in record["data"]]


def validated(folder: Path) -> set[int]:
    return {record["step"] for record in training.records(folder) if any("val-" in name for name in record["data"])}


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, data):
    """What an undisturbed training takes."""
    folder, begun = tmp_path_factory.mktemp("trained"), time.monotonic()
    assert finish(training.start(folder, data, *RL), folder, training.TIME_LIMIT) == 0, log_of(folder)[-5000:]
    assert (trained(folder), validated(folder)) == (list(range(1, STEPS + 1)), {2, 4})
    return time.monotonic() - begun


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforcement_learning(tmp_path, data, seconds, seed):
    checkpoints, chance, saved = tmp_path / "checkpoints", random.Random(seed), 0
    for _ in range(IN_A_RUN):
        code = killed(lambda: training.start(tmp_path, data, *RL), chance.uniform(0, seconds))
        complete, steps = complete_steps(checkpoints), trained(tmp_path)
        print(f"killed: {code is None}, logged {steps}, saved {complete}")
        assert code is None or complete == [STEPS], "exit 0 is for a run that is through"
        assert code in (0, None), log_of(tmp_path)[-5000:]
        assert len(complete) <= 2, "one is kept, and a kill may come before the older one goes"
        assert max(complete, default=0) >= saved, "nothing that was saved is lost"
        assert steps == sorted(set(steps)), "no step is in the history twice"
        saved = max(complete, default=0)
    process = training.start(tmp_path, data, *RL)
    assert finish(process, tmp_path, training.TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    assert trained(tmp_path) == list(range(1, STEPS + 1)), "each step once, and none left out"
    assert validated(tmp_path) == {2, 4}
    assert complete_steps(checkpoints) == [STEPS]
    assert {path.name for path in checkpoints.glob("*global_step_*")} == {f"global_step_{STEPS}"}
