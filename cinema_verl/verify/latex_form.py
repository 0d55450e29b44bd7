"""What an answer in LaTeX says: a tree of lists, points, intervals, relations and matrices over single expressions.

The tree holds everything that a computer algebra system would lose or guess: the order of a point and of several
blanks, the brackets of an interval, how often a root is listed, which variable has which value, every side of a chain.
Only the leaves, single expressions, are left to arithmetic. ``x>3`` is read as x in (3, ∞), ``\\pm`` as two items,
``A(2,3)`` as the point that A is. What fits no form is compared as it is spelled.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Final

from cinema_verl.verify import number
from cinema_verl.verify import units as unit_rules
from cinema_verl.verify.counted import is_counted
from cinema_verl.verify.latex_names import MAX_DEPTH, atom_end, name_of, split, without_braces
from cinema_verl.verify.latex_spelling import Token, key_of, matches

MAX_ITEMS: Final = 64
"""Longest list that is taken apart. Our choice: lists are matched item by item, and answers have a handful."""


@dataclass(frozen=True)
class Node:
    """A form; ``key`` is its canonical spelling."""

    key: str


@dataclass(frozen=True)
class Leaf(Node):
    """One expression, without its unit.

    Attributes:
        tokens: The expression.
        unit: The canonical unit behind it, "" for none.
    """

    tokens: tuple[Token, ...] = ()
    unit: str = ""

    @cached_property
    def value_key(self) -> str:
        return key_of(self.tokens)

    @cached_property
    def variables(self) -> frozenset[str]:
        """Its Latin letters, which tell 5m from 5; Greek ones may be angles' names."""
        return frozenset(token.text for token in self.tokens if token.kind == "letter" and token.text.isascii())

    @cached_property
    def is_number(self) -> bool:
        quantity = number.read(self.number_text)
        return quantity is not None and quantity.is_plain and not self.variables

    @cached_property
    def number_text(self) -> str:
        """As the rule for numbers reads it."""
        return f"{self.value_key.replace('·', '×')} {self.unit}".strip()

    @cached_property
    def word(self) -> str | None:
        """Folded text if it is nothing but words, which differ in case where a letter's case is only style."""
        if self.unit or not any(token.kind == "word" for token in self.tokens):
            return None
        if any(token.kind not in ("word", "letter") for token in self.tokens):
            return None
        marked = any(token.marked for token in self.tokens)
        text = "".join(" " * token.spaced + token.text for token in self.tokens)
        return " ".join(_folded(word, marked) for word in text.split())

    @cached_property
    def as_word(self) -> str:
        """The letters of a short word that was not marked as one: Odd, Yes."""
        if self.unit or len(self.tokens) < 2 or any(token.kind != "letter" for token in self.tokens):
            return ""
        return "" if any(token.spaced for token in self.tokens[1:]) else _folded(self.value_key, False)

    @cached_property
    def has_spaces(self) -> bool:
        """Whether it is letters with spaces between them."""
        return all(token.kind == "letter" for token in self.tokens) and any(t.spaced for t in self.tokens[1:])


@dataclass(frozen=True)
class Items(Node):
    """A list or set: no order, unless it fills several blanks.

    Attributes:
        items: The items.
        ordered: Whether each fills a blank of its own.
        is_set: Whether it is written in braces.
        either: Whether it says that one of several conditions holds, where "and" would say something else.
    """

    items: tuple[Node, ...] = ()
    ordered: bool = False
    is_set: bool = False
    either: bool = False


@dataclass(frozen=True)
class Row(Node):
    """Parts in order with what holds them together: a point or interval, a ratio, a matrix's rows, a union's parts."""

    opening: str = ""
    items: tuple[Node, ...] = ()
    closing: str = ""
    commutes: bool = False


@dataclass(frozen=True)
class Relation(Node):
    """A chain of sides; ``signs`` stand between them."""

    sides: tuple[Node, ...] = ()
    signs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named(Node):
    """What something is said to be.

    Attributes:
        name: Canonical; "" for a description in words.
        value: What it is.
        relation: The same as a relation, where it is an equation.
    """

    name: str = ""
    value: Node = field(default_factory=lambda: Leaf(""))
    relation: Relation | None = None


def _folded(word: str, marked: bool) -> str:
    """East is east; Co is not CO, ABC not abc."""
    styled = word.islower() or word.istitle() or (marked and word.isupper())
    return word.casefold() if (styled and len(word) >= 3) or word in ("No", "no") else word


# ---- reading --------------------------------------------------------------------------------------------------------

