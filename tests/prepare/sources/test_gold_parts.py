"""One answer in several spellings, statements by their numbers, or the answers of several blanks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.faults import gold_fault
from cinema_verl.prepare.sources.gold_answers import read
from cinema_verl.prepare.sources.gold_parts import alternatives, permutation, split_at_commas, statements
from cinema_verl.verify import verify


def right(gold, answer, **how):
    found = read(gold, **how)
    fault = gold_fault(found.answer, found.answer_type, aliases=found.aliases, tolerance=found.tolerance)
    assert fault is None
    verdict = verify(answer, found.answer, found.answer_type, aliases=found.aliases, tolerance=found.tolerance)
    return verdict is True


def reason_of(gold, **how):
    with pytest.raises(Rejected) as rejected:
        read(gold, **how)
    return rejected.value.reason


@pytest.mark.parametrize(
    ("gold", "answers"),
    [
        (r"5\#\#$\frac{10}{2}$", ["5", "10/2"]),
        (r"$6+2 \sqrt{7} \# \# 2 \sqrt{7}+6$", [r"6+2\sqrt{7}", r"2\sqrt{7}+6"]),
        (r"$-0.2 \# \#-\frac{1}{5}$", ["-0.2", r"-\frac{1}{5}"]),
        (r"$7 \sqrt{2}$ m\#\# $7 \sqrt{2} \mathrm{~m}$", [r"7\sqrt{2}"]),
        (r"$24 \mathrm{~cm}^{2} \# \# 24$ cm ${ }^{2}$", ["24", "24 cm^2"]),
        ("cat # # tabby", ["cat", "tabby"]),
        (r"$14\#\#14$ cm", ["14", "14 cm"]),
        ("(2)(4)##(4)(2)", ["(2)(4)", "④②", "2 and 4"]),
        (r"$720^{\circ} / 720$ ^{\circ}$", ["720", "720°"]),
        (r"$\frac{3}{5}$ m $/ 0.6$ m", ["0.6", "3/5", "0.6 m"]),
        (r"$4: 9 / \frac{4}{9}$", ["4:9", "4/9"]),
        ("0.25 / 1/4", ["0.25", "1/4"]),
        ("['NaCl', 'salt']", ["NaCl", "salt"]),
        ("['H_2O', 'water']", ["water", "H_2O"]),
        ("['9/7', '1.286', '1.29]", ["9/7", "1.286", "1.29"]),
        ("['0.67', '2/3']", ["2/3", "0.67", "0.667"]),
        (r"$3\sqrt{3} \approx 5.20$", ["5.20", r"3\sqrt{3}"]),
        ("5/8 (0.625)", ["5/8", "0.625"]),
        (r"$\frac{5}{8}$ or 0.625", ["5/8", "0.625"]),
        ("0.625或5/8", ["5/8", "0.625"]),
        ("5/8=0.625", ["5/8", "0.625"]),
        ("12 (twelve)", ["12", "twelve"]),
        (r"$\frac{9}{7} \approx 1.29$", ["9/7", "1.29"]),
        (r"$2 \sqrt{5} \quad 7 \sqrt{2}-3 \# \#-3+7 \sqrt{2}$", [r"2\sqrt{5} \quad 7\sqrt{2}-3"]),
    ],
)
def test_alternatives_are_one_answer(gold, answers):
    assert [answer for answer in answers if not right(gold, answer)] == []


@pytest.mark.parametrize(
    ("gold", "value"),
    [
        ("3 / 4", "0.75"),
        (r"\pi / 4", r"\frac{\pi}{4}"),
        ("x / y", r"\frac{x}{y}"),
        (r"\sqrt{3} / 2", r"\frac{\sqrt{3}}{2}"),
    ],
)
def test_a_fraction_with_spaces_stays_one(gold, value):
    assert alternatives(gold) is None
    assert right(gold, value)


@pytest.mark.parametrize(
    "gold", ["5 (or 6)", "3 or 4", "2 (3)", "x=5", "2+3=5", "x^2-1=(x-1)(x+1)", "1/2=0.4", "12 (cm)"]
)
def test_two_values_are_no_alternatives(gold):
    assert alternatives(gold) is None


def test_a_rounded_number_is_right_and_a_wrong_one_is_not():
    assert not right("['9/7', '1.29']", "1.27")
    assert not right("['9/7', '1.29']", "1.3")


@pytest.mark.parametrize(
    "gold", ["rhombus / square", "$3 ## 5$", "['3', '8']", "$ab=cd$ (not unique)", "5 (answers may vary)"]
)
def test_other_answers_are_no_alternatives(gold):
    assert reason_of(gold) == "several_golds"


def test_an_answer_that_was_left_out():
    assert {reason_of(gold) for gold in ("omitted", "(略)", "See the analysis.", "Proof omitted")} == {"no_answer"}


# --- Statements -----------------------------------------------------------------------------------------------------

FORMS = [
    "②④⑤",
    "2, 4, 5",
    "2,4,5",
    "(2)(4)(5)",
    "(2), (4), (5)",
    "(2), (4) and (5)",
    "(2), (4), and (5)",
    "②, ④, ⑤",
    "②、④、⑤",
]
FORMS += ["2, 4 and 5", "2.4.5", "② ④ ⑤", r"\boxed{②④⑤}", r"\boxed{2, 4, 5}"]


@pytest.mark.parametrize(
    "gold", ["②④⑤", "(2)(4)(5)", "2.4.5.", "2.4.5", "（2）（4）（5）", "②、④、⑤", "(2), (4) and (5)"]
)
def test_statements_in_every_form_to_give_and_to_answer(gold):
    assert [answer for answer in FORMS if not right(gold, answer)] == []
    for wrong in ("②④", "2, 4", "245", "②④⑤⑥", "①④⑤"):
        assert not right(gold, wrong)


def test_figures_are_statements_where_the_question_is_about_them():
    assert statements("1, 3", "Which of the following conclusions hold? ① … ② …") == [1, 3]
    assert read("1, 3", question="Which statements are correct?").answer == "①③"
    assert read("2.4").answer_type == "number"
    assert right("2.4.", "2.4")
    assert statements("3.1.2") == statements("1.1.2") == []


# --- Several blanks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold",
    [
        "81.5\n44",
        "8\n8√2",
        "(1,4)\n(2,9)",
        "$\\frac{1}{5}$\n$\\frac{2}{7}$",
        "1.\n2.",
        "rhombus\n$4\\sqrt{2}$",
        "$$3$$ $$12$$",
        "$$3$$$$12$$",
        "$$x$$ $$y$$",
        "$5$ $100$",
        "$$4$$,$$6$$ $$-4$$,$$0$$",
        "$5$, $-2$",
        "$5$ and $7$",
        r"$$\quantity{12}{cm}$$,$$\quantity{21}{cm}$$",
        "7 7",
        "2 2 -3",
        "2.5 3.5",
        r"3 \quad 4",
        r"\frac{1}{3} \frac{1}{4}",
        "6, 7, 8",
        r"15 \mathrm{~cm}, 26 \mathrm{~cm}",
        r"rhombus, $3 \sqrt{5}$",
        r"(1) 30,=, \sqrt{3}",
        "x=4, y=9",
    ],
)
def test_answers_of_several_blanks(gold):
    assert reason_of(gold) == "multi_part"


@pytest.mark.parametrize(
    ("gold", "value"),
    [
        ("$x=$ $3$", "3"),
        (r"$4$ $\mathrm{cm}$", "4 cm"),
        (r"30 ${}^\circ$", "30"),
        ("(3, 6)", "(3,6)"),
        (r"[0, +\infty)", r"[0,+\infty)"),
        ("1,200", "1200"),
        (r"1,200\pi", r"1200\pi"),
        (r"\{1,2,3\}", r"\{1,2,3\}"),
        ("1 1/2", "1.5"),
        (r"2 \sqrt{3}", r"2\sqrt{3}"),
        ("2x\n+1", "2x+1"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    ],
)
def test_one_answer_that_looks_like_several(gold, value):
    assert right(gold, value)


def test_a_list_is_a_set_where_the_question_asks_for_all_of_something():
    assert read("6, 7, 8", question="Find all integers between 5 and 9.").answer_type == "latex"
    assert reason_of("6, 7", question="All solutions are x = ____ and y = ____.") == "multi_part"


def test_an_order_of_things():
    assert [read(gold).answer_type for gold in ("2,1", "[3, 1, 2]", "3>1>2", "3→1→2")] == ["ordering"] * 4
    assert permutation("3, 1, 2")
    assert not permutation("1, 2, 3")
    assert not permutation("2, 4")


def test_a_number_of_things_is_met_by_the_number():
    for answer in ("250", "250 sets", r"\boxed{250}"):
        assert right("250 sets", answer)
    assert read("250 sets").answer_type == "number"
    assert not right("250 sets", "250 pieces")
    assert not right("5 dozens", "5")
    assert read("3 thirds").aliases == ()


def test_commas_that_separate():
    assert split_at_commas(r"1,200, (3, 4), \frac{1}{2}") == ["1,200", " (3, 4)", r" \frac{1}{2}"]


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=5), st.sampled_from(["\n", "$$ $$", "$$,$$", ", "]))
def test_several_values_are_never_one(values, separator):
    """Whatever the values are: the gold is rejected, or an order of things, or a list of statements."""
    gold = separator.join(map(str, values))
    gold = f"$${gold}$$" if "$" in separator else gold
    try:
        outcome = read(gold).answer_type
    except Rejected as rejected:
        outcome = rejected.reason
    assert outcome in ("multi_part", "ordering", "text")


@given(st.integers(1, 99), st.integers(2, 99))
def test_a_fraction_is_never_taken_for_alternatives(above, below):
    if above != below:
        assert right(f"{above} / {below}", f"{above}/{below}")
