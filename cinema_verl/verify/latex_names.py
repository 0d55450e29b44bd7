"""Names: a letter with subscripts, primes, an argument or a decoration, and the left side of "AB = 5".

The letters of a name are no factors: ∠ABC is not ∠ACB, f(x) not f times x, x_12 not x_1 times 2.
"""

from collections.abc import Sequence
from typing import Final

from cinema_verl.verify.latex_spelling import Token, key_of, matches
from cinema_verl.verify.reading import hedges

MAX_DEPTH: Final = 12
"""Brackets within brackets that are taken apart. Our choice: answers have three or four."""


def split(tokens: tuple[Token, ...], inside: dict[int, int], at: str, texts: str = "") -> list[tuple[Token, ...]]:
    """The parts between top-level tokens of kind ``at`` (and one of ``texts``), with the separating tokens between."""
    parts: list[tuple[Token, ...]] = []
    start = i = 0
    while i < len(tokens):
        if i in inside:
            i = inside[i] + 1
            continue
        if tokens[i].kind == at and (not texts or tokens[i].text in texts):
            parts += [tokens[start:i], (tokens[i],)]
            start = i + 1
        i += 1
    return [*parts, tokens[start:]]


def without_braces(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Without braces around everything."""
    for _ in range(MAX_DEPTH):
        if len(tokens) < 2 or tokens[0].text != "{" or matches(tokens).get(0) != len(tokens) - 1:
            break
        tokens = tokens[1:-1]
    return tokens


APPLIED: Final = frozenset("fghFGHPφψ")
"""Letters that are functions' names whatever stands in the brackets behind them."""
DECORATIONS: Final = frozenset({
    r"\overline", r"\overrightarrow", r"\overleftarrow", r"\overleftrightarrow", r"\underline", r"\hat", r"\tilde",
    r"\dot", r"\ddot", r"\boldsymbol", r"\bm", r"\mathcal", r"\mathbb", r"\mathscr", r"\overarc", r"\wideparen",
})  # fmt: skip
SHAPES: Final = frozenset("∠△⊙□▱⌒▽Δ")


def closing(tokens: Sequence[Token], i: int) -> int:
    """Where the bracket or brace at ``i`` closes, or the last token."""
    round_ = tokens[i].text in "(["
    opens, closes = ("([", ")]") if round_ else ("{", "}")
    depth = 0
    for j in range(i, len(tokens)):
        if tokens[j].text in opens and tokens[j].text:
            depth += 1
        elif tokens[j].text in closes and tokens[j].text:
            depth -= 1
            if depth == 0:
                return j
    return len(tokens) - 1


def group_end(tokens: Sequence[Token], i: int) -> int:
    """The end of the argument that starts at ``i``: a group in braces or one token."""
    return closing(tokens, i) + 1 if i < len(tokens) and tokens[i].text == "{" else i + 1


def is_application(tokens: Sequence[Token], i: int, close: int) -> bool:
    """Whether the bracket at ``i``, behind a letter, holds a function's argument: f(x), V(t), not a(b+c) or mg(a+b)."""
    if tokens[i - 1].text in "gh" and i > 1 and tokens[i - 2].text in ("m", "M", "ρ") and close - i > 2:
        return False
    return tokens[i - 1].text in APPLIED or close - i == 2


def atom_end(tokens: Sequence[Token], i: int) -> int:
    """The end of the name that starts at ``i``: a letter, decorated or with subscripts, primes and argument, or a shape
    with its points; ``i`` where none starts."""
    start = i
    token = tokens[i]
    if token.text in SHAPES:
        i += 1
        while (
            i < len(tokens)
            and i - start < 7
            and (tokens[i].kind == "letter" or (tokens[i].kind == "number" and i == start + 1))
        ):
            i += 1
        if i == start + 1 and token.text != "Δ":
            return start
    elif token.text in DECORATIONS:
        i = group_end(tokens, i + 1)
    elif token.kind == "letter" or (token.kind == "word" and len(token.text) > 1):
        i += 1
    else:
        return start
    while i < len(tokens) and tokens[i].text in ("_", "'"):
        i = group_end(tokens, i + 1) if tokens[i].text == "_" else i + 1
    return min(i, len(tokens))


def atom(tokens: Sequence[Token], i: int) -> tuple[int, str]:
    """The end and the canonical spelling of the name that starts at ``i``, with a function's argument."""
    end = atom_end(tokens, i)
    if end > i and end < len(tokens) and tokens[end].text == "(" and tokens[i].kind == "letter":
        close = closing(tokens, end)
        if close > end and (is_application(tokens, end, close) or (tokens[end - 1].text == "'")):
            end = close + 1
    text = key_of(tokens[i:end])
    if len(text) > 2 and text[0] == "Δ" and text[1:].isalpha() and text[1:].isupper():
        text = "△" + text[1:]  # the letter for the sign
    if tokens[i].text == "∠" and end - i == 4:
        points = text[1:]
        text = "∠" + min(points, points[::-1])  # the vertex is in the middle either way
    return end, text


_WORD_NAMES: Final = 5  # words before "=": "the area of the triangle"


def name_of(tokens: tuple[Token, ...]) -> str | None:
    """The canonical name that a left side is, or None for an expression, which makes an equation.

    Names are letters without operators and numbers of their own: x, a_n, AB, f(x), (p,q), ∠ABC, |AB|, cos B, V_1:V_2,
    AB/CD, dy/dx, S_△ABC. Words are "", a description.
    """
    tokens = without_braces(tokens)
    if not tokens or len(tokens) > 40:
        return None
    text = "".join(" " * token.spaced + token.text for token in tokens).strip()
    if hedges(text):
        return None
    if all(token.kind == "word" for token in tokens):
        return "" if len(text.split()) <= _WORD_NAMES else None
    inside = matches(tokens)
    last = len(tokens) - 1
    if tokens[0].text in "|(" and (inside.get(0) == last or (tokens[0].text == tokens[-1].text == "|" and last > 1)):
        inner = tokens[1:-1]
        parts = split(inner, matches(inner), "separator")[::2]
        if tokens[0].text == "|":
            plain = all(t.text.isupper() and t.kind == "letter" for t in inner) and len(inner) > 1
            return name_of(inner) if plain or inner[0].text in DECORATIONS or key_of(inner) == "z" else None
        names = [name_of(part) for part in parts]
        return "(" + ",".join(map(str, names)) + ")" if len(parts) > 1 and all(names) else None
    if len(tokens) == 5 and [tokens[i].text for i in (0, 2, 3)] == ["d", "/", "d"]:
        return rf"\frac{{d{tokens[1].text}}}{{d{tokens[4].text}}}"
    for sign in ":/":
        parts = split(tokens, inside, "sign", sign)[::2]
        if len(parts) > 1:
            names = [name_of(part) for part in parts]
            return ":".join(map(str, names)) if all(names) else None
    if tokens[0].text == r"\frac":
        middle = group_end(tokens, 1)
        if derivative(tokens, 0):
            return key_of(tokens)
        names = [name_of(tokens[1:middle]), name_of(tokens[middle:])]
        return ":".join(map(str, names)) if all(names) and group_end(tokens, middle) == len(tokens) else None
    return _plain_name(tokens)


def _plain_name(tokens: tuple[Token, ...]) -> str | None:
    if len(tokens) > 1 and tokens[0].text == "m" and tokens[1].text == "∠":
        tokens = tokens[1:]  # the measure of an angle
    if tokens[0].text in APPLIED and key_of(tokens[1:6]) == "^{-1}":
        tokens = (tokens[0]._replace(text=tokens[0].text + "⁻¹"), *tokens[6:])  # the inverse function
    names, i = [], 0
    while i < len(tokens):
        if tokens[i].kind == "function" and i + 1 < len(tokens):
            names.append(tokens[i].text + " ")
            i += 1
            continue
        if tokens[i].kind == "number" and not (names and names[-1].endswith(" ")):
            return None
        if tokens[i].kind == "number":  # sin 2A
            if i + 1 == len(tokens):
                return None
            names.append(tokens[i].text)
            i += 1
            continue
        end, text = atom(tokens, i)
        if end == i or text == "π":
            return None
        if text.startswith(r"\overline") and text[10:-1].isupper():
            text = text[10:-1]
        names.append(text)
        i = end
    if len(names) == 2 and all(len(name) == 1 and name.isupper() for name in names):
        names.sort()  # BA is AB
    if len(names) == 1 and len(names[0]) == 2 and names[0].isupper():
        names = ["".join(sorted(names[0]))]
    return "".join(names)


def derivative(tokens: Sequence[Token], i: int) -> str:
    """What the fraction at ``i`` differentiates: "dy" of dy/dx, "d" of the bare operator, "" of a fraction."""
    middle = group_end(tokens, i + 1)
    above = [token.text for token in tokens[i + 1 : middle] if token.text not in "{}"]
    below = [token.text for token in tokens[middle : group_end(tokens, middle)] if token.text not in "{}"]
    if not above or len(below) < 2 or above[0] not in ("d", "∂") or below[0] != above[0]:
        return ""
    is_bare = len(above) == 1 or (above[1] == "^" and len(above) == 3)
    return above[0] if is_bare else "".join(above)
