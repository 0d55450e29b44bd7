"""LaTeX as tokens: what is written for looks only is gone, and what is written in several ways is written in one.

Spacing, ``\\left``, ``\\dfrac``, ``\\text{}``, ``^\\circ``, ``\\lt``, ASCII mathematics (``4*pi``, ``sin x``,
``sqrt(2)``, ``x^(1/2)``) and repeating decimals each get one spelling. A token knows whether it was written as a word
(``\\text{no}``) and whether a space stood before it, because letters mean different things then. Every pattern is
applied once from left to right and holds no quantifier within a quantifier, so the work is linear in the text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from cinema_verl.verify import number


class Token(NamedTuple):
    """One piece of an expression.

    Attributes:
        kind: "number", "letter" (one Latin or Greek letter), "word" (a name, a unit, prose), "function", "command",
            "separator" (between the items of a list), "relation", "begin", "end" (of an environment) or "sign".
        text: the canonical spelling.
        spaced: whether white space or ``\\text`` set it apart from the token before.
        marked: whether it was written in ``\\text{}`` or the like.
    """

    kind: str
    text: str
    spaced: bool = False
    marked: bool = False


# ---- macros ---------------------------------------------------------------------------------------------------------

_DELIMITER = re.compile(r"(?<!\\)(?:\$\$?|\\[()\[\]])")
_HAS_LETTER = re.compile(r"[^\W\d_]")
_LOOKS: Final = (
    (re.compile(r"\\(?:left|right|middle|displaystyle|limits|[bB]igg?[lrm]?|textstyle|rm|bf)(?![A-Za-z])\.?"), " "),
    (re.compile(r"\\f?boxed(?=\s?\{)(?!.*\\f?boxed)", re.DOTALL), " "),  # of several the first stay
    (re.compile(r"\\q?quad(?![A-Za-z])"), " \ue000 "),  # between the items of a list
    # The comma of thousands, by its spelling or because no number of a list has figures such as 001.
    (re.compile(r"\{,\}|,\\!\s?|(?:(?<=[1-9])|(?<=[1-9]\d)|(?<=[1-9]\d\d)|(?<=,\d\d\d)),(?=0\d\d(?!\d))"), "\ue001"),
    (re.compile(r"\\\\\s?\[[^\]]{1,12}\]|\\cr(?![A-Za-z])"), r"\\\\"),
    (re.compile(r"(?<![\w)}])\((\d{1,40})\)\s?(?=_)"), r"\1"),  # (204)_5
    (re.compile(r"(?<!\\)\\[,!;:> ]|~"), " "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (
        re.compile(
            r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\}|\\degree(?![A-Za-z])|∘|\{\s?∘\s?\})|\\degree(?![A-Za-z])"
        ),
        "°",
    ),
    (re.compile(r"\^\s?(?:\\prime(?![A-Za-z])|\{\s?\\prime\s?\})"), "'"),
    (re.compile(r"\^\s?\{\s?\\prime\s?\\prime\s?\}"), "''"),
    (re.compile(r"(?:(?<![\\A-Za-z])sqrt|√)\s?(\d+(?:\.\d+)?)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt(?![A-Za-z])|√"), r"\\sqrt "),
    (re.compile(r"\\([$%&#])"), r"\1"),
    (re.compile(r"\\(?:ne|neq)(?![A-Za-z])|\\not\s?=|!="), "≠"),
    (re.compile(r"\\le(?:q|qslant|qq)?(?![A-Za-z])|≤|≦|⩽|=<|<="), "≤"),
    (re.compile(r"\\ge(?:q|qslant|qq)?(?![A-Za-z])|≥|≧|⩾|>="), "≥"),
    (re.compile(r"\\pmod\s?(?:\{\s?(\w+)\s?\}|(\w))|\(\s?\\?b?mod\s?\{?\s?(\w+)\s?\}?\s?\)"), r" mod \1\2\3"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=[A-Za-z])\s?//\s?(?=[A-Za-z])|(?<=[A-Z]{2})\s?\|\|\s?(?=[A-Z]{2})"), "∥"),
    (re.compile(r"\\(?:mathbb|mathbf|Bbb)\s?(?:\{\s?([NZQRC])\s?\}|([NZQRC])(?![A-Za-z]))"), r" \1\2"),
    (re.compile(r"\s?\(\s?([A-Za-z]\s?(?:\\in(?![a-z])|∈)[^()]{1,20})\)$"), r", \1"),  # ... (k∈Z)
    (re.compile(r"\{\s?\}"), ""),
)
_COMMANDS: Final = {
    "times": "×", "cdot": "·", "ast": "·", "div": "/", "pi": "π", "infty": "∞", "infinity": "∞", "lt": "<", "gt": ">",
    "approx": "≈", "simeq": "≈", "doteq": "≈", "in": "∈", "cup": "∪", "bigcup": "∪", "cap": "∩", "bigcap": "∩",
    "lor": "∨", "vee": "∨", "land": "∧", "wedge": "∧", "pm": "±", "mp": "∓", "angle": "∠", "measuredangle": "∠",
    "triangle": "△", "bigtriangleup": "△", "odot": "⊙", "square": "□", "perp": "⊥", "bot": "⊥", "parallel": "∥",
    "cong": "≅", "sim": "∼", "backsim": "∼", "equiv": "≡", "subset": "⊂", "subseteq": "⊆", "supset": "⊃",
    "supseteq": "⊇", "to": "→", "rightarrow": "→", "longrightarrow": "→", "Rightarrow": "⇒", "implies": "⇒",
    "lbrace": r"\{", "rbrace": r"\}", "lvert": "|", "rvert": "|", "vert": "|", "lVert": r"\|", "rVert": r"\|",
    "colon": ":", "varnothing": "∅", "emptyset": "∅", "dots": "…", "ldots": "…", "cdots": "…", "partial": "∂",
    "varphi": "φ", "phi": "φ", "varepsilon": "ε", "epsilon": "ε", "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ",
    "zeta": "ζ", "eta": "η", "theta": "θ", "vartheta": "θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ",
    "nu": "ν", "xi": "ξ", "rho": "ρ", "varrho": "ρ", "sigma": "σ", "tau": "τ", "upsilon": "υ", "chi": "χ", "psi": "ψ",
    "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ",
    "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "hbar": "ħ", "ell": "ℓ", "widehat": r"\hat", "widetilde": r"\tilde",
    "bar": r"\overline", "vec": r"\overrightarrow", "dbinom": r"\binom", "tbinom": r"\binom", "mod": "mod",
    "bmod": "mod", "tg": "tan", "ctg": "cot", "arctg": "arctan", "bullet": "·", "bigtriangledown": "▽", "mid": "|",
    "newline": "\n",
}  # fmt: skip
_ASCII_NAMES: Final = {
    "pi": "π", "inf": "∞", "infty": "∞", "infinity": "∞", "oo": "∞", "alpha": "α", "beta": "β", "gamma": "γ",
    "delta": "δ", "theta": "θ", "lambda": "λ", "mu": "μ", "phi": "φ", "omega": "ω", "sigma": "σ", "rho": "ρ",
}  # fmt: skip
_FUNCTIONS: Final = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "log", "ln", "lg", "exp",
})  # fmt: skip
_UNICODE_RELATIONS: Final = frozenset("=<>≤≥≠≈∈≡∼≅⊥∥⊂⊆⊃⊇→⇒")
_SAME_SIGNS: Final = {"*": "·", "∽": "∼", "⟂": "⊥", "⋅": "·", "∙": "·", "÷": "/", "≌": "≅", "▲": "△", "≃": "≈"}
GREEK: Final = frozenset("αβγδεζηθικλμνξοπρστυφχψωΓΔΘΛΞΠΣΦΨΩħℓ")

# ---- tokens ---------------------------------------------------------------------------------------------------------

_TEXT_COMMANDS: Final = (
    "ce|text|textrm|textbf|textit|textnormal|mathrm|mbox|operatorname|mathit|mathbf|mathsf|hbox|mathop"
)
_TOKEN = re.compile(
    rf"""(?P<word>\\(?:{_TEXT_COMMANDS})\*?\s?\{{[^{{}}]*\}})
    |\\begin\s?\{{(?P<begin>[A-Za-z]{{1,12}})\*?\}}(?:\s?\{{[clr|\s]{{1,40}}\}})?
    |\\end\s?\{{(?P<end>[A-Za-z]{{1,12}})\*?\}}
    |\\(?P<command>[A-Za-z]+)
    |(?P<newline>\\\\|\n)
    |(?P<escaped>\\.)
    |(?P<number>\d[\d\ue001]*(?:\.\d+)?|\.\d+)
    |(?P<run>[A-Za-z]+)
    |(?P<space>\s+)
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ONE_IN_BRACES = re.compile(r"(?<=[\^_])\s?\{\s?(\w)\s?\}(?:(?=\s?([^\W_]))|)")
_SIGN_IN_BRACES = re.compile(r"(?<=[\^_])\s?\{\s?([+\-*])\s?\}(?!\s?[\w\\({.])")  # of an ion
_OPEN_SYSTEM = re.compile(r"\\left\s?\\(?:\{|lbrace)(?=\s?\\begin)")  # closed by the invisible \right.
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,20})\.(\d{0,20})(?:\\overline\s?\{\s?(\d{1,20})\s?\}|\\dot\s?\{?\s?(\d)\s?\}?"
    r"(?:(\d{0,20})\\dot\s?\{?\s?(\d)\s?\}?)?|\((\d{1,20})\))"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3}){1,20}(?![\d,])")
