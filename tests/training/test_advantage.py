"""The estimator: verl's GRPO on the paper's reward, fed by the cinema trainer or refusing."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, get_adv_estimator_fn

from cinema_verl.training import advantage, estimators
from cinema_verl.training.advantage import GroupFeed, feed, group_estimator
from cinema_verl.training.estimators import CINEMA_DPS, GROUP, diversity_preserving, register_group_estimator
from cinema_verl.utils.extensions import load

compute_cinema_dps_advantage = group_estimator(CINEMA_DPS)


def batch(rewards, lengths=None, width=4):
    """Rewards on the last token of each response, as verl's reward managers put them; (B, T) and (B, T)."""
    lengths = lengths or [1 + i % width for i in range(len(rewards))]
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).float()
    scores = torch.zeros(len(rewards), width)
    scores[torch.arange(len(rewards)), torch.tensor(lengths) - 1] = torch.tensor(rewards)
    return scores, mask


def estimate(
    rewards, groups, acc=None, patterns=None, coefficient=0.0, padding=None, by_std=True, guard="none", **layout
):
    scores, mask = batch(rewards, **layout)
    fed = GroupFeed(
        acc=acc if acc is not None else [0.0] * len(rewards),
        patterns=patterns if patterns is not None else ["a"] * len(rewards),
        coefficient=coefficient,
        padding=np.array(padding if padding is not None else [False] * len(rewards)),
        guard=guard,
    )
    with feed(fed):
        advantages, returns = compute_cinema_dps_advantage(
            token_level_rewards=scores,
            response_mask=mask,
            index=np.array(groups, dtype=object),
            config=OmegaConf.create({"norm_adv_by_std_in_grpo": by_std}),
        )
    assert torch.equal(advantages, returns)
    assert torch.equal(advantages, advantages[:, :1] * mask), "one value a response, nothing outside it"
    return advantages[:, 0], fed.metrics


@pytest.mark.parametrize("by_std", [True, False])
def test_without_a_coefficient_it_is_verls_grpo(by_std):
    random = np.random.default_rng(0)
    rewards = random.choice([0.0, 0.5, 1.0], size=64).tolist()
    groups = np.array([f"uid{i}" for i in random.permutation(np.repeat(np.arange(8), 8))], dtype=object)
    patterns = random.choice(list("abc"), size=64).tolist()
    scores, mask = batch(rewards, width=7)
    theirs, _ = compute_grpo_outcome_advantage(scores.clone(), mask, groups, norm_adv_by_std_in_grpo=by_std)
    config = AlgoConfig(norm_adv_by_std_in_grpo=by_std)
    with feed(GroupFeed(acc=[1.0] * 64, patterns=patterns, coefficient=0.0, padding=np.zeros(64, dtype=bool))):
        ours, _ = compute_cinema_dps_advantage(scores, mask, groups, config=config)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_group_of_one_gets_nothing_where_verl_gives_it_its_raw_reward():
    scores, mask = batch([1.0])
    theirs, _ = compute_grpo_outcome_advantage(scores.clone(), mask, np.array(["q"]))
    assert theirs.max() == pytest.approx(1.0, abs=1e-5)
    assert estimate([1.0], ["q"])[0].tolist() == [0.0]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_the_rewards_fault(broken):
    for rewards, acc in (([1.0, broken], [1, 1]), ([1.0, 0.5], [1, broken])):
        with pytest.raises(ValueError, match="1 of 2 trajectories have a reward or an acc that is not finite"):
            estimate(rewards, ["q"] * 2, acc=acc, coefficient=0.1)


def test_a_group_without_differences_gets_a_true_zero():
    """verl's float32 mean of eight times 0.7 is off by 6e-8, which the division by 1e-6 would turn into 0.06."""
    assert estimate([0.7] * 8, ["q"] * 8)[0].tolist() == [0.0] * 8


def test_the_diversity_term_by_hand():
    """Rewards 1, 1, 1, 0.5 and patterns a, a, b, a: the two correct a's lose 0.05 * 2/3 = 1/30 each."""
    arguments = {"acc": [1, 1, 1, 0], "patterns": list("aaba"), "coefficient": 0.1, "by_std": False}
    advantage, metrics = estimate([1.0, 1.0, 1.0, 0.5], ["q"] * 4, **arguments)
    correct_common, correct_rare, incorrect = 1 - 1 / 30, 1.0, 0.5
    mean = (2 * correct_common + correct_rare + incorrect) / 4
    expected = [correct_common - mean, correct_common - mean, correct_rare - mean, incorrect - mean]
    assert advantage.tolist() == pytest.approx(expected, abs=1e-6)
    assert metrics["diversity_penalty"] == pytest.approx(1 / 60)

    by_std, _ = estimate([1.0, 1.0, 1.0, 0.5], ["q"] * 4, **(arguments | {"by_std": True}))
    assert by_std.tolist() == pytest.approx((np.array(expected) / np.std(expected, ddof=1)).tolist(), abs=1e-4)


