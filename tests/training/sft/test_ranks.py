"""Supervised fine-tuning on two ranks is that on one, and a run goes on with another number of them."""

import pytest

from cinema_verl.training.reshard import reshard

from .conftest import STEPS, assert_same, finish, history, weights, words

TOLERANCE = 1e-5  # sums in another order, and Adam divides by their roots; at the first step it is 1e-6
SETTINGS = ("trainer.save_freq=5", "trainer.test_freq=5", "trainer.max_ckpt_to_keep=null")


@pytest.mark.slow
def test_two_ranks_are_one_and_a_checkpoint_that_was_cut_anew_goes_on(torchrun, tmp_path):
    def run(folder, *more, ranks):
        return finish(torchrun(folder, *SETTINGS, *more, ranks=ranks), folder)

    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    assert run(one, ranks=1) == 0, words(one)[-3000:]
    assert run(two, ranks=2) == 0, words(two)[-3000:]
    assert_alike(history(one), history(two))
    assert_same(weights(one), weights(two), TOLERANCE)

    from_one = ("trainer.resume_mode=resume_path", f"trainer.resume_from_path={one}/global_step_5")
    assert run(other, *from_one, ranks=2) != 0
    assert f"cinema-verl reshard {one}/global_step_5 --world-size 2" in words(other)
    reshard(one / "global_step_5", 2)
    assert run(other, *from_one, ranks=2) == 0, words(other)[-3000:]
    assert_alike([record for record in history(one) if record[0] > 5], history(other))
    assert_same(weights(one), weights(other), TOLERANCE)


def assert_alike(one, two):
    assert [step for step, _ in one] == [step for step, _ in two]
    assert one[-1][0] == STEPS
    for (step, first), (_, second) in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name in ("train/loss", "train/grad_norm", "train/lr", "train/global_tokens", "val/loss"):
            if name in first:
                assert second[name] == pytest.approx(first[name], rel=TOLERANCE, abs=TOLERANCE), (step, name)