JOINTS: Final = {"and": "and", "or": "or", "和": "and", "或": "or", "且": "and", "及": "and"}
_WORD_LENGTH: Final = 4  # a run of so many letters is a word: products of so many variables have signs or powers


_OPENS_ARGUMENT = re.compile(r"(?:\^|\\sqrt)\s?\(")
_ARGUMENTS: Final = (
    (re.compile(r"\\frac(?:\s([A-Za-z])|\s?(\d))\s?([A-Za-z\d])"), r"\\frac{\1\2}{\3}"),
    (re.compile(r"\\frac\s?\{([^{}]*)\}\s?([A-Za-z\d])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac(?:\s([A-Za-z])|\s?(\d))\s?(?=\{)"), r"\\frac{\1\2}"),
    (re.compile(r"\\sqrt(?:\s([A-Za-z])|\s?(\d))"), r"\\sqrt{\1\2}"),
    (re.compile(r"\\binom\s?(\d)\s?(\d)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(\\(?:angle|measuredangle|triangle|odot)|[∠△⊙])\s?\{\s?([A-Z](?:[A-Z'\s]|_\d){0,9})\}"), r"\1 \2"),
    (re.compile(r"\\(vec|overrightarrow|hat|bar|overline|tilde|mathbb|mathcal)\s([A-Za-z])"), r"\\\1{\2}"),
)


