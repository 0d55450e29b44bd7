"""The two searches find exactly what comparing everything with everything finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.prepare import near_duplicates
from cinema_verl.prepare.near_duplicates import TextIndex, jaccard, near_hashes, shingles, words_of

BASES = st.sampled_from([0, 2**64 - 1, 0x00FF00FF00FF00FF, 0x123456789ABCDEF0])


@st.composite
def hashes(draw):
    """Hashes around a few centres, so that neighbours at every small distance occur."""
    values = []
    for _ in range(draw(st.integers(0, 12))):
        value = draw(BASES)
        for bit in draw(st.lists(st.integers(0, 63), max_size=10)):
            value ^= 1 << bit
        values.append(value)
    return np.array(values, dtype=np.uint64)


@given(queries=hashes(), targets=hashes(), distance=st.integers(0, 12), block=st.integers(1, 50))
def test_near_hashes_is_brute_force(queries, targets, distance, block):
    expected = [
        (q, t)
        for q in range(len(queries))
        for t in range(len(targets))
        if (int(queries[q]) ^ int(targets[t])).bit_count() <= distance
    ]
    original, near_duplicates._PAIRS_AT_ONCE = near_duplicates._PAIRS_AT_ONCE, block
    try:
        found = near_hashes(queries, targets, distance)
    finally:
        near_duplicates._PAIRS_AT_ONCE = original
    assert list(zip(*(side.tolist() for side in found), strict=True)) == expected


def test_a_planted_neighbour_among_many():
    random = np.random.default_rng(0)
    targets = random.integers(0, 2**64, 20_000, dtype=np.uint64)
    flips = sum(1 << bit for bit in (0, 13, 31, 32, 50, 63))
    queries = np.array([int(targets[777]) ^ flips, int(targets[777]) ^ flips ^ (1 << 7)], dtype=np.uint64)
    query, target = near_hashes(queries, targets, 6)
    assert (query.tolist(), target.tolist()) == ([0], [777])


@pytest.mark.parametrize("distance", [-1, 64])
def test_a_distance_that_hashes_do_not_have(distance):
    with pytest.raises(ValueError, match="use 0 to 63"):
        near_hashes(np.zeros(1, np.uint64), np.zeros(1, np.uint64), distance)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Image 1: <image>\nImage 2: <image>\nWhich is LARGER?", "which is larger"),
        ("<image><image>Which is larger?\nA. the first\n(B) the second", "which is larger the first the second"),
        ("Frame 12: <image> What is 3.5 + 4?", "what is 3.5 + 4"),
        ("图中有几个人?", "图 中 有 几 个 人"),
        ("<image>", ""),
    ],
)
def test_words_of(text, words):
    assert words_of(text) == tuple(words.split())


WORDS = st.lists(st.sampled_from(["which", "cat", "dog", "is", "left", "of", "1", "2", "the"]), max_size=8)


@given(texts=st.lists(WORDS, max_size=8), text=WORDS, similarity=st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]))
def test_the_text_index_is_brute_force(texts, text, similarity):
    def numbers(words):
        return sorted(word for word in words if word.isdigit())

    expected = [
        (i, jaccard(shingles(other), shingles(text)))
        for i, other in enumerate(texts)
        if numbers(other) == numbers(text) and jaccard(shingles(other), shingles(text)) >= similarity
    ]
    assert TextIndex(texts, similarity).near(text) == expected


def test_one_changed_word_of_many_is_near_and_one_changed_number_is_not():
    text = (
        "a train leaves the station at 5 and another train leaves the same station at 7 which one is faster on the way"
    )
    index = TextIndex([text.split()], 0.7)
    assert index.near(text.replace("faster", "quicker").split())[0][1] > 0.7
    assert index.near(text.replace("7", "8").split()) == []
