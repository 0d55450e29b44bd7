"""Supervised fine-tuning on two ranks is that on one, also where it goes on with one's checkpoint cut anew."""

import shutil

import pytest

from cinema_verl.training.reshard import reshard

from .conftest import STEPS, assert_same, finish, history, weights, words

pytestmark = pytest.mark.slow

MIDDLE = 6
"""A step inside the second epoch: where the rows go on counts, too."""
SETTINGS = ("data.micro_batch_size_per_gpu=1", "trainer.save_freq=3", "trainer.max_ckpt_to_keep=null")


@pytest.fixture(scope="module")
def one(tmp_path_factory, torchrun):
    folder = tmp_path_factory.mktemp("ranks") / "one"
    assert finish(torchrun(folder, *SETTINGS), folder) == 0, words(folder)[-3000:]
    return folder


def assert_trained_alike(folder, one, after=0):
    found, expected = ({step: data for step, data in history(run) if "train/loss" in data} for run in (folder, one))
    for step in range(after + 1, STEPS + 1):
        for name in ("train/loss", "train/grad_norm", "train/lr"):
            assert found[step][name] == pytest.approx(expected[step][name], rel=1e-5, abs=1e-6), (step, name)
    difference = max((tensor - weights(one)[name]).abs().max().item() for name, tensor in weights(folder).items())
    print(f"weights differ by {difference:.1e} at most")
    assert_same(weights(folder), weights(one), tolerance=1e-5)


def test_two_ranks_train_what_one_does(tmp_path, torchrun, one):
    folder = tmp_path / "two"
    assert finish(torchrun(folder, *SETTINGS, ranks=2), folder) == 0, words(folder)[-3000:]
    assert_trained_alike(folder, one)


def test_two_ranks_go_on_with_a_checkpoint_of_one(tmp_path, torchrun, one):
    folder = tmp_path / "run"
    shutil.copytree(one / f"global_step_{MIDDLE}", folder / f"global_step_{MIDDLE}")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(MIDDLE))
    assert finish(torchrun(folder, *SETTINGS, ranks=2), folder) != 0
    assert f"cinema-verl reshard {folder / f'global_step_{MIDDLE}'} --world-size 2" in words(folder)
    reshard(folder / f"global_step_{MIDDLE}", 2)
    assert finish(torchrun(folder, *SETTINGS, ranks=2), folder) == 0, words(folder)[-3000:]
    assert_trained_alike(folder, one, after=MIDDLE)