def _braces_for_brackets(text: str) -> str:
    """``x^(1/2)`` and ``sqrt(2)`` have their argument in brackets, LaTeX in braces."""
    opening = {match.end() - 1 for match in _OPENS_ARGUMENT.finditer(text)}
    characters, open_brackets = list(text), []
    for i, character in enumerate(text):
        if character == "(":
            open_brackets.append(i)
        elif character == ")" and open_brackets and (start := open_brackets.pop()) in opening:
            characters[start], characters[i] = "{", "}"
    return "".join(characters)


def _repeating(match: re.Match[str]) -> str:
    whole, fixed = match[1] or "0", match[2]
    period = match[3] or match[7] or match[4] + (match[5] or "") + (match[6] or "")
    nines = 10 ** len(fixed) * (10 ** len(period) - 1)
    return rf"\frac{{{int(whole + fixed + period) - int(whole + fixed)}}}{{{nines}}}"


def _without_marks(text: str) -> str:
    """No ``$`` and ``\\(``; letters outside of them are text: "$2\\sqrt{3}$ m" is in metres."""
    pieces = _DELIMITER.split(text)
    if len(pieces) == 1 or len(pieces) % 2 == 0:
        return text  # a dollar alone is money
    for i in range(0, len(pieces), 2):
        if _HAS_LETTER.search(pieces[i]) and not re.search(r"[\\{}]", pieces[i]):
            pieces[i] = rf" \text{{{pieces[i]}}} "
    return " ".join(pieces)


