"""Kinds of incorrect answers in LaTeX that a computer algebra system would accept: with the real engine, none is.

Each property makes a gold, a mutation of it that says something else and, where there is one, another way of writing
the same. The last one makes any two expressions and compares the verdict with their values.
"""

from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cinema_verl.verify import latex, math_pool, verify

few = settings(max_examples=max(1, settings.default.max_examples // 2), deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _engine() -> None:
    latex.set_engine(math_pool.equivalent)


def accepted(answer: str, gold: str) -> bool:
    return verify(answer, gold, "latex") is True


names = st.sampled_from("abcmnpqrstuvwxyz")
capitals = st.sampled_from("ABCDEFGHKMNPQRST")
small = st.integers(0, 99)
values = st.sampled_from([str(i) for i in range(10)] + [r"\frac{1}{2}", r"\sqrt{2}", r"2\pi", "a+1", "-3", r"\sqrt{8}"])
joints = st.sampled_from([", ", r" \quad ", "\n", r" \\ ", "; ", r" \text{ and } ", " and "])


@few
@given(st.lists(names, min_size=2, max_size=4, unique=True), st.lists(values, min_size=4, max_size=4), values, joints)
def test_every_equation_counts(variables: list[str], given_values: list[str], other: str, joint: str) -> None:
    variables = [v for v in variables if v != "a"] or ["x", "y"]
    equations = [f"{v}={value}" for v, value in zip(variables, given_values, strict=False)]
    gold = joint.join(equations)
    assert accepted(joint.join(equations), gold)
    assert accepted(", ".join(reversed(equations)), gold)
    for i in range(len(equations)):
        if other == given_values[i]:
            continue
        mutated = [*equations[:i], f"{variables[i]}={other}", *equations[i + 1 :]]
        assert not accepted(joint.join(mutated), gold)
        if len(equations) > 1:
            assert not accepted(joint.join(equations[:i] + equations[i + 1 :]), gold)
            assert not accepted(equations[i], gold)


@few
@given(
    st.lists(st.sampled_from(["a", "2b", "c", "3k", "m+1", "n", "xy"]), min_size=3, max_size=4, unique=True), st.data()
)
def test_every_side_of_a_chain_counts(sides: list[str], data: st.DataObject) -> None:
    sign = data.draw(st.sampled_from(["=", "<", r"\le "]))
    gold = sign.join(sides)
    i = data.draw(st.integers(0, len(sides) - 1))
    assert accepted(gold, gold)
    assert not accepted(sign.join([*sides[:i], f"4{sides[i][-1]}", *sides[i + 1 :]]), gold)
    assert not accepted(sign.join(sides[:i] + sides[i + 1 :]), gold)
    if sign != "=":
        assert not accepted(sign.join(reversed(sides)), gold)


@few
@given(st.integers(1, 999), st.lists(st.integers(0, 999), min_size=1, max_size=3))
def test_a_list_is_no_number_with_thousands(first: int, rest: list[int]) -> None:
    listed = ", ".join([str(first), *(f"{value:03}" for value in rest)])
    number = "".join([str(first), *(f"{value:03}" for value in rest)])
    assert not accepted(number, listed)
    assert not accepted(listed, number)
    assert not accepted(rf"\{{{listed}\}}", number)
    assert not accepted(f"x={listed}", number)
    assert accepted(listed.replace(", ", ","), number), "1,200 is 1200"
    assert accepted(listed.replace(", ", "{,}"), number)


@few
@given(st.integers(1, 9999), st.integers(2, 16), st.integers(2, 16))
def test_a_number_has_its_base(digits: int, base: int, other: int) -> None:
    gold = f"{digits}_{{{base}}}"
    assert accepted(gold.replace("{", "").replace("}", "") if base < 10 else gold, gold)
    assert not accepted(str(digits), gold)
    assert not accepted(gold, str(digits))
    if other != base:
        assert not accepted(f"{digits}_{{{other}}}", gold)
        assert not accepted(f"2\\cdot {digits}_{{{other}}}", f"2\\cdot {gold}")


@few
@given(
    names,
    names,
    st.sampled_from(["d", r"\partial "]),
    st.sampled_from(["{}", "3{}", "{}=2k", r"m{}+k", r"\frac{{{}}}{{2}}"]),
)
def test_a_derivative_is_no_fraction(y: str, x: str, d: str, around: str) -> None:
    assume(x != y and not {x, y} & set("dkm"))
    gold = around.format(rf"\frac{{{d}{y}}}{{{d}{x}}}")
    assert accepted(gold.replace("{", "{ "), gold)
    for mutated in (
        rf"\frac{{{d}{x}}}{{{d}{y}}}",
        rf"\frac{{{d}^2{y}}}{{{d}{x}^2}}",
        rf"\frac{{{d}{y}}}{{{d}q}}",
        "0",
        f"{y}'",
    ):
        if mutated != rf"\frac{{{d}{y}}}{{{d}{x}}}":
            assert not accepted(around.format(mutated), gold)


SHAPES = [
    r"\angle ",
    r"\triangle ",
    r"\overrightarrow",
    r"\overline",
    r"\odot ",
    r"\widehat",
    r"\overleftrightarrow",
    r"\vec",
]


@few
@given(
    st.lists(capitals, min_size=2, max_size=4, unique=True),
    st.sampled_from(SHAPES),
    st.sampled_from(["{}", "2{}", "{}+1"]),
)
def test_points_are_no_factors(points: list[str], shape: str, around: str) -> None:
    def drawn(letters: tuple[str, ...]) -> str:
        text = "".join(letters)
        return around.format(shape + (text if shape.endswith(" ") else f"{{{text}}}"))

    gold = drawn(tuple(points))
    for order in permutations(points):
        same = order == tuple(points) or (shape == r"\angle " and len(points) == 3 and order == tuple(reversed(points)))
        assert accepted(drawn(order), gold) is same


@few
@given(
    st.lists(st.sampled_from("ABCENHKLOPSTVW"), min_size=2, max_size=4, unique=True),
    st.sampled_from(["", r"\text", r"\mathrm"]),
)
def test_letters_of_a_name_are_no_factors(letters: list[str], command: str) -> None:
    gold = f"{command}{{{''.join(letters)}}}" if command else "".join(letters)
    for order in permutations(letters):
        said = "".join(order)
        for answer in (said, rf"\text{{{said}}}", rf"\mathrm{{{said}}}"):
            assert accepted(answer, gold) is (said == "".join(letters))


@few
@given(st.lists(st.sampled_from(["H", "C", "O", "N", "S"]), min_size=2, max_size=3, unique=True), st.data())
def test_a_formula_keeps_its_order_and_numbers(elements: list[str], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(1, 6)) for _ in elements]

    def formula(parts: list[tuple[str, int]]) -> str:
        return "".join(element + (f"_{count}" if count > 1 else "") for element, count in parts)

    parts = list(zip(elements, counts, strict=True))
    gold = formula(parts)
    assert accepted(rf"\mathrm{{{gold}}}", gold)
    assert not accepted(formula(parts[::-1]), gold)
    moved = list(zip(elements, counts[1:] + counts[:1], strict=True))
    if moved != parts:
        assert not accepted(formula(moved), gold)


@few
@given(names, names, values)
def test_another_variable_is_another_answer(ours: str, theirs: str, value: str) -> None:
    assume(ours != theirs and "a" not in (ours, theirs))
    for left in ("{}", "{}_1", "{}(t)", r"\overline{{{}}}", "{}'"):
        gold = f"{left.format(theirs)}={value}"
        assert accepted(gold, gold)
        assert accepted(value, gold), "the name may be left out"
        if "t" not in (ours, theirs):
            assert not accepted(f"{left.format(ours)}={value}", gold)
        assert not accepted(f"2{left.format(theirs)}={value}", value), "an equation that is not solved"


@few
@given(st.sampled_from("fg"), names, names)
def test_a_function_is_no_factor(f: str, x: str, y: str) -> None:
    assume(len({f, x, y}) == 3)
    gold = f"{f}({x}+{y})"
    assert accepted(gold, gold)
    for mutated in (f"{f}({x})+{f}({y})", f"({x}+{y}){f}", f"{f}{x}+{f}{y}", f"{f}({x}-{y})", f"{f}'({x}+{y})"):
        assert not accepted(mutated, gold)
    assert not accepted(f"{x}({f})", f"{f}({x})")
    assert not accepted(f"2{f}({x})", f"{f}(2{x})")
    assert not accepted(rf"\frac{{1}}{{{f}({x})}}", f"{f}^{{-1}}({x})")


@few
@given(names, names)
def test_capitals_are_other_variables(x: str, y: str) -> None:
    assume(x != y)
    assert not accepted(f"2{x.upper()}+{x}", f"{x.upper()}+2{x}")
    assert not accepted(f"{x}{x.upper()}", f"{x}^2")
    assert not accepted(f"{x.upper()}+{y}", f"{x}+{y}")


UNITS = ["cm", "mm", "km", "m", "kg", "g", "s", "cm^2", "cm^3", "m/s"]


@few
@given(
    st.sampled_from([r"4\pi", r"2\sqrt{3}", r"\frac{2}{3}", "7", "x", "2ab"]),
    st.sampled_from(UNITS),
    st.sampled_from(UNITS),
)
def test_units_are_told_apart_and_variables_are_none(value: str, ours: str, theirs: str) -> None:
    gold = rf"{value}\text{{ {theirs}}}"
    assert accepted(value, gold)
    assert accepted(gold, value)
    assert accepted(rf"{value}~\mathrm{{{theirs}}}", gold)
    assert accepted(rf"{value}\ \mathrm{{~{theirs}}}", value)
    if ours != theirs:
        assert not accepted(rf"{value}\text{{ {ours}}}", gold)
    for variable in ("r", "x_1", "n", "mg", "h", "k", r"\theta"):
        assert not accepted(value, value + variable)


@few
@given(st.integers(-9, 8), st.integers(1, 9), st.sampled_from("xyt"), st.booleans(), st.booleans())
def test_intervals_keep_their_ends(low: int, width: int, x: str, left: bool, right: bool) -> None:
    high = low + width

    def interval(a: int, b: int, closed: tuple[bool, bool]) -> list[str]:
        signs = [r"\le " if c else "<" for c in closed]
        text = f"{'[' if closed[0] else '('}{a},{b}{']' if closed[1] else ')'}"
        return [text, f"{a}{signs[0]}{x}{signs[1]}{b}", rf"{x}\in {text}"]

    forms = interval(low, high, (left, right))
    for gold in forms:
        assert all(accepted(form, gold) for form in forms)
        for other in (*interval(low, high, (not left, right)), *interval(low, high, (left, not right)),
                      *interval(low, high + 1, (left, right)), *interval(high, low, (left, right))):  # fmt: skip
            assert not accepted(other, gold)
    sign = r"\ge " if left else ">"
    gold = f"{x}{sign}{low}"
    assert accepted(f"{low}{'≤' if left else '<'}{x}", gold)
    assert accepted(rf"{'[' if left else '('}{low},+\infty)", gold)
    for mutated in (
        f"{x}{'>' if left else '>='}{low}",
        f"{x}<{low}",
        f"{low}{sign}{x}",
        f"{x}{sign}{low + 1}",
        f"z{sign}{low}",
    ):
        assert not accepted(mutated, gold)


@few
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=2, max_size=3))
def test_points_and_matrices_keep_their_order(rows: list[list[int]]) -> None:
    def points(of: list[list[int]]) -> str:
        return ",".join(f"({a},{b})" for a, b in of)

    def matrix(of: list[list[int]]) -> str:
        return r"\begin{pmatrix}" + r"\\".join("&".join(map(str, row)) for row in of) + r"\end{pmatrix}"

    gold = points(rows)
    assert accepted(points(rows[::-1]), gold), "a list of points has no order"
    swapped = [[b, a] for a, b in rows]
    if sorted(swapped) != sorted(rows):
        assert not accepted(points(swapped), gold)
    crossed = [[rows[i][0], rows[i - 1][1]] for i in range(len(rows))]
    if sorted(crossed) != sorted(rows):
        assert not accepted(points(crossed), gold)
    if rows[::-1] != rows:
        assert not accepted(matrix(rows[::-1]), matrix(rows))
    transposed = [list(column) for column in zip(*rows, strict=True)]
    if transposed != rows:
        assert not accepted(matrix(transposed), matrix(rows))
    assert not accepted(matrix(rows).replace("pmatrix", "vmatrix"), matrix(rows))


