"""The package's schemes, by hand. What verl makes of a scheme: test_advantage.py."""

import numpy as np
import pytest
from group_of_eight import arrays

from cinema_verl.diversity import normalise
from cinema_verl.training.estimators import pass_at_4, schemes


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


def test_both_of_the_packages_schemes_are_there():
    found = {name: (scheme.term, scheme.normalise) for name, scheme in schemes().items() if name.startswith("cinema_")}
    assert found == {"cinema_dps": ("diversity", True), "cinema_pass_at_4": ("pass_at_4", False)}
