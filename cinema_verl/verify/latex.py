"""A mathematical expression.

Correct is the same form (see ``latex_form``: a list, a point, an interval, a relation, a matrix, a single expression)
whose expressions are the same in spelling, after removal of what LaTeX does for looks only, or the same number by the
rule of ``number``, or, where neither decides, equivalent in the opinion of the engine: math-verify, in a worker
process, which is asked only what ``latex_guard`` lets through: the same variables in the same case, in a language that
it reads as we do, and never where the gold is a number, which wants a number and not the sum that the question asked
for. Figures with signs between them (10-20, 3×4) are spelled alike or different. Decimals are handed over as fractions,
so nothing is rounded: 0.333333 is not 1/3. What is not shown equal is incorrect.

"x =" may be left out on one side, and so may a unit; y = 5 is not x = 5, and 5 cm not 5 m. An equation is any constant
multiple of itself. A chain says what all its sides say: x = 4 = 5 says nothing. The gold decides whether "1,200" is a
number or a list. A gold may give several forms separated by "##" (MV-MATH); any of them is correct. A gold that is
empty or whose braces do not match abstains.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from cinema_verl.verify import latex_guard, math_pool, number
from cinema_verl.verify.latex_form import Items, Leaf, Named, Node, Relation, Row, flipped, read, spread
from cinema_verl.verify.latex_names import name_of
from cinema_verl.verify.latex_spelling import tokens
from cinema_verl.verify.reading import colon_as_equals, described, fold, peel, statements
from cinema_verl.verify.verdict import ABSTAIN, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

Engine = Callable[[str, str], Verdict | None]
"""``engine(answer, gold)`` on two LaTeX expressions, or on two relations to zero ("x-1=0"); None for no opinion; it
bounds its own time and memory and may be called from any thread."""

MAX_READ: Final = 1_000
"""Longest text that is taken apart, in characters; longer ones are compared as they are spelled. Our choice: several
times the longest golds of MV-MATH and Geometry3K."""
MAX_ASKED: Final = 12
"""Most questions to the engine about one answer. Our choice: a list of five roots, none spelled as in the gold, takes
at most fifteen, and one of four ten; it bounds what one answer may cost."""

_engine: Engine | None = math_pool.equivalent


def set_engine(engine: Engine | None) -> None:
    """Choose who decides what spelling cannot; None for nobody. For this process."""
    global _engine
    _engine = engine


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def _form(text: str, separate: bool) -> Node:
    """The form of folded text; ``separate``: whether the comma of "1,200" separates."""
    if len(text) > MAX_READ:
        return Node(" ".join(text.split()))
    numbers = statements(text) or (statements(peel(text, brackets=False)) if "(1" in text or "(2" in text else "")
    if numbers.count("(") > 1:  # ①③ is no product
        return Node(numbers)
    found = tokens(_bare(text), thousands=not separate)
    return read(found) if found else Node("")


_IN_TEXT = re.compile(r"\\(?:text|mathrm|textrm|textbf|textit|mathbf|mathit|mathsf)\s?\{")


def _bare(text: str) -> str:
    """Without its wrapping; a name in ``\\text{}`` stays marked as one, for its letters are no variables."""
    bare = peel(text, brackets=False)
    if bare.replace(" ", "").isalpha() and _IN_TEXT.search(text):
        return rf"\mbox{{{bare}}}"
    bare = colon_as_equals(bare)
    name, value = described(bare)
    return value if name else bare


# ---- one expression -------------------------------------------------------------------------------------------------

Equal = Callable[[str, str], bool]


def _same_leaf(answer: Leaf, gold: Leaf, equal: Equal | None) -> bool:
    """Equal in spelling or as numbers, or as ``equal`` says."""
    if answer.unit and gold.unit and answer.unit != gold.unit:
        return False
    if answer.value_key == gold.value_key:
        return True
    if answer.word is not None and answer.word == (gold.as_word or gold.word):
        return True
    if gold.word is not None and gold.word == answer.as_word:
        return True
    if _FORMULA.fullmatch(gold.value_key) and _plain_formula(answer) == _plain_formula(gold):
        return True
    comparable = answer.variables == gold.variables or gold.is_number
    if comparable and number.check(answer.number_text, Gold(gold.number_text)).correct is True:
        return True
    if answer.number_text == gold.number_text and latex_guard.FIGURES.fullmatch(gold.value_key):
        return True  # 3*4 is 3×4, and 2×6 is not
    if equal is None:
        return False
    ours, theirs = latex_guard.question(answer), latex_guard.question(gold)
    if ours is None or theirs is None or not latex_guard.may_be_equal(ours, theirs):
        return False
    return equal(ours.text, theirs.text)


# Of chemistry: symbols of elements, counts as subscripts, groups. H2SO4 is H_2SO_4.
_TERM: Final = r"\d*\(?[A-Z](?:[A-Za-z()\d]|_(?:\d|\{\d+\}))*"
_FORMULA = re.compile(rf"{_TERM}(?:\+{_TERM})*")


def _plain_formula(leaf: Leaf) -> str:
    return re.sub(r"[_{}]", "", leaf.value_key)


# ---- forms ----------------------------------------------------------------------------------------------------------


def _same(answer: Node, gold: Node, equal: Equal | None) -> bool:
    """Whether two forms say the same, with ``equal`` for expressions that are spelled differently."""
    if _is_spelled_out(answer, gold) or _is_spelled_out(gold, answer):
        return False
    if answer.key == gold.key:
        return True
    if isinstance(answer, Named) or isinstance(gold, Named):
        return _same_named(answer, gold, equal)
    if isinstance(answer, Leaf) and isinstance(gold, Leaf):
        return _same_leaf(answer, gold, equal)
    if isinstance(answer, Relation):
        if isinstance(gold, Relation):
            return _same_relation(answer, gold, equal)
        return set(answer.signs) == {"="} and all(_same(side, gold, equal) for side in answer.sides)
    if isinstance(answer, Items) and isinstance(gold, Items):
        return _same_items(answer, gold, equal)
    if isinstance(gold, Items):
        if isinstance(answer, Row) and (values := _by_name(gold)):
            return (answer.opening, answer.closing) == ("(", ")") and _in_order_each(answer.items, values, equal)
        return gold.is_set and len(gold.items) == 1 and _same(answer, gold.items[0], equal)
    if isinstance(answer, Row) and isinstance(gold, Row):
        if gold.opening == "matrix":
            answer = _as_matrix(answer)
        if (answer.opening, answer.closing) != (gold.opening, gold.closing) or len(answer.items) != len(gold.items):
            return False
        if gold.opening == ":" and (_is_time(answer) or _is_time(gold)):
            return False  # and not spelled alike: 3:00 is not 3:0
        return (_matched if gold.commutes else _in_order)(answer.items, gold.items, equal)
    if isinstance(answer, Items) and isinstance(gold, Row):
        return (
            gold.opening + gold.closing == "()"
            and _is_point(answer)
            and _in_order_each(_by_name(answer), gold.items, equal)
        )
    if isinstance(answer, Row):
        return isinstance(gold, Leaf) and _is_ratio(answer, gold)
    return isinstance(gold, Row) and isinstance(answer, Leaf) and _is_ratio(gold, answer)


def _is_spelled_out(letters: Node, word: Node) -> bool:
    """Whether one side is a word of small letters and the other its letters with spaces between them: no, n o. Points
    and the letters of a rule may have spaces: S A S."""
    if not isinstance(word, Leaf) or word.word is None or not isinstance(letters, Leaf):
        return False
    return letters.value_key.islower() and letters.has_spaces


def _by_name(items: Items) -> tuple[Node, ...]:
    """The values of x = 2, y = 3 as the point (2,3) has them: in the order of the names; () for other lists."""
    named = sorted((item for item in items.items if isinstance(item, Named)), key=lambda item: item.name)
    names = {item.name for item in named if len(item.name) == 1}
    return tuple(item.value for item in named) if len(names) == len(items.items) > 1 else ()


def _is_point(items: Items) -> bool:
    """Whether a list is x = 3, y = -5: coordinates, and not the ends of an interval."""
    return sorted(item.name for item in items.items if isinstance(item, Named)) in (["x", "y"], ["x", "y", "z"])


def _as_matrix(rows: Row) -> Row:
    """ "[[1,2],[3,4]]" as the matrix that it is in plain text."""
    if rows.opening != "[" or not all(isinstance(row, Row) and row.opening == "[" for row in rows.items):
        return rows
    lines = tuple(Row(row.key, "&", row.items) for row in rows.items if isinstance(row, Row) and row.closing == "]")
    return Row(rows.key, "matrix", lines) if len(lines) == len(rows.items) else rows


def _in_order_each(answers: tuple[Node, ...], golds: tuple[Node, ...], equal: Equal | None) -> bool:
    return len(answers) == len(golds) and _in_order(answers, golds, equal)


def _is_time(ratio: Row) -> bool:
    return any(item.key[:1] == "0" and item.key.isdigit() for item in ratio.items[1:])


def _is_ratio(ratio: Row, fraction: Leaf) -> bool:
    """3:2 is 3/2, and 19:54 not 38/108."""
    if ratio.opening != ":" or len(ratio.items) != 2:
        return False
    above, below = (item.key for item in ratio.items)
    return (
        not _is_time(ratio)
        and above.isdigit()
        and below.isdigit()
        and fraction.key in (f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}")
    )


def _in_order(answers: tuple[Node, ...], golds: tuple[Node, ...], equal: Equal | None) -> bool:
    return all(_same(answer, gold, equal) for answer, gold in zip(answers, golds, strict=True))


def _matched(answers: tuple[Node, ...], golds: tuple[Node, ...], equal: Equal | None) -> bool:
    """Whether every item has its own counterpart: those that are spelled alike first."""
    left, rest = list(golds), []
    for answer in answers:
        spelled = next((i for i, gold in enumerate(left) if _same(answer, gold, None)), None)
        if spelled is None:
            rest.append(answer)
        else:
            del left[spelled]
    if rest and equal is None:
        return False
    for answer in rest:
        found = next((i for i, gold in enumerate(left) if _same(answer, gold, equal)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_items(answer: Items, gold: Items, equal: Equal | None) -> bool:
    if len(answer.items) != len(gold.items) or answer.either != gold.either:
        return False
    if _are_roots(answer.items, gold.items) or _are_roots(gold.items, answer.items):
        values = [tuple(item.value for item in side.items if isinstance(item, Named)) for side in (answer, gold)]
        return _matched(values[0], values[1], equal)
    if _names(answer) != _names(gold) and (answer.is_set or gold.is_set):
        return False  # a set does not say what is x and what is y
    if gold.ordered or _names(answer) != _names(gold):
        # Several blanks; or only one side says what is x and what is y: then the order says it.
        return _in_order(answer.items, gold.items, equal)
    return _matched(answer.items, gold.items, equal)


def _are_roots(numbered: tuple[Node, ...], same: tuple[Node, ...]) -> bool:
    """Whether one side is x_1 = 3, x_2 = -2 and the other x = 3, x = -2."""
    names = {item.name if isinstance(item, Named) else "" for item in same}
    found = {item.name if isinstance(item, Named) else "" for item in numbered}
    return len(names) == 1 and len(found) > 1 and found == {f"{min(names)}_{i + 1}" for i in range(len(numbered))}


def _names(items: Items) -> bool:
    """Whether the items are said to be different things."""
    return len({item.name for item in items.items if isinstance(item, Named)}) > 1


def _same_named(answer: Node, gold: Node, equal: Equal | None) -> bool:
    if isinstance(answer, Named) and isinstance(gold, Named):
        if _agree(answer.name, gold.name) and _same(answer.value, gold.value, equal):
            return True
        ours, theirs = answer.relation, gold.relation
        return ours is not None and theirs is not None and _same_relation(ours, theirs, equal)
    if isinstance(answer, Named):
        if isinstance(gold, Items) and (several := spread(answer)):
            return _names(gold) and _same_items(several, gold, equal)
        if isinstance(gold, Relation):
            return answer.relation is not None and _same_relation(answer.relation, gold, equal)
        return _same(answer.value, gold, equal)
    assert isinstance(gold, Named)
    if isinstance(answer, Items) and (several := spread(gold)):
        return _names(answer) and _same_items(answer, several, equal)
    if isinstance(answer, Relation):
        if gold.relation is not None and _same_relation(answer, gold.relation, equal):
            return True
        return not isinstance(gold.value, Relation) and _same(answer, gold.value, equal)
    value = gold.value
    if isinstance(value, Relation) and set(value.signs) == {"="}:
        value = value.sides[-1]  # the gold's x = 2 + 3 = 5
        if isinstance(value, Leaf) and name_of(value.tokens) is not None:
            return False
    return _same(answer, value, equal)


def _agree(ours: str, theirs: str) -> bool:
    """The same name, or a description; y is f(x)."""
    return ours == theirs or not ours or not theirs or {ours, theirs} == {"y", "f(x)"}


def _same_relation(answer: Relation, gold: Relation, equal: Equal | None) -> bool:
    """The same sides, from left to right or from right to left; or, of an equation, a multiple."""
    if len(answer.sides) != len(gold.sides):
        return False
    if answer.signs == gold.signs and _in_order(answer.sides, gold.sides, equal):
        return True
    if tuple(map(flipped, reversed(answer.signs))) == gold.signs and _in_order(answer.sides[::-1], gold.sides, equal):
        return True
    if equal is None:
        return False
    ours, theirs = latex_guard.difference(answer), latex_guard.difference(gold)
    if ours is None or theirs is None or ours[0] != theirs[0]:
        return False
    ours_asked, theirs_asked = latex_guard.question(ours[1]), latex_guard.question(theirs[1])
    if ours_asked is None or theirs_asked is None or not latex_guard.may_be_equal(ours_asked, theirs_asked):
        return False
    return equal(f"{ours_asked.text}{ours[0]}0", f"{theirs_asked.text}{theirs[0]}0")


# ---- the rule -------------------------------------------------------------------------------------------------------


class _Inquiry:
    """Asks the engine about one answer, so often and no more, and remembers what it said last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left = MAX_ASKED
        self.opinion = DIFFERENT

    def __call__(self, answer: str, gold: str) -> bool:
        if not self._left:
            return False
        self._left -= 1
        self.opinion = self._engine(answer, gold) or DIFFERENT
        if self.opinion.correct is not True and self.opinion.reason != DIFFERENT.reason:
            self._left = 0  # what takes too long is not asked again in another place
        return self.opinion.correct is True


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


