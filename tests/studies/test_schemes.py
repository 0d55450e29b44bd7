"""The study's own schemes: answers worked out by hand."""

import pytest
from group_of_eight import arrays
from hypothesis import given
from hypothesis import strategies as st

from studies.dps import schemes


def test_novelty_takes_from_the_common_pattern_what_it_gives_to_the_rare_one():
    # a has 5 of 8, b has 3. The correct ones' penalties are 0.5 * 4/7 (three) and 0.5 * 2/7 (one), on average 1/4.
    credited = schemes.novelty(*arrays(), 1.0)
    common, rare = 1 - (2 / 7 - 1 / 4), 1 - (1 / 7 - 1 / 4)
    assert credited == pytest.approx([common] * 3 + [rare] + [0.5] * 4)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("gh")), min_size=1, max_size=24),
    st.floats(0, 1),
)
def test_novelty_keeps_the_mean_of_the_correct_ones_and_the_incorrect_ones_of_every_group(rows, coefficient):
    rewards, acc, patterns, groups = arrays(*([*column] for column in zip(*rows, strict=True)))
    credited = schemes.novelty(rewards, acc, patterns, groups, coefficient)
    for group in set(groups):
        right = (groups == group) & (acc == 1)
        if right.any():
            assert credited[right].mean() == pytest.approx(rewards[right].mean())
    assert credited[acc == 0] == pytest.approx(rewards[acc == 0])


def test_over_batch_counts_in_the_whole_batch():
    rewards, acc, patterns, groups = arrays([1, 1, 0, 1], ["a", "b", "a", "a"], ["g", "g", "h", "h"])
    # a: 3 of 4, so 0.1 * 0.5 * 2/3 less; b: 1 of 4, nothing.
    assert schemes.over_batch(rewards, acc, patterns, groups, 0.1) == pytest.approx([1 - 1 / 30, 1, 0.5, 1 - 1 / 30])