_MATRICES: Final = {
    **dict.fromkeys(("pmatrix", "bmatrix", "matrix", "smallmatrix", "array"), "matrix"),
    **dict.fromkeys(("vmatrix", "Vmatrix"), "determinant"),
}
_SYSTEMS: Final = frozenset({"cases", "aligned", "align", "gathered", "split", "array"})
_UNIT_SIGNS: Final = frozenset("^/·-{}()")
_FLIPPED: Final = {"<": ">", ">": "<", "≤": "≥", "≥": "≤", "⊂": "⊃", "⊃": "⊂", "⊆": "⊇", "⊇": "⊆"}
_INFINITY: Final = Leaf("∞", (Token("sign", "∞"),))
_MINUS_INFINITY: Final = Leaf("-∞", (Token("sign", "-"), Token("sign", "∞")))
_LESS: Final = frozenset("<≤")
_MORE: Final = frozenset(">≥")


def flipped(sign: str) -> str | None:
    """The relation that holds with the sides exchanged; None where exchanging them says something else."""
    return _FLIPPED.get(sign) or (sign if sign in "=≠≈∼≅⊥∥" else None)


def read(tokens: Sequence[Token]) -> Node:
    """The form of a text's tokens."""
    return _list(tuple(tokens), 0)


def _raw(tokens: Sequence[Token]) -> Node:
    return Node(key_of(tokens))


def _list(tokens: tuple[Token, ...], depth: int, *, is_set: bool = False) -> Node:
    if _has_condition(tokens):
        return _bracketed((Token("sign", r"\{"), *tokens[1:-1], Token("sign", r"\}")), depth)
    tokens = without_braces(tokens)
    inside = matches(tokens)
    if depth > MAX_DEPTH or -1 in inside:
        return _raw(tokens)
    if any(token.text in "∨∧" for token in tokens) and any(token.kind == "relation" for token in tokens):
        joints = {"∨": Token("separator", "or"), "∧": Token("separator", "and")}  # x<1 ∨ x>3, but not p ∨ q
        tokens = tuple(joints.get(token.text, token) for token in tokens)
    texts, separators = _separated(tokens, inside)
    if len(texts) > MAX_ITEMS or (separators and not texts):
        return _raw(tokens)
    if len(texts) == 1 and not is_set:
        return _statement(texts[0], depth)
    if ";" in separators and "," in separators:
        groups = [group for group in split(tokens, inside, "separator", ";")[::2] if group]
        lists = tuple(_list(group, depth + 1) for group in groups)
        return Items(";".join(group.key for group in lists), lists, ordered=True)
    items = _named_alike([_statement(text, depth + 1) for text in texts])
    if set(separators) == {"or"} and (union := _union_of(items)):
        return union
    in_order = ";" in separators and not all(isinstance(item, Named) and item.name for item in items)
    either = "or" in separators and _are_conditions(items)
    items = [part for item in items for part in _parts(item)]
    key = "set:" * is_set + "or:" * either + ",".join(item.key for item in items)
    return Items(key, tuple(items), in_order, is_set, either)


def _are_conditions(items: list[Node]) -> bool:
    """Whether items are more than the values of one thing: k < 1, k ≠ 0, or x = 0, y = 0."""
    if any(isinstance(item, Relation) or (isinstance(item, Named) and _is_range(item)) for item in items):
        return True
    return len({item.name for item in items if isinstance(item, Named)}) > 1


def _is_range(item: Named) -> bool:
    """Whether it says where a variable lies; P(1,2) is a point."""
    value, is_point = item.value, "," in item.name or item.name.isupper()
    return isinstance(value, Row) and value.opening in "([∪" and not is_point


def _has_condition(tokens: tuple[Token, ...]) -> bool:
    """Whether it is {x|x>3}, a set whose braces lost their backslashes."""
    if len(tokens) < 6 or tokens[0].text != "{" or matches(tokens).get(0) != len(tokens) - 1:
        return False
    return tokens[2].text in ("|", ":") and _occurs(tokens[1].text, tokens[3:])


def _separated(tokens: tuple[Token, ...], inside: dict[int, int]) -> tuple[list[tuple[Token, ...]], list[str]]:
    """The items, and what stands between two of them: of several separators in a row the one that is no line break."""
    texts: list[tuple[Token, ...]] = []
    separators: list[str] = []
    between = ""
    for i, part in enumerate(split(tokens, inside, "separator")):
        if i % 2:
            between = part[0].text if between in ("", ";") else between
        elif part:
            separators += [between] if texts else []
            texts.append(part)
            between = ""
    return texts, separators


