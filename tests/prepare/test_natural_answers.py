"""A gold that no natural answer meets is rejected; one that refuses some is flagged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.faults import gold_fault
from cinema_verl.prepare.convert import checked_gold
from cinema_verl.prepare.draft import Draft
from cinema_verl.prepare.natural_answers import STRICT, refused
from cinema_verl.prepare.sources.gold_answers import read


def draft(answer_type, answer, options=(), aliases=(), tolerance=None):
    return Draft("1", "train", "<image> What?", (), answer_type, answer, options, aliases, tolerance)


@pytest.mark.parametrize(
    ("answer_type", "answer", "options"),
    [
        ("mcq", "B", ("a cat", "a dog")),
        ("mcq", "B", ("2 cm", "3 cm")),
        ("mcq", "C", ()),
        ("mcq_multi", "A, C", ("a", "b", "c")),
        ("yesno", "Yes", ()),
        ("yesno", "假", ()),
        ("number", "12 cm", ()),
        ("number", r"\frac{1}{3}", ()),
        ("number", "1,200", ()),
        ("number", "7%", ()),
        ("latex", r"3\sqrt{2}", ()),
        ("latex", r"4\pi \mathrm{~cm}^{2}", ()),
        ("latex", "y=2x+1", ()),
        ("latex", r"\frac{\sqrt{3}}{2}", ()),
        ("latex", "(1, 2)", ()),
        ("latex", "3:4", ()),
        ("ordering", "[3, 1, 2]", ()),
        ("ordering", "BADC", ()),
        ("ocr", "Mind the gap", ()),
        ("regression", "12.5", ()),
        ("text", "the Eiffel Tower", ()),
        ("text", "$x$, then $y$", ()),  # nobody writes the marks
        ("judge", "anything at all", ()),
    ],
)
def test_golds_that_every_natural_answer_meets(answer_type, answer, options):
    assert refused(draft(answer_type, answer, options))[0] == []


@pytest.mark.parametrize(
    ("answer_type", "answer"),
    [
        ("latex", "$$7$$ $$10$$"),
        ("latex", "1 1 -1"),
        ("number", "many"),
        ("ordering", "2, 2"),
        ("mcq", "the third one"),
    ],
)
def test_golds_that_nobody_can_hit(answer_type, answer):
    bad, tried = refused(draft(answer_type, answer))
    assert len(bad) == tried, "a natural answer is found correct"
    if gold_fault(answer, answer_type) is None and tried:
        with pytest.raises(Rejected, match="gold_unreadable"):
            checked_gold(draft(answer_type, answer))


def test_golds_that_some_natural_answers_miss_are_flagged():
    assert checked_gold(draft("text", "Paris (France)")).flags == (STRICT,)
    assert checked_gold(draft("text", "①③")).flags == (STRICT,)
    assert checked_gold(draft("text", "①③", aliases=read("(1)(3)").aliases)).flags == ()
    assert checked_gold(draft("text", "Paris (France)", aliases=("Paris",))).flags == ()


@given(
    st.integers(-(10**6), 10**6).map(str)
    | st.decimals(-999, 999, places=2).map(str)
    | st.fractions(-9, 9).map(str)
    | st.sampled_from(["12 km/h", "30°", "5 m^2", "three", "$5", "50%"])
)
def test_numbers_are_met_by_every_natural_answer(gold):
    found = read(gold)
    assert refused(draft(found.answer_type, found.answer, tolerance=found.tolerance))[0] == []