@few
@given(st.lists(st.sampled_from(["1", "2", r"\sqrt{2}", "x+1", "2x"]), min_size=2, max_size=4), st.data())
def test_a_list_has_as_many_of_each(items: list[str], data: st.DataObject) -> None:
    gold = ", ".join(items)
    shuffled = data.draw(st.permutations(items))
    assert accepted(", ".join(shuffled), gold)
    assert accepted(" and ".join(shuffled), gold)
    other = data.draw(st.lists(st.sampled_from(items), min_size=len(items), max_size=len(items)))
    assert accepted(", ".join(other), gold) is (sorted(other) == sorted(items))
    assert not accepted(", ".join(items[1:]), gold)
    assert not accepted(f"({', '.join(items)})", gold)


@few
@given(st.sampled_from(["a", r"\sqrt{3}", r"\frac{b}{2}", "5"]), st.sampled_from(["", "2", "c+"]))
def test_plus_or_minus_is_two(term: str, before: str) -> None:
    both = rf"{before}\pm {term}" if before != "c+" else rf"c\pm {term}"
    plus, minus = (both.replace(r"\pm ", sign) for sign in "+-")
    assert accepted(f"{minus}, {plus}", both)
    assert accepted(f"x={plus} or x={minus}", f"x={both}")
    for one in (plus, minus, f"{plus}, {plus}", f"{minus}, {minus}"):
        assert not accepted(one, both)
        assert not accepted(both, one)