def _parts(item: Node) -> tuple[Node, ...]:
    """What an item adds to its list: ±2 adds two."""
    return item.items if isinstance(item, Items) and not item.is_set and not item.ordered else (item,)


def _named_alike(items: list[Node]) -> list[Node]:
    """ "x=1, 2" gives x both values."""
    first = items[0] if items else None
    if not isinstance(first, Named) or any(isinstance(item, Named | Relation) for item in items[1:]):
        return items
    return [first, *(Named(f"{first.name}={item.key}", first.name, item) for item in items[1:])]


def _union_of(items: list[Node]) -> Node | None:
    """ "x<1 or x>3" is one union of intervals."""
    names = {item.name for item in items if isinstance(item, Named) and _is_range(item)}
    values = [item.value for item in items if isinstance(item, Named) and _is_range(item)]
    if len(values) != len(items) or len(names) != 1:
        return None
    union = Row("∪".join(value.key for value in values), "∪", tuple(values), commutes=True)
    return Named(union.key, names.pop(), union)


def _statement(tokens: tuple[Token, ...], depth: int) -> Node:
    tokens = without_braces(tokens)
    if tokens and tokens[0].kind == "relation" and tokens[0].text in "=≈":
        tokens = tokens[1:]
    parts = split(tokens, matches(tokens), "relation")
    if len(parts) == 1:
        return _value(tokens, depth)
    sides, signs = parts[::2], tuple(part[0].text for part in parts[1::2])
    if not all(sides):
        return _raw(tokens)
    relation = Relation(key_of(tokens), tuple(_value(side, depth + 1) for side in sides), signs)
    if interval := _interval(relation, sides):
        return interval
    name = name_of(sides[0]) if signs[0] in "=≈∈≡" else None
    if name is None or any(_occurs(name, side) for side in sides[1:]):
        return relation  # an expression, or x = x + 1, makes an equation
    if len(sides) == 2:
        value = relation.sides[1]
        if isinstance(value, Items) and not value.is_set:  # x = ±2
            items = tuple(Named(f"{name}={item.key}", name, item) for item in value.items)
            return Items(relation.key, items)
        return Named(relation.key, name, value, relation if signs[0] == "=" else None)
    rest = Relation(key_of(tokens[len(sides[0]) + 1 :]), relation.sides[1:], signs[1:])
    return Named(relation.key, name, rest, relation)


def _occurs(name: str, tokens: tuple[Token, ...]) -> bool:
    """Whether a letter stands in an expression, and not as a part of another name: R, not R_1."""
    followed = [*(token.text for token in tokens[1:]), ""]
    return any(token.text == name and after not in ("_", "'") for token, after in zip(tokens, followed, strict=True))


def spread(point: Named) -> Items | None:
    """(x,y) = (2,3) as x = 2, y = 3."""
    names = point.name[1:-1].split(",")
    if not point.name.startswith("(") or not isinstance(point.value, Row) or len(names) != len(point.value.items):
        return None
    return Items(point.key, tuple(Named(f"{n}={v.key}", n, v) for n, v in zip(names, point.value.items, strict=True)))


def _interval(relation: Relation, sides: list[tuple[Token, ...]]) -> Named | None:
    """x>3, 3<x and 1<x≤2 as intervals that a variable lies in."""
    signs = relation.signs
    if not (set(signs) <= _LESS or set(signs) <= _MORE) or len(sides) > 3:
        return None
    bounds, closed, texts = list(relation.sides), [sign in "≤≥" for sign in signs], list(sides)
    if signs[0] in _MORE:
        bounds, closed, texts = bounds[::-1], closed[::-1], texts[::-1]
    if len(texts) == 3:
        at, low, high = 1, bounds[0], bounds[2]
    elif _is_variable(texts[0]) != _is_variable(texts[1]):
        at = 0 if _is_variable(texts[0]) else 1
        low, high = (_MINUS_INFINITY, bounds[1]) if at == 0 else (bounds[0], _INFINITY)
        closed = [False, *closed] if at == 0 else [*closed, False]
    else:
        return None
    if not _is_variable(texts[at]):
        return None
    opening, closing = "[" if closed[0] else "(", "]" if closed[1] else ")"
    name = key_of(texts[at])
    if any(name in {token.text for token in text} for i, text in enumerate(texts) if i != at):
        return None
    span = Row(f"{opening}{low.key},{high.key}{closing}", opening, (low, high), closing)
    return Named(relation.key, name, span)