def test_the_penalty_is_taken_from_whatever_reward_verl_has_shaped():
    """Overlong shaping has taken 0.2 from the first row: the diversity term comes off what is left."""
    advantage, _ = estimate([0.8, 1.0], ["q"] * 2, acc=[1, 1], patterns=["a", "a"], coefficient=0.1, by_std=False)
    assert advantage.tolist() == pytest.approx([-0.1, 0.1], abs=1e-6)


def test_a_guard_holds_the_term_back_where_it_is_alone():
    """All correct, patterns a, a, b: without a guard the rare one gets 2 / sqrt(3); left out, nothing is left."""
    arguments = {"acc": [1, 1, 1], "patterns": list("aab"), "coefficient": 0.1}
    free, _ = estimate([1.0] * 3, ["q"] * 3, **arguments)
    held, metrics = estimate([1.0] * 3, ["q"] * 3, guard="leave_out", **arguments)
    assert free.tolist() == pytest.approx(np.array([-1, -1, 2]) / np.sqrt(3), rel=1e-3)
    assert held.tolist() == [0.0, 0.0, 0.0]
    assert metrics["groups_without_advantage"] == 1.0


def test_groups_that_move_nothing_are_counted():
    _, metrics = estimate([1.0, 0.5, 1.0, 1.0], ["p", "p", "q", "q"], acc=[1, 0, 1, 1])
    assert metrics["groups_without_advantage"] == 0.5


def test_padding_rows_get_exactly_zero_and_change_nothing_for_the_others():
    alone = {"acc": [1, 0, 1], "patterns": list("aab"), "coefficient": 0.1, "lengths": [1, 2, 3]}
    without, metrics = estimate([1.0, 0.5, 1.0], ["q"] * 3, **alone)
    padded, padded_metrics = estimate(
        [9.0, 1.0, 0.5, 1.0, 9.0],
        ["q", "q", "q", "q", "pad"],
        acc=[1, 1, 0, 1, 1],
        patterns=["a", "a", "a", "b", "b"],
        coefficient=0.1,
        padding=[True, False, False, False, True],
        lengths=[4, 1, 2, 3, 4],
    )
    assert padded[1:4].tolist() == without.tolist()
    assert padded[[0, 4]].tolist() == [0.0, 0.0]
    assert padded_metrics == metrics


def test_a_batch_of_padding_alone_is_all_zero():
    advantage, metrics = estimate([1.0, 0.0], ["q", "q"], padding=[True, True])
    assert advantage.tolist() == [0.0, 0.0]
    assert metrics == {"diversity_penalty": 0.0, "diversity_advantage_share": 0.0, "groups_without_advantage": 1.0}


# The table of docs/paper.md (benchmarks/diversity_share.py): eight trajectories, one pattern common, coefficient 0.1.
SOLVE_ALL = {"acc": [1] * 8, "patterns": list("aaabcaab"), "coefficient": 0.1}
MIXED = {"acc": [1, 1, 1, 1, 1, 0, 0, 0], "patterns": list("aaabcabd"), "coefficient": 0.1}


def share(example, by_std):
    rewards = [0.5 + 0.5 * acc for acc in example["acc"]]
    return estimate(rewards, ["q"] * 8, by_std=by_std, **example)[1]["diversity_advantage_share"]


@pytest.mark.parametrize("by_std", [True, False])
def test_in_an_solved_group_the_whole_advantage_is_the_diversity_terms(by_std):
    assert share(SOLVE_ALL, by_std) == pytest.approx(1.0)


@pytest.mark.parametrize(("by_std", "measured"), [(True, 0.024), (False, 0.041)])
def test_in_a_mixed_group_the_term_is_a_nudge(by_std, measured):
    assert share(MIXED, by_std) == pytest.approx(measured, abs=5e-4)


def test_dividing_by_the_deviation_blows_the_term_up_to_full_size_in_an_solved_group():
    """At most 0.05 of reward becomes an advantage above 1; the paper's filter on accuracy drops these groups."""
    by_std, _ = estimate([1.0] * 8, ["q"] * 8, by_std=True, **SOLVE_ALL)
    centred, _ = estimate([1.0] * 8, ["q"] * 8, by_std=False, **SOLVE_ALL)
    assert by_std[[0, 3]].tolist() == pytest.approx([-0.713, 0.998], abs=5e-4)  # the common pattern, a rare one
    assert centred[[0, 3]].tolist() == pytest.approx([-0.009, 0.013], abs=5e-4)


def test_verl_finds_it_by_name():
    assert CINEMA_DPS == "cinema_dps"
    assert get_adv_estimator_fn("cinema_dps") == compute_cinema_dps_advantage


def test_under_a_trainer_that_feeds_nothing_it_refuses_and_says_what_to_set():
    scores, mask = batch([1.0, 0.0])
    with pytest.raises(RuntimeError, match=r"trainer\.v1\.trainer_mode=cinema"):
        compute_cinema_dps_advantage(scores, mask, np.array(["q", "q"]))