# ---- any two expressions -------------------------------------------------------------------------------------------

POINTS = [
    {name: Fraction(value, 7) for name, value in zip("abxyAX", row, strict=True)}
    for row in ((3, 5, 11, 13, 17, 19), (23, 2, 29, 31, 37, 4), (9, 41, 8, 43, 6, 47))
]


@dataclass(frozen=True)
class Expression:
    """LaTeX, whether it needs brackets in a product, and its values at some points; None where it has none."""

    text: str
    is_sum: bool
    values: tuple[Fraction | None, ...]


def _combine(operation: str, p: Expression, q: Expression) -> Expression:
    def value(a: Fraction | None, b: Fraction | None) -> Fraction | None:
        if a is None or b is None or (operation == "frac" and b == 0):
            return None
        return {"+": a + b, "-": a - b, "frac": a / b if b else a}.get(operation, a * b)

    found = tuple(value(a, b) for a, b in zip(p.values, q.values, strict=True))
    left, right = (f"({e.text})" if e.is_sum else e.text for e in (p, q))
    if operation == "frac":
        return Expression(rf"\frac{{{p.text}}}{{{q.text}}}", False, found)
    if operation in "+-":
        return Expression(f"{p.text}{operation}{right}", True, found)
    return Expression(f"{left}{operation}{right}", False, found)