def _is_variable(tokens: tuple[Token, ...]) -> bool:
    return (
        bool(tokens)
        and tokens[0].kind == "letter"
        and tokens[0].text not in "πe"
        and atom_end(tokens, 0) == len(tokens)
    )


def _value(tokens: tuple[Token, ...], depth: int) -> Node:
    tokens = without_braces(tokens)
    inside = matches(tokens)
    if not tokens or depth > MAX_DEPTH or -1 in inside:
        return _raw(tokens)
    if all(len(split(tokens, inside, "sign", joint)) > 1 for joint in "∪∩"):
        return _raw(tokens)  # neither of the two comes first
    for joint in "∪∩":
        parts = split(tokens, inside, "sign", joint)
        if len(parts) > 1:
            items = tuple(_value(part, depth + 1) for part in parts[::2])
            if any(isinstance(item, Items) and not item.is_set for item in items):
                return _raw(tokens)
            keys = (f"({item.key})" if isinstance(item, Row) and item.opening in "∪∩" else item.key for item in items)
            return Row(joint.join(keys), joint, items, commutes=True)
    ratio = split(tokens, inside, "sign", ":")
    if len(ratio) > 1:
        if not all(ratio[::2]):
            return _raw(tokens)
        return Row(key_of(tokens), ":", tuple(_value(part, depth + 1) for part in ratio[::2]))
    last = len(tokens) - 1
    if inside.get(0) == last:
        return _bracketed(tokens, depth)
    # A(2,3) is the point that A is
    if inside.get(1) == last and tokens[0].text.isupper() and tokens[0].kind == "letter":
        point = _bracketed(tokens[1:], depth)
        if isinstance(point, Row) and len(point.items) > 1:
            return Named(key_of(tokens), tokens[0].text, point)
    return _signs(tokens)


def _bracketed(tokens: tuple[Token, ...], depth: int) -> Node:
    inner, opening, closing = tokens[1:-1], tokens[0], tokens[-1]
    if opening.kind == "begin":
        return _environment(inner, opening.text, depth)
    if opening.text == r"\{":
        condition = [i for i, token in enumerate(inner) if token.text in ("|", ":")]
        if condition and any(token.kind == "relation" for token in inner):
            head, rest = inner[: condition[0]], inner[condition[0] + 1 :]
            if not head or not _occurs(head[0].text, rest):
                return _raw(tokens)
            if len(head) == 1 or key_of(head[1:]) == "∈R":
                return _list(rest, depth + 1)  # { x | x > 3 }
            if head[1].text != "∈":
                return _raw(tokens)  # { x^2 | x > 3 }
            return _list((*head, Token("separator", ","), *rest), depth + 1)  # { x ∈ N | x < 3 }
        return _list(inner, depth + 1, is_set=True)
    if inner and inner[0].kind == "begin" and matches(inner).get(0) == len(inner) - 1:
        return _environment(inner[1:-1], inner[0].text, depth)
    if any(len(split(inner, matches(inner), "sign", joint)) > 1 for joint in "∪∩") and closing.text == ")":
        return _value(inner, depth + 1)
    parts = split(inner, matches(inner), "separator")
    if len(parts) == 1 or any(part[0].text != "," for part in parts[1::2]) or not all(parts[::2]):
        return _signs(tokens) if len(parts) == 1 else _raw(tokens)
    if len(parts) > 2 * MAX_ITEMS:
        return _raw(tokens)
    items = tuple(_statement(part, depth + 1) for part in parts[::2])
    return Row(key_of(tokens), opening.text, items, closing.text)


def _environment(inner: tuple[Token, ...], kind: str, depth: int) -> Node:
    """A matrix in rows and columns, a determinant, or a system of equations."""
    inside = matches(inner)
    rows = [row for row in split(inner, inside, "separator")[::2] if row]
    cells = [split(row, matches(row), "sign", "&")[::2] for row in rows]
    if not rows or len(rows) * max(map(len, cells)) > MAX_ITEMS:
        return _raw((Token("begin", kind), *inner))
    has_relation = any(token.kind == "relation" for token in inner)
    if kind in _SYSTEMS and (kind != "array" or has_relation):
        aligned = any(cell and cell[0].kind == "relation" for row in cells for cell in row[1:])
        if aligned or all(len(row) == 1 for row in cells) or kind not in ("cases", "array"):
            lines = tuple(_statement(tuple(t for t in row if t.text != "&"), depth + 1) for row in rows)
            return Items(",".join(line.key for line in lines), lines)
        kind = "piecewise"
    elif kind not in _MATRICES:
        return _raw((Token("begin", kind), *inner))
    name = _MATRICES.get(kind, kind)
    lines = tuple(
        Row(key_of(row), "&", tuple(_statement(cell, depth + 1) for cell in line))
        for row, line in zip(rows, cells, strict=True)
    )
    return Row(name + ";".join(line.key for line in lines), name, lines, commutes=name == "piecewise")


