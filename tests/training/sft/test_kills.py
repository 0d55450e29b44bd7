"""torchrun as a user starts it, stopped at random moments by kill -9 and by SIGTERM, until it is through.

`CINEMA_KILLS` says how many stops there are (12 by default), two to a run.
"""

import os
import random
import signal
import time

import pytest

from cinema_verl.training.checkpoint import complete_steps

from .conftest import BATCH, ROWS, STEPS, TIME_LIMIT, assert_same, finish, history, send, weights, words

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("CINEMA_KILLS", "12"))
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


@pytest.mark.parametrize("seed", range(KILLS // 2))
def test_killed_at_random_moments_it_ends_as_an_undisturbed_run(tmp_path, torchrun, undisturbed, seed):
    chance = random.Random(seed)
    folder, ranks = tmp_path / "run", 1 + seed % 2
    settings = (*SETTINGS, f"trainer.save_freq={['after_each_epoch', 1, 3][seed // 2 % 3]}")
    for _ in range(2):
        how = chance.choice([signal.SIGKILL, signal.SIGTERM])
        code = stop_at_random(torchrun(folder, *settings, ranks=ranks), folder, how, chance.uniform(0, 5))
        assert code != 0 or complete_steps(folder) == [STEPS], "exit 0 is for a run that is through"
        assert len(complete_steps(folder)) <= 2, "the recipe keeps one, and a kill may come before the older one goes"
    assert finish(torchrun(folder, *settings, ranks=ranks), folder) == 0, words(folder)[-3000:]

    reference = undisturbed(ranks)
    assert complete_steps(folder) == [STEPS]
    assert [step for step, data in history(folder) if "train/loss" in data] == list(range(1, STEPS + 1))
    assert [step for step, data in history(folder) if "val/loss" in data] == [ROWS // BATCH, STEPS]
    for (step, data), (_, expected) in zip(history(folder), history(reference), strict=True):
        assert data == {name: pytest.approx(value, rel=1e-5, abs=1e-6) for name, value in expected.items()}, step
    assert_same(weights(folder), weights(reference), tolerance=1e-5)