leaves = st.one_of(
    st.integers(1, 9).map(lambda i: Expression(str(i), False, (Fraction(i),) * len(POINTS))),
    st.sampled_from("abxyAX").map(lambda v: Expression(v, False, tuple(point[v] for point in POINTS))),
)
expressions = st.recursive(
    leaves,
    lambda inner: st.builds(_combine, st.sampled_from(["+", "-", r"\cdot ", "*", r" \times ", "frac"]), inner, inner),
    max_leaves=5,
)


@settings(max_examples=2 * settings.default.max_examples, deadline=None)
@given(expressions, expressions)
def test_what_is_accepted_has_the_same_value(p: Expression, q: Expression) -> None:
    """Any two, and one that differs from the first in one character."""
    assert accepted(p.text, p.text)
    assert not accepted(p.text, q.text) or p.values == q.values
    for other in (_combine("+", p, q), _combine("-", p, q), _combine("frac", p, q)):
        assert not accepted(other.text, p.text) or other.values == p.values


@few
@given(expressions, st.data())
def test_one_other_letter_is_another_expression(p: Expression, data: st.DataObject) -> None:
    places = [i for i, c in enumerate(p.text) if c in "abxyAX" and not p.text[:i].endswith(("\\fr", "\\c", "\\"))]
    assume(places and all(v is not None for v in p.values))
    i = data.draw(st.sampled_from(places))
    mutated = p.text[:i] + "w" + p.text[i + 1 :]
    assert not accepted(mutated, p.text)


@few
@given(names, st.integers(0, 9), st.integers(0, 9), st.sampled_from([r"\neq", ">", r"\ge"]))
def test_one_of_several_conditions_is_not_all_of_them(name: str, first: int, second: int, sign: str) -> None:
    assume(name != "e")
    conditions = f"{name}<{first}", f"{name}{sign}{second}"
    either, both = r" \text{ or } ".join(conditions), r" \text{ and } ".join(conditions)
    assert accepted(both, both)
    assert accepted(either, either)
    assert accepted(", ".join(reversed(conditions)), both)
    assert not accepted(either, both)
    assert not accepted(both, either)


@few
@given(names, st.integers(0, 9), st.integers(0, 9), st.sampled_from("^_"))
def test_an_exponent_or_index_ends_with_its_brace(name: str, inside: int, behind: int, sign: str) -> None:
    assert not accepted(f"{name}{sign}{{{inside}}}{behind}", f"{name}{sign}{{{inside}{behind}}}")
    assert accepted(f"{name}{sign}{{{inside}}} {behind}", f"{name}{sign}{inside} {behind}")


@few
@given(st.sampled_from(["sin", "cos", "tan"]), st.integers(1, 89))
def test_degrees_inside_a_function(function: str, angle: int) -> None:
    gold = rf"\{function} {angle}^\circ"
    assert accepted(f"{function} {angle}°", gold)
    assert not accepted(rf"\{function} {angle}", gold)


@few
@given(names, names, small, st.sampled_from(["|", ":", r" \mid "]))
def test_a_condition_is_about_its_own_variable(name: str, other: str, bound: int, bar: str) -> None:
    assume(name != other and "e" not in (name, other))
    gold = rf"({bound},+\infty)"
    assert accepted(rf"\{{{name}{bar}{name}>{bound}\}}", gold)
    assert not accepted(rf"\{{{name}{bar}{other}>{bound}\}}", gold)
