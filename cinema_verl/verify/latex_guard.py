"""What the engine is asked: only what it reads as we do.

A computer algebra system takes ``f(x)`` for f times x, ``\\frac{dy}{dx}`` for a fraction or for zero, ``204_5`` for 204
and ``\\text{no}`` for a product, and then finds things equal that are not. So an expression is put to it in a language
of numbers, variables, functions, roots, fractions, powers and the four operations. Whatever else has a name is handed
over as one variable, the same on both sides: x_1, f(x), \\vec{a}, ∠ABC, 204_5, dy/dx, words. What has no place in
that language is not asked about at all, and compared as it is spelled.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from cinema_verl.verify.latex_form import Leaf, Relation
from cinema_verl.verify.latex_names import DECORATIONS, SHAPES, atom, closing, derivative, group_end
from cinema_verl.verify.latex_spelling import Token, key_of, matches

MAX_TOKENS: Final = 250
"""Longest expression that the engine is asked about. Our choice: several times the longest golds of MV-MATH and
Geometry3K; parsing takes longer than linear time."""
_MAX_DEPTH: Final = 24  # our choice: groups within groups; a continued fraction of ten storeys

_WORDS: Final = frozenset({
    "no", "on", "up", "in", "it", "is", "to", "at", "by", "as", "an", "or", "if", "so", "we", "he", "me", "us",
    "am", "be", "do", "go", "my", "of", "ok", "yes", "not", "and", "but", "the", "cat", "dog", "man", "men", "two",
    "six", "ten", "one", "red", "act", "god", "net", "won", "own", "now", "who", "how", "has", "had", "was", "saw",
    "top", "pot", "car", "arc", "ear", "are", "era", "eat", "tea", "ate", "ton", "may", "day", "bus", "sub", "tap",
    "pat", "bat", "tab", "rat", "tar",
})  # fmt: skip
"""Short words, whose letters are not factors when nothing else stands there."""


class _NotAsked(Exception):
    """The expression has something that the engine would not read as we do."""


# Figures with signs between them: a range, a score, a date, a size, or a sum that was not worked out. 10-20 is not
# 20-30, 3×4 not 2×6.
FIGURES = re.compile(r"(?![\d.]+/[\d.]+$)[\d.]+(?:[-+×·/][\d.]+)+")


@dataclass(frozen=True)
class Question:
    """An expression as the engine gets it.

    Attributes:
        text: LaTeX of the small language.
        symbols: Its variables; e is left out, for it may be written as exp.
        runs: Capital letters in a row, which may be a name or matrices: SAS is not SSA, AB not BA.
        is_number: Whether it is a plain number.
    """

    text: str
    symbols: frozenset[str]
    runs: frozenset[str]
    is_number: bool


@lru_cache(maxsize=1024)  # golds repeat over a group and an epoch
def question(leaf: Leaf) -> Question | None:
    """How the engine is asked about an expression, or None where it is not."""
    if not 0 < len(leaf.tokens) <= MAX_TOKENS or leaf.value_key in _WORDS or FIGURES.fullmatch(leaf.value_key):
        return None
    writer = _Writer(leaf.tokens)
    try:
        text = writer.write(0, len(leaf.tokens), 0)
    except _NotAsked:
        return None
    return Question(text, frozenset(writer.symbols - {"e"}), frozenset(writer.finished_runs()), leaf.is_number)


def may_be_equal(answer: Question, gold: Question) -> bool:
    """Whether the two are of one kind, so that equality is a question of arithmetic."""
    if gold.is_number or answer.symbols != gold.symbols:
        return False  # a number was compared, and is not the sum that the question asked for
    if answer.text.count("|") != gold.text.count("|"):
        return False  # the engine takes all variables for real: |z|^2 is not z^2
    ours = {frozenset(Counter(run.split()).items()): run for run in answer.runs}
    return all(ours.get(frozenset(Counter(run.split()).items()), run) == run for run in gold.runs)


def difference(relation: Relation) -> tuple[str, Leaf] | None:
    """``E = 0`` for an equation or inequality of two sides: the sign and E. None where a side is no expression."""
    if len(relation.sides) != 2 or relation.signs[0] not in "=≠<>≤≥":
        return None
    left, right = relation.sides
    if not isinstance(left, Leaf) or not isinstance(right, Leaf) or left.unit or right.unit:
        return None
    if relation.signs[0] in ">≥":
        left, right = right, left
    sign = {">": "<", "≥": "≤"}.get(relation.signs[0], relation.signs[0])
    tokens = (*left.tokens, Token("sign", "-"), Token("sign", "("), *right.tokens, Token("sign", ")"))
    return sign, Leaf(key_of(tokens), tokens)


_PLAIN_SIGNS: Final = {"+": "+", "-": "-", "·": r"\cdot ", ")": ")", "(": "(", "!": "!", "{": "(", "}": ")"}
_OWN_NAMES: Final = frozenset("abcefghjklmnopqrstuvwxyz")
"""Variables that the engine has, too: it knows no capitals, reads d as a differential and i as any other letter."""
_FUNCTIONS_READ: Final = frozenset(
    {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log", "ln", "exp"}
)
_CONSTANTS: Final = {"π": r"\pi ", "∞": r"\infty "}


def _symbol(name: str) -> str:
    """One variable for a name, the same wherever the name stands."""
    return f"x_{{{int.from_bytes(blake2b(name.encode(errors='surrogatepass'), digest_size=6).digest(), 'big')}}}"


class _Writer:
    """Writes tokens in the engine's language, and notes what variables there are."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self.tokens = tokens
        self.symbols: set[str] = set()
        self._runs: list[str] = []
        self._run: list[str] = []
        self._argument = 0  # where that of the last function starts

    def finished_runs(self) -> list[str]:
        self._end_run()
        return self._runs

    def _end_run(self) -> None:
        if len({name[0] for name in self._run}) > 1:
            self._runs.append(" ".join(self._run))
        self._run = []

    def write(self, start: int, end: int, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise _NotAsked
        parts, i = [], start
        while i < end:
            i, text = self._next(i, end, depth)
            parts.append(text)
        return "".join(parts)

    def _next(self, i: int, end: int, depth: int) -> tuple[int, str]:
        token = self.tokens[i]
        if token.kind == "letter" or token.text in SHAPES or token.text in DECORATIONS or token.kind == "word":
            return self._named(i, end)
        if token.text == "^":
            return self._power(i, end, depth)
        self._end_run()
        if token.kind == "number":
            if i > 0 and i != self._argument and self._is_factor(i - 1):
                raise _NotAsked  # x2 is x_2, x^2 or 2x
            return self._number(i, end, depth)
        if token.kind == "function":
            return self._function(i, end, depth)
        if token.text == r"\frac":
            return self._fraction(i, end, depth)
        if token.text == r"\sqrt":
            return self._root(i, end, depth)
        if token.text == r"\binom":
            middle = group_end(self.tokens, i + 1)
            last = group_end(self.tokens, middle)
            if last > end or middle >= end:
                raise _NotAsked
            parts = self.write(i + 1, middle, depth + 1), self.write(middle, last, depth + 1)
            return last, rf"\binom{parts[0]}{parts[1]}"
        if token.text == "|":
            return self._absolute(i, end, depth)
        if token.text == "×":
            self._refuse_cross(i, end)
            return i + 1, r"\times "
        if token.text in _CONSTANTS:
            return i + 1, _CONSTANTS[token.text]
        if token.text == "/":
            return self._divided(i, end)
        if token.text == "!" and i + 1 < end and self.tokens[i + 1].text == "!":
            raise _NotAsked  # n!! is not (n!)!
        if token.kind == "sign" and token.text in _PLAIN_SIGNS:
            if token.text in ")}" and i + 1 < end and self.tokens[i + 1].text in "_'":
                raise _NotAsked  # (204)_5, (f)'
            return i + 1, _PLAIN_SIGNS[token.text]
        raise _NotAsked

    def _named(self, i: int, end: int) -> tuple[int, str]:
        """A variable: itself if it is one letter, otherwise a variable that stands for the name."""
        token = self.tokens[i]
        if token.text == "d" and [t.text for t in self.tokens[i + 2 : i + 4]] == ["/", "d"] and i + 4 < end:
            stop = i + 5  # dy/dx
            name = rf"\frac{{{key_of(self.tokens[i : i + 2])}}}{{{key_of(self.tokens[i + 3 : stop])}}}"
        else:
            stop, name = atom(self.tokens, i)
        if stop > end or stop == i:
            raise _NotAsked
        if token.kind == "letter" and token.text.isupper() and token.text.isascii() and "(" not in name:
            self._run.append(name)
        else:
            self._end_run()
        self._refuse_superscript(stop, end, token)
        if name in _CONSTANTS:
            return stop, _CONSTANTS[name]
        self.symbols.add(name)
        if name == "i":
            return stop, r"\cdot (I)" if i and self._is_factor(i - 1) else "(I)"
        if stop < end and self.tokens[stop].text == "(":
            return stop, (name if name in _OWN_NAMES else _symbol(name)) + r"\cdot "
        return stop, name if name in _OWN_NAMES else _symbol(name)

    def _is_factor(self, i: int) -> bool:
        return self.tokens[i].kind in ("letter", "number", "word") or self.tokens[i].text in (")", "}", "!", "π")

    def _refuse_superscript(self, i: int, end: int, base: Token) -> None:
        """A^T, A^*, A^c and f^{-1} are no powers."""
        if i >= end or self.tokens[i].text != "^":
            return
        content = key_of(self.tokens[i + 1 : group_end(self.tokens, i + 1)]).strip("{}")
        if content in ("T", r"\top", "*", "·", "+", "-", "c", "C", "H", "†", r"\dagger", r"\complement") and not (
            base.text.islower() and content in "TcCH"
        ):
            raise _NotAsked
        if content == "-1" and base.text in "fghFGH":
            raise _NotAsked

    def _number(self, i: int, end: int, depth: int) -> tuple[int, str]:
        text = self.tokens[i].text
        after = self.tokens[i + 1] if i + 1 < end else None
        if after is not None and after.text == "_":
            stop = group_end(self.tokens, i + 2)
            name = key_of(self.tokens[i:stop])  # a number in another base
            self.symbols.add(name)
            return stop, _symbol(name)
        if after is not None and after.kind == "number":
            raise _NotAsked
        if "." in text:
            whole, _, decimals = text.partition(".")
            text = rf"(\frac{{{int(whole + decimals)}}}{{1{'0' * len(decimals)}}})"
        elif after is not None and after.text == r"\frac":
            fraction = group_end(self.tokens, group_end(self.tokens, i + 2))
            if all(t.kind == "number" or t.text in "{}" for t in self.tokens[i + 2 : fraction]):
                stop, written = self._fraction(i + 1, end, depth)
                return stop, f"({text}+{written})"  # a mixed number
        elif after is not None and after.text == "°":
            return i + 2, rf"({text}\cdot \frac{{\pi }}{{180}})"
        return i + 1, text

    def _function(self, i: int, end: int, depth: int) -> tuple[int, str]:
        name, stop, text = self.tokens[i].text, i + 1, ""
        if name not in _FUNCTIONS_READ and name != "lg":
            raise _NotAsked
        while stop < end and self.tokens[stop].text in ("^", "_"):
            sign = self.tokens[stop].text
            if sign == "_" and name != "log":
                raise _NotAsked
            last = group_end(self.tokens, stop + 1)
            text += sign + self._braced(stop + 1, last, depth)
            stop = last
        if stop == end or self.tokens[stop].text in ("+", "·", "/", ")", "}", "×", "!"):
            raise _NotAsked  # a function of nothing
        self._argument = stop
        if name == "lg":
            if "_" in text:
                raise _NotAsked
            return stop, rf"\log_{{10}}{text} "
        return stop, rf"\{name}{text} "

    def _braced(self, i: int, end: int, depth: int) -> str:
        """An argument, with or without braces of its own."""
        if not i < end <= len(self.tokens):
            raise _NotAsked
        has_braces = self.tokens[i].text == "{" and closing(self.tokens, i) == end - 1
        inner = self.write(i + has_braces, end - has_braces, depth + 1)
        self._end_run()
        return f"{{{inner}}}"

    def _fraction(self, i: int, end: int, depth: int) -> tuple[int, str]:
        middle = group_end(self.tokens, i + 1)
        last = group_end(self.tokens, middle)
        if last > end or middle >= end:
            raise _NotAsked
        if differentiated := derivative(self.tokens, i):
            if len(differentiated) == 1:
                raise _NotAsked  # the bare operator applies to what follows it
            name = key_of(self.tokens[i:last])
            self.symbols.add(name)
            return last, _symbol(name)
        return last, rf"\frac{self._braced(i + 1, middle, depth)}{self._braced(middle, last, depth)}"

    def _absolute(self, i: int, end: int, depth: int) -> tuple[int, str]:
        """One absolute value in all: with more bars, which of them belong together is a guess."""
        bars = [at for at, token in enumerate(self.tokens) if token.text == "|"]
        if (
            len(bars) != 2
            or not i == bars[0] < bars[1] - 1
            or bars[1] >= end
            or -1 in matches(self.tokens[i + 1 : bars[1]])
        ):
            raise _NotAsked
        return bars[1] + 1, f"|{self.write(i + 1, bars[1], depth + 1)}|"

    def _root(self, i: int, end: int, depth: int) -> tuple[int, str]:
        index, start = "", i + 1
        if start < end and self.tokens[start].text == "[":
            close = closing(self.tokens, start)
            index = f"[{self.write(start + 1, close, depth + 1)}]"
            start = close + 1
        last = group_end(self.tokens, start)
        if last > end or start >= end:
            raise _NotAsked
        return last, rf"\sqrt{index}{self._braced(start, last, depth)}"

    def _power(self, i: int, end: int, depth: int) -> tuple[int, str]:
        last = group_end(self.tokens, i + 1)
        if last > end or i + 1 >= end:
            raise _NotAsked
        exponent = key_of(self.tokens[i + 1 : last]).strip("{}")
        if self._run and exponent.isdigit() and int(exponent) < _MAX_DEPTH:
            self._run += self._run[-1:] * (int(exponent) - 1)
            return last, f"^{{{exponent}}}"
        run, self._run = self._run, []
        if exponent.startswith("-") and i and self.tokens[i - 1].text == ")" and self._runs:
            raise _NotAsked  # of matrices, (AB)^{-1} is not A^{-1}B^{-1}
        written = "^" + self._braced(i + 1, last, depth)
        self._run = run
        return last, written

    def _divided(self, i: int, end: int) -> tuple[int, str]:
        """a/b, where b is one factor, for 1/2x is read in two ways; behind a fraction of digits a space says which."""
        if i + 1 >= end:
            raise _NotAsked
        token = self.tokens[i + 1]
        if token.text in "([":
            stop = closing(self.tokens, i + 1) + 1
        elif token.text == r"\sqrt":
            stop = group_end(self.tokens, i + 2)
        elif token.kind == "number":
            stop = i + 2
        else:
            stop = atom(self.tokens, i + 1)[0]
        if stop < end and self.tokens[stop].text == "^":
            stop = group_end(self.tokens, stop + 1)
        follows = self.tokens[stop] if stop < end else None
        if follows is None or follows.text in ("+", "-", "·", "×", "/", ")", "}", "±"):
            return i + 1, "/"
        if token.kind == "number" and self.tokens[i - 1].kind == "number" and i and follows.spaced and stop == i + 2:
            return stop, f"/{token.text}\\cdot "
        raise _NotAsked

    def _refuse_cross(self, i: int, end: int) -> None:
        """Of vectors, × is a product that is not the other one; beside a number it is."""
        before, after = self.tokens[i - 1] if i else None, self.tokens[i + 1] if i + 1 < end else None
        if before is None or after is None:
            raise _NotAsked
        if not (_is_scalar(before, self.tokens[:i]) or _is_scalar(after, ())):
            raise _NotAsked


def _is_scalar(token: Token, group: tuple[Token, ...]) -> bool:
    """Whether a factor beside × is a number: digits, π, a root or a fraction of digits."""
    if token.text == "}":
        return not any((t.kind in ("letter", "word") and t.text != "π") or t.text in DECORATIONS for t in group)
    return token.kind == "number" or token.text in ("π", r"\sqrt", "(")