def test_the_feed_ends_with_its_block_even_when_that_fails():
    fed = GroupFeed(acc=[1], patterns=["a"], coefficient=0.1, padding=np.array([False]))
    with pytest.raises(ZeroDivisionError), feed(fed):
        raise ZeroDivisionError
    scores, mask = batch([1.0])
    with pytest.raises(RuntimeError, match="cinema_dps"):
        compute_cinema_dps_advantage(scores, mask, np.array(["q"]))


def test_a_feed_for_another_batch_is_refused():
    with pytest.raises(ValueError, match="fed 3 patterns, 2 accuracies and 2 padding flags for a batch of 2 rewards"):
        estimate([1.0, 0.0], ["q", "q"], patterns=["a", "b", "c"])


# ---- schemes of one's own ---------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """The two registries, as they were afterwards."""
    monkeypatch.setattr(core_algos, "ADV_ESTIMATOR_REGISTRY", dict(core_algos.ADV_ESTIMATOR_REGISTRY))
    monkeypatch.setattr(advantage, "ADV_ESTIMATOR_REGISTRY", core_algos.ADV_ESTIMATOR_REGISTRY)
    monkeypatch.setattr(estimators, "_SCHEMES", dict(estimators._SCHEMES))


def shorter_is_better(rewards, acc, patterns, groups, coefficient):
    """A bonus of the coefficient for correct answers without the action `hint`."""
    return rewards + coefficient * acc * np.array(["hint" not in pattern for pattern in patterns])


def advantages_of(estimator, rewards, patterns, **feeds):
    scores, mask = batch(rewards, lengths=[1] * len(rewards))
    fed = GroupFeed(acc=[1.0] * len(rewards), patterns=patterns, padding=np.zeros(len(rewards), dtype=bool), **feeds)
    with feed(fed):
        advantages, _ = estimator(scores, mask, np.array(["q"] * len(rewards)), {"norm_adv_by_std_in_grpo": False})
    return advantages[:, 0].tolist(), fed.metrics


def test_one_function_is_a_scheme(registry):
    register_group_estimator("shorter")(shorter_is_better)
    estimator = group_estimator("shorter")
    assert get_adv_estimator_fn("shorter") is estimator
    advantages, metrics = advantages_of(estimator, [1.0, 1.0], ["hint>answer", "answer"], coefficient=0.2)
    assert advantages == pytest.approx([-0.1, 0.1], abs=1e-6)
    assert metrics == {
        "shorter_penalty": pytest.approx(-0.1),
        "shorter_advantage_share": pytest.approx(1.0),
        "groups_without_advantage": 0.0,
    }
    register_group_estimator("shorter")(shorter_is_better)  # a module that is imported twice


def test_a_scheme_may_give_the_advantages_themselves(registry):
    register_group_estimator("shorter", normalise=False)(shorter_is_better)
    advantages, _ = advantages_of(group_estimator("shorter"), [0.5, 1.0], ["hint", "answer"], coefficient=0.2)
    assert advantages == pytest.approx([0.5, 1.2], abs=1e-6)


def test_a_name_that_is_taken_is_refused(registry):
    with pytest.raises(ValueError, match="the group estimator 'cinema_dps' exists already"):
        register_group_estimator("cinema_dps")(shorter_is_better)
    assert group_estimator("cinema_dps").scheme.credit is diversity_preserving
    register_group_estimator("grpo")(shorter_is_better)
    with pytest.raises(ValueError, match="estimator grpo has already been registered"):
        group_estimator("grpo")


@pytest.mark.parametrize("credited", [[1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_a_scheme_must_give_a_number_for_each_trajectory(registry, credited):
    register_group_estimator("broken")(lambda *_: np.array(credited))
    with pytest.raises(ValueError, match="broken must return one finite number for each of 2 trajectories"):
        advantages_of(group_estimator("broken"), [1.0, 1.0], ["a", "b"], coefficient=0.1)


def test_an_installed_package_adds_one_by_its_entry_point(registry, install):
    code = "def scheme(rewards, acc, patterns, groups, coefficient): return acc"
    install("mine", {GROUP: {"shorter": "mine:scheme"}}, code)
    estimator = group_estimator("shorter")
    assert advantages_of(estimator, [1.0, 1.0], ["a", "b"], coefficient=0.2)[0] == [0.0, 0.0]
    assert estimator.scheme.credit is load(GROUP)["shorter"]


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"adv_estimator=cinema_dsp is not registered; known are .*cinema_dps.*grpo"):
        group_estimator("cinema_dsp")


def test_verls_own_are_no_group_estimators():
    assert group_estimator("grpo") is None


@pytest.mark.slow
def test_a_module_that_verl_is_told_to_import_registers_one(run, tmp_path):
    (tmp_path / "my_schemes.py").write_text(
        "from cinema_verl.training.estimators import register_group_estimator\n"
        "@register_group_estimator('mine', normalise=False)\n"
        "def credit(rewards, acc, patterns, groups, coefficient): return rewards\n"
    )
    code = "import verl; from cinema_verl.training.advantage import group_estimator; print(group_estimator('mine'))"
    done = run("-c", code, VERL_USE_EXTERNAL_MODULES="my_schemes", PYTHONPATH=str(tmp_path))
    assert "name='mine'" in done.stdout, done.stderr