def tokens(text: str, *, thousands: bool = True) -> list[Token]:
    """The tokens of folded and peeled text.

    Args:
        text: What ``reading.fold`` returns, without its wrapping.
        thousands: Whether "1,200" outside of brackets is one number; otherwise the comma separates.
    """
    text = _without_marks(text)
    if r"\right." in text or text.endswith(r"\right"):  # peeled of its stop
        text = _OPEN_SYSTEM.sub("", text)
    for pattern, replacement in _LOOKS:
        text = pattern.sub(replacement, text)
    if "(" in text and _OPENS_ARGUMENT.search(text):
        text = _braces_for_brackets(text)
    # x^{2}3 is not x^{23}: a space stays between the two
    text = _ONE_IN_BRACES.sub(lambda match: match[1] + " " * bool(match[2]), text)
    text = _REPEATING.sub(_repeating, _SIGN_IN_BRACES.sub(r"\1", text))
    for pattern, replacement in _ARGUMENTS:
        text = pattern.sub(replacement, text)
    if thousands and "," in text:
        text = _join_thousands(text)
    found: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "space":
            spaced = True
            continue
        found += _read(kind, match, spaced, found)
        spaced = False
    return found


def _join_thousands(text: str) -> str:
    """Drop the commas of thousands, but not between brackets, where they separate: (1,200)."""
    depth, parts = 0, []
    for piece in re.split(r"([(){}\[\]])", text):
        if piece in "([{" and piece:
            depth += 1
        elif piece in ")]}" and piece:
            depth -= 1
        elif depth <= 0:
            piece = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), piece)
        parts.append(piece)
    return "".join(parts)


def _read(kind: str, match: re.Match[str], spaced: bool, before: list[Token]) -> list[Token]:
    text = match.group()
    if kind == "word":
        return _words(text[text.index("{") + 1 : -1])
    if kind in ("begin", "end"):
        return [Token(kind, match[kind], spaced)]
    if kind == "command":
        return _command(match["command"], spaced)
    if kind == "newline" or text == "\ue000":
        return [Token("separator", ";", spaced)]
    if kind == "number":
        return [Token("number", text.replace("\ue001", ""), spaced)]
    if kind == "run":
        return _run(text, spaced, before)
    if text in JOINTS:
        return [Token("separator", JOINTS[text], spaced)]
    return [_sign(text, spaced)]


def _sign(text: str, spaced: bool) -> Token:
    if text in GREEK:
        return Token("letter", text, spaced)
    if text in ",;":
        return Token("separator", text, spaced)
    text = _SAME_SIGNS.get(text, text)
    if text in _UNICODE_RELATIONS:
        return Token("relation", text, spaced)
    return Token("word" if _HAS_LETTER.match(text) else "sign", "," if text == "\ue001" else text, spaced)


def _command(name: str, spaced: bool) -> list[Token]:
    text = _COMMANDS.get(name, name)
    if text in _FUNCTIONS:
        return [Token("function", text, spaced)]
    if text in JOINTS:
        return [Token("separator", text, spaced)]
    if text in ("mod", "\n"):
        return [Token("word", text, True) if text == "mod" else Token("separator", ";", spaced)]
    if len(text) == 1 and text not in (name,):
        return [_sign(text, spaced)]
    return [Token("command", text if text.startswith("\\") else "\\" + text, spaced)]


def _words(text: str) -> list[Token]:
    """What stands in ``\\text{}``: words, or the joints of a list."""
    text = " ".join(text.split())
    if text in JOINTS:
        return [Token("separator", JOINTS[text], True, True)]
    if text in _FUNCTIONS:
        return [Token("function", text, True)]
    if not _HAS_LETTER.search(text):
        return [token._replace(marked=True) for token in tokens(text)] if text else []
    return [Token("word", text, True, True)]