def _signs(tokens: tuple[Token, ...]) -> Node:
    """A leaf, or two where one ± stands in it."""
    at = [i for i, token in enumerate(tokens) if token.text in "±∓" and token.kind == "sign"]
    if len(at) != 1 or tokens[at[0]].text == "∓":
        return _leaf(tokens)
    i = at[0]
    plus = tokens[:i] + (() if i == 0 else (Token("sign", "+"),)) + tokens[i + 1 :]
    minus = (*tokens[:i], Token("sign", "-"), *tokens[i + 1 :])
    items = (_leaf(plus), _leaf(minus))
    if items[1] != items[0] and isinstance(items[1], Leaf) and isinstance(items[0], Leaf):
        items = (items[0], replace(items[1], unit=items[0].unit))
    return Items(key_of(tokens), items)


def _leaf(tokens: tuple[Token, ...]) -> Leaf:
    if len(tokens) > 1 and tokens[0].text == "+":
        tokens = tokens[1:]
    value, unit = _without_unit(tokens)
    return Leaf(key_of(tokens), value, unit)


def _without_unit(tokens: tuple[Token, ...]) -> tuple[tuple[Token, ...], str]:
    """The value and the canonical unit behind it."""
    for length in (3, 5):  # m/s and m/s^2 behind a space and no variable
        value, behind = tokens[:-length], tokens[-length:]
        is_unit = value and behind[0].kind == "letter" and behind[0].spaced and key_of(behind) in number.units()
        if is_unit and not any(token.kind == "letter" and token.text != "π" for token in value):
            return value, unit_named(key_of(behind))
    start = len(tokens)
    while start and _may_be_unit(tokens, start - 1):
        start -= 1
    while start < len(tokens) and not (
        tokens[start].kind == "word" or tokens[start].text == "°" or _lone(tokens, start)
    ):
        start += 1
    if start in (0, len(tokens)) or tokens[start - 1].text in "+-·/^_{([=":
        return tokens, ""
    terms = (token.text in "°+-" for token in tokens[1:start])
    if tokens[start].text == "°" and (any(terms) or any(token.kind == "function" for token in tokens[:start])):
        return tokens, ""  # the last of several terms, or an argument
    text = "".join(" " * (token.kind == "word") * token.spaced + token.text for token in tokens[start:])
    unit = unit_named(re.sub(r"[{}()]", "", text).strip())
    return (tokens[:start], unit) if unit else (tokens, "")


def _lone(tokens: tuple[Token, ...], i: int) -> bool:
    """One letter, set apart from a lone number: 5 m."""
    if i != 1 or tokens[1].kind != "letter" or tokens[0].kind != "number":
        return False
    return tokens[1].spaced and tokens[1].text in number.units()


def _may_be_unit(tokens: tuple[Token, ...], i: int) -> bool:
    token = tokens[i]
    if token.kind == "word" or token.text == "°" or (token.kind == "sign" and token.text in _UNIT_SIGNS):
        return True
    if token.kind == "number":
        return i > 0 and (tokens[i - 1].text == "^" or (tokens[i - 1].text == "-" and i > 1))
    return token.kind == "letter" and (
        _lone(tokens, i)
        or (
            i > 0
            and tokens[i - 1].text in "/·"
            and any(t.kind == "word" or _lone(tokens, j) for j, t in enumerate(tokens[:i]))
        )
    )


@lru_cache(maxsize=1)
def _units() -> dict[str, str]:
    return number.units() | number.units_set_apart()


_IS_COMPOUND = re.compile(r"[/·^]|\bper\b|每|\b(?:square|cubic|sq|cu)\b")


def unit_named(text: str) -> str:
    """The canonical unit that ``text`` is, also of several ("kg·m/s^2"), or what is counted; "" for none."""
    units = _units()
    for spelling in (text, text.casefold(), text.replace(" ", "")):
        if spelling in units:
            return units[spelling]
    if is_counted(text):
        return text
    if not _IS_COMPOUND.search(text):
        return ""
    for spelling in (text, text.replace(" ", "")):
        unit = unit_rules.read(spelling)
        if unit.standing is unit_rules.Standing.SURE:
            return unit.name
    return ""
