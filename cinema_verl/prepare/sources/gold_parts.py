"""Whether a gold is one answer: alternatives of one, numbers of statements, or the answers of several blanks."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from typing import Final

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.sources.gold_spelling import closed
from cinema_verl.verify import number, verify
from cinema_verl.verify.reading import fold

MAX_STATEMENT: Final = 20  # the last circled number of Unicode's first block

# --- Alternatives ---------------------------------------------------------------------------------------------------

_HASHES = re.compile(r"\\?#\s?\\?#")
_SLASH = re.compile(r"(?<=[\s$])/|/(?=[\s$])")
_IN_BRACKETS = re.compile(r"([^()]+[^()\s])\s?[(（]([^()（）]+)[)）]")  # 3/4 (0.75)
_OR = re.compile(r"(.+?)\s?(?:\bor\b|或)\s?(.+)")
_EQUALS = re.compile(r"([^=]*\d[^=]*)=([^=]*\d[^=]*)")  # of numbers: 3+4=7 says 7
_PAIRS: Final = (_IN_BRACKETS, _OR, _EQUALS)
_WORDS = re.compile(r"[^\W\d_][^\W\d_ '\-]*(?: [^\W\d_'\-]+)*")
_QUOTED_LIST = re.compile(r"\[\s*['\"].*['\"\]]", re.DOTALL)
_BETWEEN_QUOTES = re.compile(r"['\"]\s*,\s*['\"]")


def as_list(text: str) -> list[str] | None:
    """The items of a list that was written as text (``['cat', 'tabby']``), or None."""
    if not (text.startswith("[") and text.endswith("]") and len(text) < 10_000):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return [str(item) for item in value] if isinstance(value, list) else None


def alternatives(text: str) -> list[str] | None:
    """The ways to write one answer that a gold gives; None where it is only one.

    They are separated by ``##`` in any of its spellings, by " / ", "or" or "=" between two spellings of one value (3 /
    4 is a fraction: its sides differ), with the second in brackets ("3/4 (0.75)"), or are a list of quoted texts.

    Raises:
        Rejected: ``several_golds`` for words on both sides of " / ", which may be synonyms or two answers.
    """
    if _QUOTED_LIST.fullmatch(text):
        items = as_list(text)
        if items is None:  # a quotation mark was lost
            items = [item.strip(" '\"") for item in _BETWEEN_QUOTES.split(text.strip("[]"))]
        return [item for item in items if item.strip()]
    if _HASHES.search(text):
        marks_pair = text.count("$") % 2 == 0
        return [found for part in _HASHES.split(text) if (found := closed(part, was_cut=marks_pair))]
    for pair in filter(None, (style.fullmatch(text) for style in _PAIRS)):
        first, second = closed(pair[1]), closed(pair[2])
        if same_value(first, second) and (pair.re is not _EQUALS or number.read(fold(first))):
            return [first, second]
    slashes = [match.start() for match in _SLASH.finditer(text)]
    if len(slashes) != 1 or _depth(text[: slashes[0]]):
        return None
    left, right = closed(text[: slashes[0]]), closed(text[slashes[0] + 1 :])
    if not left or not right or left == right:
        return None
    if _WORDS.fullmatch(left) and _WORDS.fullmatch(right) and len(left) > 2 < len(right):
        raise Rejected("several_golds", f"{left!r} or {right!r}: one thing or two, no rule can tell")
    return [left, right] if same_value(left, right) else None


_APPROXIMATELY = re.compile(r"\\(?:approx|doteq|simeq)(?![A-Za-z])|≈")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]+")


def exact_and_rounded(text: str) -> tuple[str, str] | None:
    """The two ways to give one value in "5√2 ≈ 7.07"; None for anything else, as "x ≈ 7.07"."""
    parts = [closed(part) for part in _APPROXIMATELY.split(text)]
    if len(parts) != 2 or not _HAS_VALUE.search(parts[0]) or number.read(fold(parts[1])) is None:
        return None
    return None if _VARIABLE.search(re.sub(r"\\[A-Za-z]+", "", parts[0])) else (parts[0], parts[1])


def same_value(one: str, other: str) -> bool:
    """Whether two texts are one value by the rules of ``number`` and ``latex``."""
    quantities = number.read(fold(one)), number.read(fold(other))
    if quantities[0] is not None and quantities[1] is not None:
        return verify(one, other, "number") is True
    return verify(one, other, "latex") is True or verify(other, one, "latex") is True


# --- Statements -----------------------------------------------------------------------------------------------------

_AND: Final = r"(?:\s?(?:,|、|，|;|；|和|&|and)?\s?(?:(?<=[,，]\s)and\s?|(?<=,)and\s?)?)"
_CIRCLED = re.compile(rf"[①-⑳](?:{_AND}[①-⑳])+")
_BRACKETED = re.compile(rf"[(（]\d{{1,2}}[)）](?:{_AND}[(（]\d{{1,2}}[)）])+")
_STOPPED = re.compile(r"(?:\d[.．]\s?){2,}\d[.．]?|(?:\d[.．]\s?){3,}")
_LISTED = re.compile(r"\d(?:\s?[.．,，、;；]\s?(?:and\s)?\d|\sand\s\d)+[.．]?")
_ABOUT_STATEMENTS = re.compile(
    r"\b(?:statements?|conclusions?|propositions?|judge?ments?|assertions?|serial numbers?)\b|[①②]|正确的是|序号",
    re.IGNORECASE,
)


def statements(text: str, question: str = "") -> list[int]:
    """The numbers of the statements that hold: ①③, (1)(3), "1.3.4."; "1, 3" where the question is about statements."""
    ascending = _STOPPED.fullmatch(text) or (_ABOUT_STATEMENTS.search(question) and _LISTED.fullmatch(text))
    if not (ascending or _CIRCLED.fullmatch(text) or _BRACKETED.fullmatch(text)):
        return []
    found = [
        int(match[1]) if match[1] else ord(match[2]) - ord("①") + 1 for match in re.finditer(r"(\d+)|([①-⑳])", text)
    ]
    if len(set(found)) != len(found) or not all(1 <= item <= MAX_STATEMENT for item in found):
        return []
    return [] if ascending and found != sorted(found) else found


def circled(numbers: list[int]) -> str:
    return "".join(chr(ord("①") + item - 1) for item in numbers)


def spellings_of_statements(numbers: list[int]) -> tuple[str, ...]:
    """How people write them; the forms without commas are the verifier's."""
    bare, bracketed = [str(item) for item in numbers], [f"({item})" for item in numbers]
    found = [", ".join(bare), ",".join(bare), " ".join(bare), ".".join(bare) if len(bare) > 2 else "", "; ".join(bare)]
    for items in (bare, bracketed, [circled([item]) for item in numbers]):
        head = ", ".join(items[:-1])
        found += [f"{head} and {items[-1]}", f"{head}, and {items[-1]}"]
    return tuple(dict.fromkeys(filter(None, found)))


