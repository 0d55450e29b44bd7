"""Kinds of answers: for each, a gold, ways to write it that are correct, and near siblings that are not."""

from typing import Any

import pytest

from cinema_verl.verify import verify

Kind = tuple[str, str, dict[str, Any], tuple[str, ...], tuple[str, ...]]

KINDS: dict[str, Kind] = {
    # Figures between hyphens are a range, a score, a date or an order, and no subtraction.
    "range": ("latex", "10-20", {}, ("10-20", "10 - 20", "10–20"), ("20-30", "-10", "15-25", "10")),
    "score": ("latex", "3-1", {}, ("3-1", "3 - 1"), ("2-0", "1-3", "2")),
    "date in figures": ("latex", "2020-05-01", {}, ("2020-05-01",), ("2020-01-05", "2014")),
    "date with slashes": ("latex", "12/5/2020", {}, ("12/5/2020",), ("24/10/2020", "12/2020/5")),
    "ranges as options": (
        *("mcq", "A", {"options": ("10-20", "25-30")}),
        *(("10-20", "10 - 20", "A. 10-20"), ("20-30", "30-40", "A. 20-30", "-10")),
    ),
    "a difference with a letter is one": ("latex", "2n-1", {}, ("-1+2n", "2n - 1"), ("1-2n", "n-1")),
    "size": ("latex", "3×4", {}, ("3×4", r"3\times 4", "3*4"), ("2×6", "12", "3×5")),
    "sum as an option": (
        *("mcq", "A", {"options": ("2+3", "2+4")}),
        *(("2+3", "A. 2 + 3"), ("1+4", "A. 1+4", "5+0")),
    ),
    "factor before brackets": ("latex", "2a+b", {}, ("b+2a", "2a + b"), ("2(a+b)", "2 (a+b)", "2[a+b]")),
    "factor before brackets, a sum": ("latex", "2(a+b)", {}, ("2a+2b", "2(b+a)"), ("2a+b", "a+2b")),
    "unit in brackets": ("number", "5 cm", {}, ("5 (cm)", "5(cm)"), ("5 (m)", "5 (c+m)")),
    # The brackets say whether it is a point, an interval or a set.
    "point as an option": (
        *("mcq", "A", {"options": ("(1,2)", "(2,1)")}),
        *(("(1, 2)", r"\left(1,2\right)", "$(1,2)$", "A. (1,2)", "1,2"), ("[1,2]", "{1,2}", r"\{1,2\}", "(1,2]")),
    ),
    "set as an option": (
        *("mcq", "A", {"options": (r"$\{1,2\}$", r"$\{3\}$")}),
        *((r"\{1,2\}", "{1, 2}", r"\left\{1,2\right\}"), ("[1,2]", "(1,2)")),
    ),
    "and or or, as options": (
        *("mcq", "A", {"options": ("1 and 2", "1 and 3")}),
        *(("1 and 2", "A. 1 and 2", "1, 2"), ("1 or 2", "A. 1 or 2", "1 or 3")),
    ),
    # What a box stands in, or beside.
    "box in a sentence": (
        *("number", "12", {}),
        *(
            (r"The area is $\boxed{12}$ cm²", r"\boxed{12}cm", r"$\boxed{12}$ cm"),
            (r"\boxed{1}\boxed{2}", r"\boxed{6}\cdot2"),
        ),
    ),
    "box behind a name": ("latex", r"5\sqrt2", {}, (r"AB=\boxed{5\sqrt2}",), (r"AB=\boxed{5}\boxed{\sqrt2}",)),
    "two boxes are two answers": ("number", "1.5", {}, (), (r"\boxed{1} \boxed{1/2}", r"\boxed{1}\boxed{.5}")),
    # Yes and no with a remark, as an option.
    "no as an option": (
        *("mcq", "B", {"options": ("Yes", "No", "Cannot be determined")}),
        *(
            ("No, it is not.", "No. They do not match.", "No, they are not the same person.", "B. No, it is not."),
            ("Yes, it is not", "No, yes", "No, I do not know", "No, it cannot be determined", "No, maybe"),
        ),
    ),
    "yes as an option": (
        *("mcq", "A", {"options": ("Yes", "No")}),
        *(("Yes. The two match.", "Yes, it is."), ("Yes, it is not.", "Yes, but no", "Yes, there is no cat")),
    ),
    "remark in brackets": ("yesno", "yes", {}, ("Yes (same person)",), ("Yes (no)", "Yes (maybe)", "(Yes) (No)")),
    "letter and text with a remark": (
        *("mcq", "B", {"options": ("Yes", "No")}),
        *(
            ("B. No, it is not.", "B. No", "(B) No, they differ."),
            ("B. Yes, it is.", "A. No, it is not.", "B. Not sure"),
        ),
    ),
    "what is said of something": (
        *("mcq", "A", {"options": ("red", "blue")}),
        *(
            ("The color is red.", "Its color is red", "The color of the car is red."),
            ("The color is not red.", "The wrong answer is red.", "The color is red or blue", "The color is dark red"),
        ),
    ),
    # Numbers in words.
    "and a half": (
        "number",
        "3.5",
        {},
        ("three and a half", "three point five"),
        ("three and two", "a half", "two and three halves"),
    ),
    "decimal in words": (
        "number",
        "2.05",
        {},
        ("two point zero five",),
        ("two point five", "two point fifty", "two point"),
    ),
    "hundreds and parts": ("number", "100", {}, (), ("one hundred and two thirds", "one hundred and a half")),
    "minus in words": (
        "number",
        "-3.5",
        {},
        ("negative 3.5", "minus 3.5", "负3.5"),
        ("3.5", "minus -3.5", "5 minus 3.5"),
    ),
    "there are": (
        *("number", "3", {}),
        *(
            (
                "There are three.",
                "There are 3 dogs in the image.",
                "There are only three dogs",
                "three dogs in the picture",
            ),
            ("There are no 3", "There are 3 or 4", "There are 13 dogs in the image", "3 more than in the image"),
        ),
    ),
    "year": (
        "number",
        "1998",
        {},
        ("In 1998", "the year 1998", "in the year 1998"),
        ("In 1999", "before 1998", "in 1998 or 1999"),
    ),
    "decade": ("number", "1990", {}, ("1990", "1990 s"), ("1990s", "the 1990s", "1990's")),
    "seconds are no decade": ("number", "10", {}, ("10s", "10 s"), ("100s",)),
    "what an answer begins with, in Chinese": (
        *("number", "5", {}),
        *(("答案：5", "【答案】5", "等于5", "一共5个", "共有5个"), ("答案不是5", "不等于5", "大于5", "一共15个")),
    ),
    "units of several": (
        *("latex", r"6.63\times10^{-34}", {}),
        *((r"6.63\times10^{-34}\ \mathrm{J\cdot s}", "6.63 × 10^-34 J·s"), ("6.63 × 10^-33 J·s", "6.63 × 10^-34 or 0")),
    ),
    "minutes in LaTeX": (
        "number",
        "22.5",
        {},
        (r"22^{\circ}30^{\prime}", r"22^\circ 30'"),
        (r"22^{\circ}50^{\prime}",),
    ),
    # LaTeX in an answer whose gold is plain text.
    "formula of chemistry as text": (
        *("text", "CH3COOH", {}),
        *(
            (r"\mathrm{CH_3COOH}", "CH_3COOH", r"\text{CH}_3\text{COOH}", r"\ce{CH3COOH}", "CH₃COOH"),
            ("CH_3COO", "CH_2COOH"),
        ),
    ),
    "formula of chemistry": (
        "latex",
        "H2O",
        {},
        ("H_2O", r"\ce{H2O}", r"\mathrm{H}_{2}\mathrm{O}"),
        ("H_2O_2", "H^2O", "HO_2"),
    ),
    "formula of chemistry as an option": (
        *("mcq", "A", {"options": ("H2O", "H2O2")}),
        *(("H_2O", r"\mathrm{H_2O}", "A. H₂O"), ("H_2O_2", r"A. \mathrm{H_2O_2}")),
    ),
    "groups in a formula": ("text", "Mg(OH)2", {}, ("Mg(OH)_2", r"\mathrm{Mg(OH)_2}"), ("Mg(OH)_3", "MgOH_2")),
    "signs in words": ("text", "x-axis", {}, ("$x$-axis", "the $x$-axis"), ("$y$-axis", "$x$")),
    "angle as text": ("text", "∠ABC", {}, (r"$\angle ABC$", r"\angle ABC"), (r"\angle ACB", "ABC")),
    "per cent as text": ("text", "10%", {}, (r"10\%",), (r"100\%", "10")),
    "time of day": ("text", "3:15 PM", {}, ("3:15PM", "3:15 p.m.", "3:15 pm"), ("3:15 a.m.", "3:15", "3:50 PM")),
    # Names.
    "numbered roots": (
        *("latex", "x = 3 or x = -2", {}),
        *(("x_1=3, x_2=-2", "x_1=-2, x_2=3"), ("x_1=3, x_2=2", "x_1=3", "x_1=3, y_2=-2", "x_1=3, x_1=-2")),
    ),
    "numbered unknowns": ("latex", "x_1=3, x_2=-2", {}, ("x_2=-2, x_1=3",), ("x_1=-2, x_2=3",)),
    "derivative in one line": ("latex", r"\frac{dy}{dx}", {}, ("dy/dx",), ("dx/dy", "2dy/dx", "y/x")),
    "sets of numbers": (
        *("latex", r"x\in\mathbb{R}", {}),
        *(("x∈R", "x ∈ ℝ", r"x\in\mathbf{R}"), (r"x\in\mathbb{Q}", r"x\notin\mathbb{R}", r"y\in\mathbb{R}")),
    ),
    "domain in brackets": (
        *("latex", r"k\pi+\frac{\pi}{6}, k\in\mathbb{Z}", {}),
        *(
            (r"k\pi+\frac{\pi}{6} (k\in Z)", "kπ+π/6（k∈Z）"),
            (r"k\pi+\frac{\pi}{6} (k\in R)", r"2k\pi+\frac{\pi}{6} (k\in Z)"),
        ),
    ),
    "functions without a backslash, as an option": (
        *("mcq", "A", {"options": (r"$\sin\alpha$", r"$\cos\alpha$", "tan")}),
        *(("sin α", "sinα", "A. sin α"), ("cos α", "sin β", "tan", "A. tan")),
    ),
    "absolute value": (
        *("latex", "2|x-1|", {}),
        *(("2|1-x|", "|2-2x|", r"2\left|x-1\right|"), ("2(x-1)", "|x-1|", "2|x+1|", "2(1-x)", "2|x|-1")),
    ),
    "square of an absolute value": ("latex", "|z|^2+1", {}, ("1+|z|^2", "|z^2|+1"), ("z^2+1", "|z|+1", "|z+1|^2")),
    "given": ("latex", "P(A|B)+P(C|D)", {}, ("P(A|B)+P(C|D)",), ("P(B|A)+P(C|D)", "P(A)+P(C|D)")),
    "set of a variable": (
        *("latex", r"\{x|x>2\}", {}),
        *(
            (r"\{x\in\mathbb{R}\mid x>2\}", "x>2", r"(2,+\infty)", "{x|x>2}"),
            (r"\{x^2|x>2\}", r"\{-x|x>2\}", r"\{x+1|x>2\}", r"\{x\in\mathbb{N}|x>2\}", r"\{y|y>2\}", "{x∈Z|x>2}"),
        ),
    ),
    "set of integers": (
        *("latex", r"\{x\in\mathbb{Z}|1<x<3\}", {}),
        *((r"\{x\in Z\mid 1<x<3\}", r"\{x|1<x<3, x\in\mathbb{Z}\}"), (r"\{x|1<x<3\}", "(1,3)", r"\{x\in N|1<x<3\}")),
    ),
    "parallel in plain text": ("latex", r"AB\parallel CD", {}, ("AB || CD", "AB // CD"), ("AB | CD", "AC || BD")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_correct_and_its_siblings(kind: str) -> None:
    answer_type, gold, given, right, wrong = KINDS[kind]
    assert right or wrong
    assert [answer for answer in right if verify(answer, gold, answer_type, **given) is not True] == []
    assert [answer for answer in wrong if verify(answer, gold, answer_type, **given) is not False] == []
