"""The paper's reward, worked out by hand, and what it can and cannot do to the order of answers in a group."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.diversity import (
    GUARDS,
    diversity_penalty,
    group_rewards,
    guarded_advantages,
    normalise,
    pattern_counts,
    pattern_statistics,
)

rows = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0]), st.sampled_from("abc"), st.integers(0, 3)),
    min_size=1,
    max_size=24,
)
coefficients = st.floats(0, 1)


def columns(table):
    acc, fmt, patterns, groups = (list(column) for column in zip(*table, strict=True))
    return acc, fmt, patterns, groups


# R = 0.5 * (acc * (acc - (N - 1) / (G - 1) * 0.1)) + 0.5 * fmt, each by hand.
@pytest.mark.parametrize(
    ("acc", "fmt", "patterns", "expected"),
    [
        # All five alike: (N - 1) / (G - 1) = 1, so a correct answer is worth 0.5 * 0.9 + 0.5.
        ([1, 1, 1, 1, 0], [1, 1, 1, 1, 1], "aaaaa", [0.95, 0.95, 0.95, 0.95, 0.5]),
        # All different: nobody loses anything.
        ([1, 1, 0], [1, 1, 1], "abc", [1.0, 1.0, 0.5]),
        # N counts incorrect trajectories, too: a appears 3 times in 4, b once.
        ([1, 0, 0, 1], [1, 1, 0, 1], "aaab", [0.5 * (1 - 2 / 3 * 0.1) + 0.5, 0.5, 0.0, 1.0]),
        # Correct but ill-formed: the accuracy half alone.
        ([1, 1], [0, 1], "aa", [0.45, 0.95]),
        # No action at all is a pattern like any other.
        ([1, 1, 1], [0, 0, 1], ["", "", "a"], [0.475, 0.475, 1.0]),
    ],
)
def test_rewards_are_the_papers(acc, fmt, patterns, expected):
    assert group_rewards(acc, fmt, list(patterns), ["q"] * len(acc)) == pytest.approx(expected, abs=1e-15)


def test_groups_do_not_see_each_other_and_may_be_interleaved_and_uneven():
    groups = ["p", "q", "p", "q", "p", "r"]
    patterns = list("aaabaa")
    n, g = pattern_counts(patterns, groups)
    assert n.tolist() == [3, 1, 3, 1, 3, 1]
    assert g.tolist() == [3, 2, 3, 2, 3, 1]
    reward = group_rewards([1] * 6, [1] * 6, patterns, groups)
    assert reward == pytest.approx([0.95, 1.0, 0.95, 1.0, 0.95, 1.0])


def test_a_group_of_one_has_nobody_to_resemble():
    assert group_rewards([1], [1], ["a"], ["q"], coefficient=1.0).tolist() == [1.0]


def test_a_group_cut_short_by_failures_is_as_large_as_what_is_left_of_it():
    """Of 8 rollouts 3 survived: G is 3, and the penalty of full likeness is still the whole coefficient."""
    assert group_rewards([1, 1, 0], [1, 1, 1], list("aaa"), [7, 7, 7]) == pytest.approx([0.95, 0.95, 0.5])


def test_an_empty_batch_is_empty():
    assert group_rewards([], [], [], []).shape == (0,)
    assert normalise(np.array([]), [], by_std=True).shape == (0,)


def test_without_a_coefficient_it_is_accuracy_and_format():
    assert group_rewards([1, 1, 0, 0], [1, 0, 1, 0], list("aaaa"), [0] * 4, 0.0).tolist() == [1.0, 0.5, 0.5, 0.0]


@given(rows, coefficients, st.randoms())
def test_the_order_of_rows_does_not_matter(table, coefficient, random):
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = group_rewards(*columns([table[i] for i in order]), coefficient)
    assert shuffled.tolist() == group_rewards(*columns(table), coefficient)[order].tolist()


@given(rows, coefficients)
def test_incorrect_answers_are_never_touched_and_correct_ones_lose_at_most_half_the_coefficient(table, coefficient):
    acc, fmt, _, _ = (np.array(column) for column in columns(table))
    lost = 0.5 * acc + 0.5 * fmt - group_rewards(*columns(table), coefficient)
    assert (lost[acc == 0] == 0).all()
    assert (lost >= 0).all()
    assert (lost <= 0.5 * coefficient + 1e-12).all()


@given(rows, coefficients)
def test_diversity_never_makes_an_incorrect_answer_out_earn_a_correct_one(table, coefficient):
    """At equal format a correct answer earns at least what an incorrect one does, for every coefficient in [0, 1].

    They are equal only at coefficient 1 when the whole group, incorrect answers included, has one pattern."""
    acc, fmt, patterns, groups = columns(table)
    reward = group_rewards(acc, fmt, patterns, groups, coefficient)
    n, g = pattern_counts(patterns, groups)
    for i in range(len(table)):
        for j in range(len(table)):
            if groups[i] == groups[j] and fmt[i] == fmt[j] and acc[i] > acc[j]:
                assert reward[i] >= reward[j]
                if coefficient < 0.999 or n[i] < g[i]:
                    assert reward[i] > reward[j]


def test_at_coefficient_one_a_correct_answer_in_a_uniform_group_earns_what_an_incorrect_one_does():
    assert group_rewards([1, 0], [1, 1], ["a", "a"], [0, 0], coefficient=1.0).tolist() == [0.5, 0.5]


def test_a_correct_but_ill_formed_answer_can_earn_less_than_an_incorrect_well_formed_one():
    """The paper's formula, not the diversity term alone: without the term the two would tie at 0.5."""
    correct_ill_formed, incorrect = group_rewards([1, 0], [0, 1], ["a", "a"], [0, 0], coefficient=0.1)
    assert correct_ill_formed == pytest.approx(0.45)
    assert incorrect == 0.5
    assert group_rewards([1, 0], [0, 1], ["a", "a"], [0, 0], coefficient=0.0).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1, 1], ["a"], [0]), "one entry a trajectory, got lengths 1, 2, 1, 1"),
        (([0.5], [1], ["a"], [0]), "acc must be 0 or 1"),
        (([1], [2], ["a"], [0]), "fmt must be 0 or 1"),
        (([1], [math.nan], ["a"], [0]), "fmt must be 0 or 1"),
        (([1], [1], ["a"], [0], 1.1), r"must lie in \[0, 1\]"),
        (([1], [1], ["a"], [0], math.nan), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_rewards(*arguments)


def test_patterns_and_groups_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 patterns for 3 groups"):
        pattern_counts(["a", "b"], [0, 0, 0])


def test_the_penalty_is_half_the_share_of_likes_among_the_others():
    assert diversity_penalty([1, 1, 0, 1], list("aaab"), [0] * 4) == pytest.approx([1 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize("by_std", [True, False])
def test_normalised_rewards_have_mean_zero_and_a_group_of_one_gets_nothing(by_std):
    rewards = np.array([1.0, 0.0, 0.5, 0.7])
    advantage = normalise(rewards, ["p", "p", "p", "q"], by_std)
    # mean 0.5, unbiased standard deviation 0.5
    expected = [1.0, -1.0, 0.0, 0.0] if by_std else [0.5, -0.5, 0.0, 0.0]
    assert advantage == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("patterns", "groups", "entropy", "unique"),
    [
        ("aaaa", "pppp", 0.0, 1.0),
        ("abcd", "pppp", math.log(4), 4.0),
        ("aaab", "pppp", -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 2.0),
        # A mean over groups, whatever their sizes: (ln 2 + 0) / 2 and (2 + 1) / 2.
        ("abcccc", "ppqqqq", math.log(2) / 2, 1.5),
        ("a", "p", 0.0, 1.0),
    ],
)
def test_pattern_entropy_is_in_nats_and_a_mean_over_groups(patterns, groups, entropy, unique):
    statistics = pattern_statistics(list(patterns), list(groups))
    assert statistics["pattern_entropy"] == pytest.approx(entropy, abs=1e-12)
    assert statistics["unique_patterns"] == pytest.approx(unique)


def test_statistics_of_nothing_are_not_numbers():
    assert all(math.isnan(value) for value in pattern_statistics([], []).values())


# ---- guards: what the term may do where it is alone ---------------------------------------------------------------

# Eight correct answers, four of pattern a and two each of b and c: N - 1 = 3, 3, 3, 3, 1, 1, 1, 1 of 7. The penalties
# at coefficient 0.1 are 0.05 * 3/7 and 0.05 * 1/7, so rewards differ by d = 0.1/7 = 0.0142857, four above and four
# below: centred by d/2, and the unbiased deviation is d/2 * sqrt(8/7).
ALL_CORRECT = ([1.0] * 8, [1.0] * 8, "aaaabbcc", ["q"] * 8)
UNIT = math.sqrt(7 / 8)


@pytest.mark.parametrize("coefficient", [0.1, 0.001])
@pytest.mark.parametrize(
    ("guard", "rare"),
    [
        ("none", lambda c: UNIT),  # whatever the coefficient
        ("leave_out", lambda c: 0.0),
        ("floor", lambda c: (c / 14) / (0.5 / math.sqrt(8))),
        ("own_scale", lambda c: c * UNIT),
    ],
)
def test_an_all_correct_group_under_each_guard(guard, rare, coefficient):
    acc, fmt, patterns, ids = ALL_CORRECT
    rewards, credited = (group_rewards(acc, fmt, list(patterns), ids, c) for c in (0.0, coefficient))
    found = guarded_advantages(rewards, credited, np.array(acc), ids, by_std=True, guard=guard, coefficient=coefficient)
    expected = rare(coefficient) * np.array([-1.0] * 4 + [1.0] * 4)
    assert found == pytest.approx(expected, rel=0.03, abs=1e-9)  # verl's epsilon is 3 % of the least deviation here


@given(rows, st.sampled_from(GUARDS), st.booleans())
def test_without_a_term_no_guard_changes_more_than_a_small_group(table, guard, by_std):
    """Every guard leaves plain advantages as they are: a floor is below the deviation of groups that differ by 0.5."""
    acc, fmt, patterns, groups = columns(table)
    rewards = group_rewards(acc, fmt, patterns, groups, 0.0)
    plain = normalise(rewards, groups, by_std)
    same = guarded_advantages(rewards, rewards, np.array(acc), groups, by_std=by_std, guard=guard, coefficient=0.0)
    assert same == pytest.approx(plain, abs=1e-9)


@given(rows, coefficients, st.sampled_from(GUARDS), st.booleans())
def test_guarded_advantages_are_centred_in_each_group(table, coefficient, guard, by_std):
    acc, fmt, patterns, groups = columns(table)
    rewards, credited = (group_rewards(acc, fmt, patterns, groups, c) for c in (0.0, coefficient))
    found = guarded_advantages(
        rewards, credited, np.array(acc), groups, by_std=by_std, guard=guard, coefficient=coefficient
    )
    for group in set(groups):
        assert found[np.array(groups) == group].sum() == pytest.approx(0.0, abs=1e-6)