# --- Several blanks -------------------------------------------------------------------------------------------------

_BLOCK = re.compile(r"\$\$(?P<a>.+?)\$\$|\$(?P<b>[^$]+)\$|\\\((?P<c>.+?)\\\)|\\\[(?P<d>.+?)\\\]", re.DOTALL)
_GAP = re.compile(r"[\s,，、;；]*|\s*(?:and|or|和|或)\s*")
_NO_VALUE = re.compile(r"\s*(?:\^|°|\\circ|\\(?:mathrm|text|rm)\b|[/*+=<>]|\\(?:times|cdot|div)\b)")
_UNFINISHED = re.compile(r"[-+=<>*/^,]\s*$|\\(?:times|cdot|div|approx|angle|triangle)\s*$")
_HAS_VALUE = re.compile(r"\d|\\(?:pi|infty|sqrt|frac)|[π√∞=]")
_CONTINUED = re.compile(r"\s*(?:[=<>+*/&]|\\(?:times|cdot|div|le|ge|approx)\b)")
_SPACED_NUMBERS = re.compile(r"[-+]?\d+(?:\.\d+)?(?:/\d+)?(?:\s+[-+]?\d+(?:\.\d+)?(?:/\d+)?)+")
_FRACTIONS = re.compile(r"-?\\[dt]?frac\s?\{[^{}]*\}\s?\{[^{}]*\}(?:\s+-?\\[dt]?frac\s?\{[^{}]*\}\s?\{[^{}]*\})+")
_COMMA = re.compile(r"[,，、]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))|\{,\}|(?<=\d)\\,|\\[,;!:]")
_MATHS = re.compile(r"\\[A-Za-z]|[$√^]")
_DOMAIN = re.compile(r"\\in(?![a-z])|∈")
_BLANK = re.compile(r"_{2,}|(?:\\_){2,}|[(（]\s{2,}[)）]|▲|\\underline\s?\{\s*(?:\\q?quad\s*)*\}")
_ASKS_FOR_SET = re.compile(
    r"\b(?:all|solve|solutions?|roots?|zero(?:e?s)?|possible|factors|divisors)\b|所有|解方程|解集|的根|的解",
    re.IGNORECASE,
)
_LABELLED = re.compile(r"\s*[(（]?[1①][)）.].*,")