_ALTERNATIVES = re.compile(r"\\?#\s?\\?#")


def check(answer: str, gold: Gold) -> Verdict:
    texts = [form for form in map(fold, _ALTERNATIVES.split(gold.text)) if _bare(form) and _balanced(form)]
    forms = [form for form in (_form(text, False) for text in texts) if form.key]
    if not forms:
        return ABSTAIN
    folded = fold(answer)
    readings = {separate: _form(folded, separate) for separate in {_separates(form) for form in forms}}
    if not all(reading.key for reading in readings.values()):
        return UNREADABLE
    pairs = [(readings[_separates(form)], form) for form in forms]
    if any(_same(found, form, None) for found, form in pairs) or _close_commas(folded) in map(_close_commas, texts):
        return CORRECT
    if any(_is_same_quantity(answer, found, form) for found, form in pairs):
        return CORRECT
    if _engine is None or not _balanced(folded):
        return DIFFERENT
    inquiry = _Inquiry(_engine)
    for found, form in pairs:
        if _same(found, form, lambda ours, theirs: True) and _same(found, form, inquiry):
            return inquiry.opinion
    return inquiry.opinion if inquiry.opinion.correct is not True else DIFFERENT


def _is_same_quantity(answer: str, found: Node, gold: Node) -> bool:
    """By the rule of ``number``, which reads units in more spellings, where both are single expressions."""
    if (
        not isinstance(found, Leaf)
        or not isinstance(gold, Leaf)
        or not (gold.unit or gold.is_number or "°" in gold.key)
    ):
        return False
    return number.check(answer, Gold(gold.number_text)).correct is True


def _separates(gold: Node) -> bool:
    """Whether the gold is a list, so that the comma in an answer's "1,200" separates."""
    return isinstance(gold, Items) or (isinstance(gold, Named) and isinstance(gold.value, Items))


def _close_commas(text: str) -> str:
    """For "32, 349" and "32,349", in which the comma is the same, whatever it is."""
    return _bare(text).replace(", ", ",")
