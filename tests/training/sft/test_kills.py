"""A run that is stopped at random moments by kill -9 and by SIGTERM, until it is through.

By torchrun as a user starts it, `CINEMA_KILLS` times (12 by default), two to a run, from the seed `CINEMA_KILLS_SEED`
on; and in processes that one with all imports forks, four of which are in every round of tests. There every moment of
reinforcement learning is, too, over stand-ins (`training/test_killed.py`).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from cinema_verl.training.checkpoint import complete_steps

from .conftest import BATCH, ROWS, STEPS, TIME_LIMIT, assert_same, finish, history, send, weights, words

FIRST = int(os.environ.get("CINEMA_KILLS_SEED", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("CINEMA_KILLS", "12")) // 2)
SETTINGS = ("data.num_workers=1", "trainer.test_freq=after_each_epoch")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, torchrun):
    """By number of ranks: a run that nobody stops."""
    folders = {}

    def undisturbed(ranks):
        if ranks not in folders:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            assert finish(torchrun(folder, *SETTINGS, ranks=ranks), folder) == 0, words(folder)[-3000:]
            folders[ranks] = folder
        return folders[ranks]

    return undisturbed


def stop_at_random(process, folder, how, seconds):
    """Send a signal some time after the trainer has said that it begins; a run that is through stays so."""
    begun = words(folder).count("cinema-verl: step")
    deadline = time.monotonic() + TIME_LIMIT
    while words(folder).count("cinema-verl: step") == begun and process.poll() is None:
        assert time.monotonic() < deadline, words(folder)[-3000:]
        time.sleep(0.02)
    time.sleep(seconds)
    if process.poll() is None:
        send(process, how)
    return finish(process, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_random_moments_it_ends_as_an_undisturbed_run(tmp_path, torchrun, undisturbed, seed):
    chance = random.Random(seed)
    folder, ranks = tmp_path / "run", 1 + seed % 2
    settings = (*SETTINGS, f"trainer.save_freq={['after_each_epoch', 1, 3][seed // 2 % 3]}")
    for _ in range(2):
        how = chance.choice([signal.SIGKILL, signal.SIGTERM])
        code = stop_at_random(torchrun(folder, *settings, ranks=ranks), folder, how, chance.uniform(0, 5))
        print(f"seed {seed}, {ranks} ranks, {how.name}: exit code {code}, saved {complete_steps(folder)}")
        assert code != 0 or complete_steps(folder) == [STEPS], "exit 0 is for a run that is through"
        assert len(complete_steps(folder)) <= 2, "the recipe keeps one, and a kill may come before the older one goes"
    assert finish(torchrun(folder, *settings, ranks=ranks), folder) == 0, words(folder)[-3000:]

    assert_ended_as(undisturbed(ranks), folder)


def assert_ended_as(reference, folder):
    assert complete_steps(folder) == [STEPS]
    assert [step for step, data in history(folder) if "train/loss" in data] == list(range(1, STEPS + 1))
    assert [step for step, data in history(folder) if "val/loss" in data] == [ROWS // BATCH, STEPS]
    for (step, data), (_, expected) in zip(history(folder), history(reference), strict=True):
        assert data == {name: pytest.approx(value, rel=1e-5, abs=1e-6) for name, value in expected.items()}, step
    assert_same(weights(folder), weights(reference), tolerance=1e-5)


# ---- without the imports ----------------------------------------------------------------------------------------

FORKS = """
import json, os, sys, traceback
import verl  # its plugin has the search path of the recipes
from hydra import compose, initialize_config_module
from cinema_verl.training.sft.trainer import run_sft

for line in sys.stdin:
    store, log, *overrides = json.loads(line)
    if (pid := os.fork()) == 0:
        os.environ["DIST_INIT_METHOD"] = f"file://{store}?rank=0&world_size=1"
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
        code = 1
        try:
            with initialize_config_module("verl.trainer.config", version_base=None):
                run_sft(compose("sft_trainer_engine", overrides=overrides))
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_for(tmp_path_factory, overrides):
    """`run_for(seconds, folder, *overrides)`: the exit code of a run that is killed then, if it is not through."""
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    environment = os.environ | ranks | {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    stores = tmp_path_factory.mktemp("stores")
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=-1, stdout=-1, text=True, env=environment) as forks:

        def run_for(seconds, folder, *more):
            line = [f"{stores}/{time.monotonic_ns()}", f"{folder}.log", *overrides(folder, *more)]
            print(json.dumps(line), file=forks.stdin, flush=True)
            answers = iter(forks.stdout.readline, "")
            pid = int(next(answer for answer in answers if answer.strip().isdecimal()))
            if seconds is not None:
                time.sleep(seconds)
                with suppress(ProcessLookupError):  # it is through
                    os.kill(pid, signal.SIGKILL)
            return int(next(answers))

        yield run_for
        forks.stdin.close()


@pytest.fixture(scope="module")
def forked(tmp_path_factory, run_for):
    """A run that nobody stops, and its seconds."""
    folder, begun = tmp_path_factory.mktemp("forked") / "run", time.monotonic()
    assert run_for(None, folder, "trainer.test_freq=after_each_epoch") == 0, words(folder)[-3000:]
    return folder, time.monotonic() - begun


SLOW = [pytest.param(every, marks=pytest.mark.slow) for every in ("1", "3")]


@pytest.mark.parametrize("save_freq", ["after_each_epoch", *SLOW])
def test_four_kills_of_a_fork(tmp_path, run_for, forked, save_freq):
    (reference, seconds), folder, chance = forked, tmp_path / "run", random.Random(save_freq)
    settings = (f"trainer.save_freq={save_freq}", "trainer.test_freq=after_each_epoch")
    for _ in range(4):
        code = run_for(chance.uniform(0.2, 1) * seconds, folder, *settings)
        assert code in (0, -signal.SIGKILL), words(folder)[-3000:]
        assert code != 0 or complete_steps(folder) == [STEPS], "exit 0 is for a run that is through"
        assert len(complete_steps(folder)) <= 2
    assert run_for(None, folder, *settings) == 0, words(folder)[-3000:]
    assert_ended_as(reference, folder)
