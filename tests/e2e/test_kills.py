"""kill -9 again and again, of reinforcement learning and of an evaluation, as a user starts them.

Supervised fine-tuning has its own in `training/sft/test_kills.py`; `make kills` runs all three. `CINEMA_KILLS` says how
many there are of each (4 by default), four to a run at most, and `CINEMA_KILLS_SEED` with which seed they begin. What a
kill interrupts is taken in turn: the start, a step, a checkpoint that is being written, a validation. When it comes is
drawn over the time that this takes where nobody disturbs it.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.evaluate.unfinished import NAME
from cinema_verl.training.checkpoint import complete_steps

from . import test_evaluate_cpu as evaluation
from . import test_train_cpu as training
from .conftest import finish, kill, log_of

pytestmark = pytest.mark.slow

IN_A_RUN = 4
FIRST = int(os.environ.get("CINEMA_KILLS_SEED", "0"))
SEEDS = range(FIRST, FIRST - (-int(os.environ.get("CINEMA_KILLS", IN_A_RUN)) // IN_A_RUN))
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


class Moment(NamedTuple):
    """When a kill comes: some time after what `state` answers has changed, or after the start.

    Attributes:
        name: what is interrupted.
        seconds: how long that takes.
        state: of the run's folder; None for its start.
    """

    name: str
    seconds: float
    state: Callable[[Path], object] | None = None


def killed(start: Callable[[], subprocess.Popen], folder: Path, moment: Moment, chance: random.Random) -> int | None:
    """The exit code of a run that came to its end before it was killed; None for one that was killed."""
    before = moment.state and moment.state(folder)
    process, deadline = start(), time.monotonic() + training.TIME_LIMIT
    while moment.state is not None and moment.state(folder) == before:
        assert time.monotonic() < deadline, f"{moment.name} never came:\n{log_of(folder)[-5000:]}"
        if process.poll() is not None:
            return process.returncode
        time.sleep(0.01)
    after = time.monotonic() + chance.uniform(0, moment.seconds)
    while (left := after - time.monotonic()) > 0:
        if process.poll() is not None:
            return process.returncode
        time.sleep(min(left, 0.02))
    if chance.random() < 0.5:
        kill(process)
    else:  # as a machine does that is short of memory: Ray's processes have to notice
        LEFT.extend(psutil.Process(process.pid).children(recursive=True))
        process.kill()
        process.wait()
    return None


LEFT: list[psutil.Process] = []
"""Processes whose run was killed without them."""


@pytest.fixture(autouse=True)
def none_stays() -> Iterator[None]:
    yield
    deadline, alive = time.monotonic() + 30, list(map(running, LEFT))
    while any(alive) and time.monotonic() < deadline:
        time.sleep(0.5)
        alive = list(map(running, LEFT))
    for one in LEFT:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    LEFT.clear()
    assert not any(alive), "what a killed run has started ends by itself"


def running(process: psutil.Process) -> str:
    """The command of a process; "" once it has ended, reaped or not."""
    try:
        return " ".join(process.cmdline()) or process.name() if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.NoSuchProcess:  # zombies, too
        return ""


def moments(chance: random.Random, *kinds: Moment) -> list[Moment]:
    """As many as there are kills in a run: every kind as often as another, last the one that takes a run furthest."""
    return [*chance.sample(kinds[:-1], len(kinds) - 1), kinds[-1]] * (IN_A_RUN // len(kinds))


# ---- an evaluation ----------------------------------------------------------------------------------------------


def started(folder: Path, data: Path) -> subprocess.Popen:
    overrides = evaluation.overrides_of(folder, *ASKED, f"data.val_files={data}/test.parquet")
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides]
    environment = os.environ | {"VERL_PLATFORM": "cpu"}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def answers(folder: Path) -> int:
    """Lines of the journal, the first of which says what was asked; 0 once the evaluation is written."""
    journal = folder / "evaluation" / NAME
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def written(folder: Path) -> bool:
    return (folder / "evaluation" / "0.evaluation.json").exists()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data):
    """An undisturbed evaluation: its records, its seconds until the first answers, and those after it."""
    folder, begun, answered = tmp_path_factory.mktemp("evaluated"), time.monotonic(), 0.0
    process = started(folder, data)
    while process.poll() is None:
        if not answered and answers(folder):
            answered = time.monotonic()
        time.sleep(0.02)
    assert process.returncode == 0, log_of(folder)[-5000:]
    return evaluation.records_of(folder), answered - begun, time.monotonic() - answered


@pytest.mark.parametrize("seed", SEEDS)
def test_an_evaluation(tmp_path, data, evaluated, seed):
    """On the CPU each rollout has a seed of its own, so that a disturbed evaluation ends as one that was not."""
    expected, to_start, to_end = evaluated
    chance, had = random.Random(seed), 0
    kinds = Moment("start", to_start), Moment("answering", to_end, answers)
    for moment in moments(chance, *kinds):
        code = killed(lambda: started(tmp_path, data), tmp_path, moment, chance)
        now = answers(tmp_path)
        print(
            f"seed {seed}, {moment.name}: exit code {code}, lines in the journal: {now}, written: {written(tmp_path)}"
        )
        assert code in (0, None), log_of(tmp_path)[-5000:]
        assert code is None or written(tmp_path), "exit 0 is for an evaluation that is written"
        assert now >= had or written(tmp_path), "what was answered is kept"
        had = now
        if code == 0:
            break
    assert finish(started(tmp_path, data), tmp_path, evaluation.TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    assert evaluation.records_of(tmp_path) == expected
    assert json.loads((tmp_path / "evaluation" / "0.evaluation.json").read_text())["failed_rollouts"] == 0
    assert not answers(tmp_path)


# ---- reinforcement learning -------------------------------------------------------------------------------------


def trained(folder: Path) -> list[int]:
    return [record["step"] for record in training.records(folder) if "cinema/acc" in record["data"]]


def validated(folder: Path) -> set[int]:
    return {record["step"] for record in training.records(folder) if any("val-" in name for name in record["data"])}


def checkpoints_in(folder: Path) -> set[str]:
    """Names of checkpoints, whole or not."""
    return {path.name for path in (folder / "checkpoints").glob("global_step_*")}


def validations_in(folder: Path) -> int:
    """How many validations have begun, over all starts."""
    path = folder / "log.txt"
    return path.read_text(errors="replace").count("rollouts each") if path.exists() else 0


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, data):
    """What an undisturbed training spends its time on."""
    folder, begun, first = tmp_path_factory.mktemp("trained"), time.monotonic(), 0.0
    process = training.start(folder, data, *RL)
    while process.poll() is None:
        if not first and trained(folder):
            first = time.monotonic() - begun
        time.sleep(0.02)
    assert process.returncode == 0, log_of(folder)[-5000:]
    assert (trained(folder), validated(folder)) == (list(range(1, STEPS + 1)), {2, 4})

    def longest(name: str) -> float:
        return max(record["data"].get(f"timing_s/{name}", 0.0) for record in training.records(folder))

    found = (
        Moment("start", first),
        Moment("step", longest("step"), trained),
        Moment("checkpoint", longest("save_checkpoint"), checkpoints_in),
        Moment("validation", longest("testing"), validations_in),
    )
    print(", ".join(f"{moment.name} {moment.seconds:.1f} s" for moment in found))
    assert all(moment.seconds for moment in found)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_reinforcement_learning(tmp_path, data, kinds, seed):
    checkpoints, chance, saved = tmp_path / "checkpoints", random.Random(seed), 0
    for moment in moments(chance, *kinds):
        code = killed(lambda: training.start(tmp_path, data, *RL), tmp_path, moment, chance)
        complete, steps = complete_steps(checkpoints), trained(tmp_path)
        print(f"seed {seed}, {moment.name}: exit code {code}, logged {steps}, saved {complete}")
        assert code is None or complete == [STEPS], "exit 0 is for a run that is through"
        assert code in (0, None), log_of(tmp_path)[-5000:]
        assert len(complete) <= 2, "one is kept, and a kill may come before the older one goes"
        assert max(complete, default=0) >= saved, "nothing that was saved is lost"
        assert steps == sorted(set(steps)), "no step is in the history twice"
        saved = max(complete, default=0)
        if code == 0:
            break
    assert finish(training.start(tmp_path, data, *RL), tmp_path, training.TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    assert trained(tmp_path) == list(range(1, STEPS + 1)), "each step once, and none left out"
    assert validated(tmp_path) == {2, 4}
    assert complete_steps(checkpoints) == [STEPS]
    assert checkpoints_in(tmp_path) == {f"global_step_{STEPS}"}
    assert not list(checkpoints.glob(".global_step_*")), "nothing that is half gone is left"
