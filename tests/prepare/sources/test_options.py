"""Labels are what all options have, each its own and in order; everything else is an option's text."""

import pytest

from cinema_verl.prepare.sources.options import clean, listed_in

from .conftest import convert


@pytest.mark.parametrize(
    ("options", "cleaned"),
    [
        (["A. cat", "B. dog"], ("cat", "dog")),
        (["A.cat", "B.dog"], ("cat", "dog")),
        (["(A) cat", "[B] dog"], ("cat", "dog")),
        (["a) cat", "b) dog"], ("cat", "dog")),
        (["A：猫", "B：犬"], ("猫", "犬")),
        (["A.x.", "B.y."], ("x.", "y.")),
        (["A. cat", "dog"], ("A. cat", "dog")),
        (["B. dog", "A. cat"], ("B. dog", "A. cat")),
        (["A.M. 5", "P.M. 6"], ("A.M. 5", "P.M. 6")),
        (["A.D. 44", "B.C. 44"], ("A.D. 44", "B.C. 44")),
        (["A. A.D. 44", "B. B.C. 44"], ("A.D. 44", "B.C. 44")),
    ],
)
def test_a_label_is_one_only_if_all_options_carry_theirs_in_order(options, cleaned):
    assert clean(options) == cleaned


def test_initials_are_no_list():
    assert listed_in("Which era?\nA.D. 44\nB.C. 44") == ()
    assert listed_in("Which era? A. A.D. B. B.C.") == ("A.D.", "B.C.")


@pytest.mark.parametrize(("answer", "letter"), [("A.D. 44", "A"), ("B.C. 44", "B"), ("B", "B")])
def test_initials_as_options(answer, letter):
    draft = convert("own", options=["A.D. 44", "B.C. 44"], answer=answer)
    assert (draft.options, draft.answer) == (("A.D. 44", "B.C. 44"), letter)
