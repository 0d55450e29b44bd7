"""A vote among samples, worked out by hand."""

import pytest

from cinema_verl.ask.vote import count


@pytest.mark.parametrize(
    ("answers", "answer", "votes", "tie"),
    [
        (["B", "A", "B"], "B", 2, False),
        (["1/2", "B", "0.5", "b"], "1/2", 2, True),
        (["A", "B"], "A", 1, True),
        (["B", "A"], "B", 1, True),
        ([None, "7", None], "7", 1, False),
        (["The cat", "cat", "dog", "dog", "dog"], "dog", 3, False),
        (["3", "3.0", "1,000", "1000"], "3", 2, True),
        ([None, None], None, 0, False),
        ([], None, 0, False),
    ],
)
def test_the_vote(answers, answer, votes, tie):
    vote = count(answers)
    assert (vote.answer, vote.votes, vote.tie) == (answer, votes, tie)
    assert sum(number for _, number in vote.groups) == sum(each is not None for each in answers)


def test_an_answer_type_decides_what_is_the_same():
    options = ("a cat", "a dog")
    assert count(["(B)", "B", "a dog"], "mcq", options).votes == 3
    assert count(["(B)", "a dog"], "text", options).tie
    with pytest.raises(ValueError, match="known"):
        count(["a", "b"], "no such type")