def _run(text: str, spaced: bool, found: list[Token]) -> list[Token]:
    """A run of Latin letters: a name that has a sign, a function, a joint, a unit, a word or variables."""
    if text in JOINTS:
        return [Token("separator", JOINTS[text], spaced)]
    if text in _ASCII_NAMES:
        return [_sign(_ASCII_NAMES[text], spaced)]
    if text == "mod":
        return [Token("word", "mod", True)]
    before = found[-1] if found else None
    after_value = before is not None and (before.kind in ("number", "word") or before.text in ("}", ")", "π", "/", "°"))
    if after_value and len(text) > 1 and text in number.units() and (spaced or text != "mg"):
        return [Token("word", text, True)]
    if text == "per" and before is not None and before.kind == "word":
        return [Token("word", text, spaced)]
    if after_value and spaced and text in number.units_set_apart() and _is_value(found):
        return [Token("word", text, True)]
    if pieces := _functions_in(text):
        return [
            Token("function" if piece in _FUNCTIONS else "letter", _ASCII_NAMES.get(piece, piece), spaced and i == 0)
            for i, piece in enumerate(pieces)
        ]
    after_run = len(found) > 1 and found[-1].kind == found[-2].kind == "letter" and not found[-1].spaced
    if len(text) >= _WORD_LENGTH or (spaced and len(text) > 1 and after_run):  # prose
        return [Token("word", text, spaced)]
    return [Token("letter", letter, spaced and i == 0) for i, letter in enumerate(text)]


def _is_value(tokens: Sequence[Token]) -> bool:
    """Whether there is no variable in the last expression, so that what follows is no product of variables."""
    for token in reversed(tokens):
        if token.kind in ("relation", "separator"):
            break
        if token.kind == "letter" and token.text != "π":
            return False
    return True


_FUNCTION = re.compile("|".join(sorted(_FUNCTIONS, key=len, reverse=True)))


@lru_cache(maxsize=256)
def _functions_in(run: str) -> tuple[str, ...]:
    """The letters and functions of a run such as "xsinx"; () where it is no such run."""
    if len(run) > 24:
        return ()
    parts: list[str] = []
    position = 0
    for match in _FUNCTION.finditer(run):
        between = run[position : match.start()]
        if len(between) > 2 - bool(not parts):
            return ()
        parts += [*between, match.group()]
        position = match.end()
    rest = run[position:]
    if not parts or (len(rest) > 2 and rest not in _ASCII_NAMES):
        return ()
    return (*parts, *([rest] if rest in _ASCII_NAMES else rest))


_CLOSING: Final = {"(": ")]", "[": ")]", "{": "}", r"\{": (r"\}",), r"\lfloor": (r"\rfloor",), r"\lceil": (r"\rceil",)}
_CLOSERS: Final = frozenset({")", "]", "}", r"\}", r"\rfloor", r"\rceil"})


def matches(tokens: Sequence[Token]) -> dict[int, int]:
    """Where each bracket closes; -1 is a key where one does not. A round one may close a square one: (0,1]."""
    found: dict[int, int] = {}
    stack: list[int] = []
    for i, token in enumerate(tokens):
        if token.kind == "begin" or token.text in _CLOSING:
            stack.append(i)
        elif token.kind == "end" or token.text in _CLOSERS:
            opening = tokens[stack[-1]] if stack else None
            if opening is None or not (
                opening.text == token.text if token.kind == "end" else token.text in _CLOSING.get(opening.text, "")
            ):
                return {**found, -1: i}
            found[stack.pop()] = i
    return {**found, -1: stack[0]} if stack else found


def key_of(tokens: Sequence[Token]) -> str:
    """One spelling for all that say the same: no spaces, but before a number that would join another."""
    parts: list[str] = []
    before = ""
    for token in tokens:
        if token.kind == "number" and before in ("number", "}"):
            parts.append(" ")
        text = token.text if token.kind != "word" else token.text.replace(" ", "")
        if token.kind in ("begin", "end", "function"):
            text = f"\\{text} "
        elif token.kind == "separator":
            text = {"and": ",", "or": ","}.get(text, text)
        parts.append(text)
        before = token.kind if token.kind == "number" else token.text
    return "".join(parts)
