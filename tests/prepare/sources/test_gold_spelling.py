"""What files do to golds, undone: escapes, macros, lost commands, units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.prepare.sources.gold_answers import read
from cinema_verl.prepare.sources.gold_spelling import closed, plain, with_escapes
from cinema_verl.verify import verify


@pytest.mark.parametrize(
    ("eaten", "meant"),
    [
        ("\x0crac{5}{8}", r"\frac{5}{8}"),
        ("\x07lpha", r"\alpha"),
        ("\x08oxed{4}", r"\boxed{4}"),
        ("\x0cr\x08", "\x0cr\x08".replace("\x0c", "\\f")),
        ("\x0bec{u}", r"\vec{u}"),
        ("7\times 2", r"7\times 2"),
        ("7\text{ cm}", r"7\text{ cm}"),
        ("y \neq 1", r"y \neq 1"),
        ("(1, 2\right)", r"(1, 2\right)"),
        ("5\n6", "5\n6"),
        ("5\t6", "5\t6"),
        ("an\tangle", "an\tangle"),
        (r"\frac{5}{8}", r"\frac{5}{8}"),
    ],
)
def test_backslashes_that_json_or_python_took_for_escapes(eaten, meant):
    assert with_escapes(eaten) == meant


@pytest.mark.parametrize(
    ("gold", "also_right"),
    [
        (r"$$\number{31}$$", "31"),
        (r"$$-\number{0.75}$$", "-3/4"),
        (r"\num{12}", "12"),
        (r"$\quantity{14}{cm}$", "14 cm"),
        (r"\qty{14}{cm}", "14"),
        (r"\SI{6}{\metre}", "6 m"),
        (r"\ang{25}", "25°"),
        (r"50${}^\circ $", "50"),
        (r"$50{ }^{\circ}$", "50°"),
        ("65$textdegree$", "65"),
        ("$65textdegree$", "65°"),
        (r"65$^\circ$", "65"),
        ("65^circ", "65"),
        (r"21$\circ$", "21°"),
        ("$sqrt{5}$", r"\sqrt{5}"),
        (r"$$44\mathrm \pi$$", r"44\pi"),
        (r"$6\mathrm cm$", "6 cm"),
        (r"$6{\rm cm}$", "6 cm"),
        (r"$7 \sqrt{2} \rm{cm}$", r"7\sqrt{2}"),
        ("75{degrees}", "75"),
        (r"5\sqrt{2}{cubicinches}", r"5\sqrt{2}"),
        ("140{squarefeet}", "140"),
        ("25{milesperhour}", "25 mph"),
        (r"4\pi{cm}", r"4\pi"),
        ("15{toads}", "15"),
        (r"$203 \pi \mathrm{mm} 3$", r"203\pi"),
        (r"$12 \mathrm{~cm}^{\wedge} 2$", "12"),
        (r"$21$ cm ${ }^{2}$", "21 cm^2"),
        (r"$6 \sqrt{5}$ square meters", r"6\sqrt{5}"),
        (r"$9 \pi$ cm3", r"9\pi"),
        (r"$9 \pi$ 平方m", r"9\pi"),
        (r"$\frac{5 \sqrt{3}}{2} \mathrm{dm}$", r"\frac{5\sqrt{3}}{2}"),
        (r"$\frac{5 \sqrt{3}}{2} \mathrm{dm}$", r"\frac{5 \sqrt{3}}{2} \mathrm{dm}"),
        ("\x0crac{5}{8}", "5/8"),
        (r"$7.5\times {{10}^{4}}$", "75000"),
        ("$135^0$", "135"),
        ("135^{0}", "135°"),
        ("8.6 (approx)", "8.6"),
        ("8.6（精确到0.1）", "8.6"),
        ("C、D", "C, D"),
        ("=", "="),
        (r"$7.5\times {{10}^{4}}$", "7.5e4"),
        (r"${{a}_{n}}={{3}^{n-1}}$", "3^{n-1}"),
    ],
)
def test_a_mangled_gold_is_met_by_the_plain_answer(gold, also_right):
    found = read(gold)
    assert verify(also_right, found.answer, found.answer_type, aliases=found.aliases) is True


@pytest.mark.parametrize(
    "gold", ["12", "red", r"\frac{3}{cm}", r"x_{1}^{2}", r"\frac{1}{2}", "$5", "{1, 2}", "circ", "(a, b)", "5 cm"]
)
def test_what_is_in_order_stays(gold):
    assert plain(gold) == gold


def test_parts_of_a_gold_lose_marks_without_a_partner():
    assert closed("18$ cm ") == "18 cm"
    assert closed(r"$\frac{4}{5}$ m $") == r"\frac{4}{5} m"
    assert closed("$5") == "$5"
    assert closed("$5$ m") == "$5$ m"


@given(st.text(max_size=80) | st.text("\\${}^ abrm123\x0c\t\n", max_size=60))
def test_it_ends_and_takes_no_figure_away(text):
    assert [c for c in plain(text) if c.isdigit()] == [c for c in text if c.isdigit()]
