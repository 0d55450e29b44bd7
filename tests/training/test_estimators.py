"""The package's schemes, by hand. What verl makes of a scheme: test_advantage.py."""

import numpy as np
import pytest
from group_of_eight import arrays
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.diversity import normalise
from cinema_verl.training.estimators import novelty, pass_at_4, schemes


def test_pass_at_four_of_one_correct_in_eight():
    # One correct in 8: half of the subsets of 4 hold it. It is in subsets that are all right: (1 - 1/2) / (1/2) = 1.
    # Another is with it in 3 of 7 subsets: (3/7 - 1/2) / (1/2) = -1/7.
    rewards, acc, patterns, groups = arrays([1] + [0] * 7)
    assert pass_at_4(rewards, acc, patterns, groups, 1.0) == pytest.approx([1.0] + [-1 / 7] * 7)


def test_pass_at_four_gains_nothing_where_every_subset_is_right():
    rewards, acc, patterns, groups = arrays([1] * 5 + [0] * 3)
    assert pass_at_4(rewards, acc, patterns, groups, 1.0) == pytest.approx(np.zeros(8), abs=1e-9)


def test_pass_at_slides_to_the_plain_advantage():
    rewards, acc, patterns, groups = arrays()
    plain = normalise(rewards, groups.tolist(), by_std=True)
    assert pass_at_4(rewards, acc, patterns, groups, 0.0) == pytest.approx(plain)


def test_a_group_of_less_than_four_is_one_subset():
    """One of two is right: so is their only subset, and nothing is to gain."""
    rewards, acc, patterns, groups = arrays([1, 0], ["a", "b"], ["g"] * 2)
    assert pass_at_4(rewards, acc, patterns, groups, 1.0) == pytest.approx([0.0, 0.0])


def test_format_counts_as_without_it():
    """Two of eight break the format, none is correct: the advantages are those of the format alone."""
    rewards, acc, patterns, groups = arrays([0] * 8)
    rewards[:2] = 0.0
    assert pass_at_4(rewards, acc, patterns, groups, 1.0) == pytest.approx(
        normalise(rewards, groups.tolist(), by_std=True)
    )


def test_novelty_takes_from_the_common_pattern_what_it_gives_to_the_rare_one():
    # a has 5 of 8, b has 3. The correct ones' penalties are 0.5 * 4/7 (three) and 0.5 * 2/7 (one), on average 1/4.
    credited = novelty(*arrays(), 1.0)
    common, rare = 1 - (2 / 7 - 1 / 4), 1 - (1 / 7 - 1 / 4)
    assert credited == pytest.approx([common] * 3 + [rare] + [0.5] * 4)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("gh")), min_size=1, max_size=24),
    st.floats(0, 1),
)
def test_novelty_keeps_the_mean_of_the_correct_ones_and_the_incorrect_ones_of_every_group(rows, coefficient):
    rewards, acc, patterns, groups = arrays(*([*column] for column in zip(*rows, strict=True)))
    credited = novelty(rewards, acc, patterns, groups, coefficient)
    for group in set(groups):
        right = (groups == group) & (acc == 1)
        if right.any():
            assert credited[right].mean() == pytest.approx(rewards[right].mean())
    assert credited[acc == 0] == pytest.approx(rewards[acc == 0])


def test_all_of_the_packages_schemes_are_there():
    found = {name: (scheme.term, scheme.normalise) for name, scheme in schemes().items() if name.startswith("cinema_")}
    assert found == {
        "cinema_dps": ("diversity", True),
        "cinema_novelty": ("novelty", True),
        "cinema_pass_at_4": ("pass_at_4", False),
    }
