"""The study's own scheme, by hand."""

import pytest
from group_of_eight import arrays

from studies.dps import schemes


def test_over_batch_counts_in_the_whole_batch():
    rewards, acc, patterns, groups = arrays([1, 1, 0, 1], ["a", "b", "a", "a"], ["g", "g", "h", "h"])
    # a: 3 of 4, so 0.1 * 0.5 * 2/3 less; b: 1 of 4, nothing.
    assert schemes.over_batch(rewards, acc, patterns, groups, 0.1) == pytest.approx([1 - 1 / 30, 1, 0.5, 1 - 1 / 30])