def several_blanks(text: str, question: str = "") -> bool:
    """Whether a gold answers several blanks by its layout: lines, formulas side by side, figures between spaces."""
    if "\\begin" in text:
        return False
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and any(_HAS_VALUE.search(line) for line in lines):
        return not any(_CONTINUED.match(line) for line in lines[1:]) and not any(
            _UNFINISHED.search(line) for line in lines[:-1]
        )
    if re.search(r"\\q?quad(?![A-Za-z])", text) and all(map(_HAS_VALUE.search, re.split(r"\\q?quad", text))):
        return True
    if _FRACTIONS.fullmatch(text):
        return True
    if _SPACED_NUMBERS.fullmatch(text):
        return number.read(fold(text)) is None or len(_BLANK.findall(question)) > 1
    blocks = list(_BLOCK.finditer(text))
    for one, other in pairwise(blocks):
        first, second = _inside(one), _inside(other)
        gap = text[one.end() : other.start()]
        if (
            _GAP.fullmatch(gap)
            and not _UNFINISHED.search(first)
            and not _NO_VALUE.match(second)
            and (gap.strip() or one["a"] or (_HAS_VALUE.search(first) and _HAS_VALUE.search(second)))
        ):
            return True
    return False


def _inside(block: re.Match[str]) -> str:
    return next(group for group in block.groups() if group)


def is_list(text: str, question: str = "") -> bool:
    """Whether a formula lists values that are not said to be one set: "8, 9", "parallelogram, $2\\sqrt{5}$".

    The verifier compares a list as a set, so that swapped blanks would be correct. That is right only where the
    question asks for all of something and has one blank.
    """
    parts = split_at_commas(text) if "\\begin" not in text else []
    if len(parts) < 2 or any(_DOMAIN.search(part) for part in parts):
        return False
    if _LABELLED.match(text) or any(part.strip(" $") in ("=", "<", ">", "") for part in parts):
        return True
    return not _ASKS_FOR_SET.search(question) or len(_BLANK.findall(question)) > 1


def has_formula_among_words(text: str) -> bool:
    """ "parallelogram, $2\\sqrt{5}$": items of which one is a formula and another words."""
    parts = split_at_commas(text) if "\\begin" not in text else []
    formulas = [bool(_MATHS.search(part)) for part in parts]
    return len(parts) > 1 and any(formulas) and not all(formulas)


def split_at_commas(text: str) -> list[str]:
    """At commas outside of brackets that group no digits."""
    masked = _THOUSANDS.sub(lambda match: "\0" * len(match[0]), text)
    cuts = [match.start() for match in _COMMA.finditer(masked) if not _depth(text[: match.start()])]
    return [text[start:stop] for start, stop in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]


def _depth(text: str) -> int:
    """How many brackets are open at the end of a text; an interval opens with one kind and closes with another."""
    return sum(text.count(opener) for opener in "([{（") - sum(text.count(closer) for closer in ")]}）")


def permutation(text: str) -> bool:
    """Whether a list of figures is an order of 1 to n that is not the natural one: "2, 1", "[3, 1, 2]"."""
    items = re.split(r"\s?[,，、]\s?|\s?>\s?|\s?(?:->|→)\s?", text.strip("[]() "))
    if len(items) < 2 or not all(item.isascii() and item.isdigit() for item in items):
        return False
    numbers = [int(item) for item in items]
    return sorted(numbers) == list(range(1, len(numbers) + 1)) and numbers != sorted(numbers)
