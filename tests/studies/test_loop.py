"""The study's loop and testbed in small: what it draws, how it weighs, and that it goes on where it stopped."""

import pytest
import torch

from cinema_verl.demo.digit_images import load_pools
from studies.dps import run
from studies.dps.arms import ARMS
from studies.dps.loop import Learner, advantages, in_order, overlong, roll_out
from studies.dps.prepare import open_policy
from studies.dps.testbed import KINDS, RESPONSE, questions


@pytest.fixture(scope="module")
def pools():
    return load_pools()


@pytest.fixture(scope="module")
def drawn(pools):
    return list(questions(pools, "train", 24))


@pytest.fixture
def policy(pools):
    torch.set_num_threads(1)
    return open_policy(pools)


def test_questions_are_the_same_on_every_call_and_of_the_kinds_in_turn(pools, drawn):
    assert list(questions(pools, "train", 24)) == drawn
    assert [(q.task.name.rpartition("_")[0], len(q.images)) for q in drawn[: len(KINDS)]] == list(KINDS)


def test_no_digit_of_a_training_question_is_in_a_test_question(pools, drawn):
    shown = {name[:4] for question in questions(pools, "test", 48) for name in question.images}
    assert not shown & {name[:4] for question in drawn for name in question.images}


def test_every_epoch_has_every_question_once(drawn):
    at = in_order(drawn, seed=3)
    epochs = [[at(place).uid for place in range(start, start + 24)] for start in (0, 24)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(q.uid for q in drawn)
    assert epochs[0] != epochs[1]
    assert [in_order(drawn, seed=4)(place).uid for place in range(24)] != epochs[0]


def test_overlong_shaping_begins_a_quarter_before_the_limit():
    assert [overlong(length, 28) for length in (1, 21, 28)] == [0.0, 0.0, -0.5]
    assert overlong(22, 28) == pytest.approx(-0.5 / 7)


def test_log_probs_are_those_that_the_engine_sampled_with(policy, drawn):
    rolled = roll_out(policy, drawn[:3], seed=1, step=1, count=2, limit=RESPONSE)
    with torch.no_grad():
        found, _, mask = policy.log_probs([t.prompt for t in rolled], [t.sampled.ids for t in rolled])
    for row, trajectory in enumerate(rolled):
        expected = torch.tensor(trajectory.sampled.log_probs)
        torch.testing.assert_close(found[row, : len(expected)], expected, rtol=0, atol=5e-5)
        assert mask[row].sum() == len(expected)


def test_without_a_coefficient_every_arm_of_the_family_is_plain(policy, drawn):
    rolled = roll_out(policy, drawn[:2], seed=1, step=1, count=8, limit=RESPONSE)
    without, share = advantages(rolled, ARMS["no_term"], step=1)
    assert share == 0.0
    last = ARMS["two_stages"].stages.total_steps
    for arm in ("two_stages", "novelty", "over_batch", "pass_at_4", "own_scale"):
        assert advantages(rolled, ARMS[arm], step=last)[0] == pytest.approx(without)


def test_a_learner_goes_on_from_its_state_as_if_it_had_not_stopped(policy, drawn):
    learner = Learner(policy, ARMS["two_stages"], in_order(drawn, 1), 1, RESPONSE)
    learner.step()
    state = learner.state()
    first = [learner.step(), learner.step()]
    weights = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    other = Learner(policy, ARMS["two_stages"], in_order(drawn, 1), 1, RESPONSE)
    other.restore(state)
    assert [other.step(), other.step()] == first
    for name, weight in policy.model.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_what_is_recorded_is_not_run_again_and_the_main_question_comes_first(tmp_path, monkeypatch):
    ran = []

    def pretend(bench, unit, seed):
        ran.append((seed, unit))
        record = {"unit": unit, "seed": seed, "policy": bench.digest, "arms": {}}
        run.records.append(bench.file, record)
        bench.done[unit, seed] = record

    monkeypatch.setattr(run, "run_unit", pretend)
    run.run(tmp_path, [1, 2, 3], ["two_stages", "novelty", "dapo"], (1, 2))
    assert ran == [(1, "two_stages"), (1, "dapo"), (3, "two_stages"), (3, "dapo"), (1, "novelty"), (3, "novelty")]
    run.run(tmp_path, [1, 3, 5], ["two_stages"], (1, 2))
    assert ran[6:] == [(5, "two_stages")]
    run.run(tmp_path, [15, 16, 17, 19], ["step", "replication"], (1, 2))
    assert ran[7:] == [(15, "step"), (17, "replication"), (19, "replication")]
    monkeypatch.setattr(run, "policy_digest", lambda: "another")
    with pytest.raises(run.records.OtherPolicy):
        run.run(tmp_path, [1], ["two_stages"], (1, 2))


def test_dapo_needs_the_run_whose_groups_it_stops_at(tmp_path):
    bench = run.Bench.open(tmp_path / "records-0.jsonl")
    with pytest.raises(ValueError, match="two_stages"):
        run.dapo(bench, 1)
