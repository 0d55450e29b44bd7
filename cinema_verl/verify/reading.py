"""From what a model writes to what it says: one spelling for all scripts' digits and signs, no wrapping.

Nothing here decides anything. Each step removes what cannot change the meaning of a final answer (``**B**``,
``\\boxed{B}``, "The answer is (B).") and leaves everything else in place, so that a hedge or a second
answer is still there when the type's rule asks for the whole text to be one answer.
"""

import re
import unicodedata
from typing import Final

# What NFKC leaves apart although readers do not: dashes and minus signs, quotation marks, CJK stop and comma.
_SAME_SIGN = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\ufe63", "-"),
        **dict.fromkeys("\u2018\u2019\u201b\u2032\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201f\u2033\u300c\u300d\u300e\u300f\u300a\u300b", '"'),
        **dict.fromkeys("\u3010\u3014", "["),
        **dict.fromkeys("\u3011\u3015", "]"),
        "\u3002": ".",
        "\uff61": ".",
        "\u3001": ",",
        "\u066b": ".",  # Arabic decimal separator
        "\u066c": ",",  # Arabic thousands separator
        "\u2236": ":",  # ratio
        "\u2044": "/",  # fraction slash, which NFKC puts into ½
        # Degree signs that NFKC would turn into the letter o and into a space with a ring.
        "\u00ba": "°",
        "\u02da": "°",
        # Numbers of statements, which NFKC would run together: ①③ is not 13.
        **{chr(ord("①") + i): f"({i + 1})" for i in range(20)},
    }
)
# A comma of Chinese and Japanese text separates: "10、100" is a list and not ten thousand one hundred. Only among
# full-width digits does a full-width comma group them.
_LIST_COMMA = re.compile(r"(?<=\d)\s?\u3001\s?(?=\d)|(?<=[0-9])\uff0c(?=[0-9])")
_RING_AFTER_NUMBER = re.compile("(?<=[0-9}])\\s?\\^?\\s?\u2218")
# NFKC would turn 10² into 102 and 1½ into 11/2.
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_VULGAR_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_DIGIT = re.compile(r"\d")
_SPACES = re.compile(r"\s+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def fold(text: str) -> str:
    """One spelling per character: NFKC, ASCII digits, signs and quotes; superscripts become ``^n``. Case
    stays.

    Runs of white space become one space, or one line break where they hold one. That also bounds the regular
    expressions that read folded text: no ``\\s*`` of theirs has more than one character to try.
    """
    if text.isascii():
        return text if text.isalnum() else _tidy(text)
    text = _SUPERSCRIPT.sub(lambda m: f"^{m.group()}" if len(m.group()) == 1 else f"^{{{m.group()}}}", text)
    text = _RING_AFTER_NUMBER.sub("°", _LIST_COMMA.sub(", ", text))
    text = _VULGAR_AFTER_DIGIT.sub(" ", text)
    # Signs come first as well: NFKC would decompose the double prime into two quotes.
    text = unicodedata.normalize("NFKC", text.translate(_SAME_SIGN)).translate(_SAME_SIGN)
    text = _INVISIBLE.sub("", text)
    return _tidy(_DIGIT.sub(lambda m: str(int(m.group())), text))


def _tidy(text: str) -> str:
    if "\n" not in text:
        return " ".join(text.split())
    return _SPACES.sub(lambda m: "\n" if "\n" in m.group() else " ", text).strip()


_PAIRS: Final = (
    ("**", "**"),
    ("__", "__"),
    ("$$", "$$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ("$", "$"),
    ('"', '"'),
    ("'", "'"),
    ("(", ")"),
    ("[", "]"),
    ("{", "}"),
)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|textsf|texttt|mbox|emph|underline|operatorname"
    r"|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|displaystyle|bf|rm|ce)\s*(?=\{)"
)
_LEAD_IN = re.compile(
    r"""(?P<mark>\*\*|__)?(?:
        (?:so|therefore|thus|hence|finally|\\therefore)\b[,:\s]*
      | ∴\s*
      | i\s+(?:would\s+)?(?:think|believe|choose|pick|select|say)\b(?:\s+that\b)?[,:\s]*
      | (?:it\s+is|it's)\b[,:\s]*
      | (?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)*(?:answer|option|choice|solution|result)\b\s*
        (?:(?:is|should\s+be|would\s+be)\b\s*)?[:：=]?\s*
      | (?:所以|因此|故)[,:\s]*
      | (?:我)?(?:认为|觉得)[,:\s]*
      | \[?(?:(?:最终|正确)的?)?(?:答案|选项)\]?\s*(?:应该是|应为|应是|是|为|选)?\s*[:：=]?\s*
      | (?:我|应)?(?:选择|选)\s*[:：=]?\s*
    )(?(mark)\s*(?P=mark)[:\s]*)""",
    re.IGNORECASE | re.VERBOSE,
)
_LEADS: Final = frozenset("sthfimcraobSTHFIMCRAOB*_\\∴所因故我认觉最正答选应[")  # what a lead-in begins with
# No "!" (5! is not 5) and no "?" (a question is no answer).
_CLOSERS: Final = ".,;:\n "
_OPENERS: Final = frozenset(left[0] for left, _ in _PAIRS)
_MAX_LAYERS: Final = 12  # our choice: real answers wear three or four layers; a bound keeps the work linear


def peel(text: str, *, brackets: bool = True) -> str:
    """Take off what wraps a final answer: emphasis, math delimiters, brackets, quotes, lead-ins, a closing stop.

    Takes folded text. ``brackets=False`` leaves (), [] and {} on, for expressions in which they mean something:
    (0, 1) is not [0, 1]. At most ``_MAX_LAYERS`` layers; what is deeper stays, and then reads as nothing.
    """
    for _ in range(_MAX_LAYERS):
        if text.isascii() and text.isalnum():
            return text
        before = text
        text = _unwrap(text.strip(), brackets)
        text = text.rstrip(_CLOSERS)
        lead_in = _LEAD_IN.match(text) if text[:1] in _LEADS else None
        if lead_in and lead_in.end() < len(text):
            text = text[lead_in.end() :]
        if text == before:
            break
    return text


def peel_both(text: str) -> tuple[str, str]:
    """Folded text peeled with its outer brackets left on, and peeled of them too."""
    as_written = peel(text, brackets=False)
    closed = as_written.endswith(_BRACKETS.get(as_written[:1], " "))
    return as_written, peel(as_written) if closed else as_written


_MATH = re.compile(r"(?<!\\)\$\$?([^$]*[^$\\])\$\$?|\\\(((?:(?!\\[()]).)+)\\\)")


def without_math_marks(text: str) -> str:
    """Folded text without the delimiters around parts of it: "$12$ cm" says 12 cm. A dollar alone is money."""
    return _MATH.sub(lambda match: match[1] or match[2], text) if "$" in text or "\\(" in text else text


def _unwrap(text: str, brackets: bool) -> str:
    if text[:1] not in _OPENERS:
        return text
    command = _COMMAND.match(text)
    if command and _closes_at_end(text, command.end()):
        return text[command.end() + 1 : -1].strip()
    for left, right in _PAIRS:
        if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
            inner = text[len(left) : -len(right)]
            # One pair around everything, not two neighbours: "(A) or (B)", "**A** or **B**".
            if left in "([{":
                if not brackets or not _closes_at_end(text, 0):
                    continue
            elif left in inner or right in inner:
                continue
            return inner.strip()
    return text


_BRACKETS: Final = {"(": ")", "[": "]", "{": "}"}


def _closes_at_end(text: str, start: int) -> bool:
    """Whether the bracket at ``start`` is closed by the last character of ``text`` and by no earlier one."""
    left, right = text[start], _BRACKETS[text[start]]
    if not text.endswith(right):
        return False
    depth = 0
    for i in range(start, len(text)):
        if text[i] == left:
            depth += 1
        elif text[i] == right:
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False


_LOOKS: Final = (
    # A comma that is drawn tight to what follows groups digits; any other space after it separates items.
    (re.compile(r",\s?(?:\\!\s?)+"), ","),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lmr]?|displaystyle|limits)(?![A-Za-z])\s?"), ""),
    (re.compile(r"\\(?:[,;:> ]|(?:q?quad|(?:thin|med|thick|en)?space|nobreakspace)(?![A-Za-z]))|~"), " "),
    (re.compile(r"\\(?:[dtc]frac|nicefrac|sfrac)(?![A-Za-z])"), r"\\frac"),
    (
        re.compile(
            r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|bb)|mbox|operatorname|rm|bf|ce)\s?\{((?:[^{}]|\{[^{}]*\})*)\}"
        ),
        r" \1 ",
    ),
    (re.compile(r"\\f?boxed\s?\{((?:[^{}]|\{[^{}]*\})*)\}(?!.*\\f?boxed)", re.DOTALL), r" \1 "),
    (re.compile(r"\{\s?\\(?:rm|bf|it)\s([^{}]*)\}"), r" \1 "),
    (re.compile(r"\s?\^\s?(?:\{\s?(?:\\circ|°|o)\s?\}|\\circ(?![A-Za-z])|°|o(?![A-Za-z0-9]))"), "°"),
    (re.compile(r"\\(?:text)?degree(?![A-Za-z])"), "°"),
    (re.compile(r"\^\s?(?:\\prime(?![A-Za-z])|\{\s?\\prime\s?\})"), "'"),
    (re.compile(r"\^\s?\{\s?\\prime\s?\\prime\s?\}"), "''"),
    (re.compile(r"\\(?:text)?celsius(?![A-Za-z])"), "°C"),
    (re.compile(r"\\(?:times|ast)(?![A-Za-z])\s?"), "×"),
    (re.compile(r"\\(?:cdot|bullet)(?![A-Za-z])\s?|[⋅∙•∗]"), "·"),
    (re.compile(r"\\(?:approx|simeq|doteq)(?![A-Za-z])\s?"), "≈"),
    (re.compile(r"\\(?:angle|measuredangle)(?![A-Za-z])\s?"), "∠"),
    (re.compile(r"\\triangle(?![A-Za-z])\s?|∆"), "△"),
    (re.compile(r"\\mu(?![A-Za-z])\s?"), "μ"),
    (re.compile(r"\\(?:Omega|ohm)(?![A-Za-z])"), "Ω"),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])\s?"), "£"),
    (re.compile(r"\\(?:text)?(?:euro)(?![A-Za-z])\s?"), "€"),
    (re.compile(r"\\(?:text)?yen(?![A-Za-z])\s?"), "¥"),
    (re.compile(r"\\(?:text)?cent(?![A-Za-z])\s?"), "¢"),
    (re.compile(r"\\([$%&#_])"), r"\1"),
    (re.compile(r"(?:\\\\\s?)+$"), ""),
)
_HAS_LOOKS = re.compile(r"[\\~^⋅∙•∗∆]|\{,\}")


def without_looks(text: str) -> str:
    """Folded text without what LaTeX does for looks only, and with signs for the commands that name them.

    ``9.8 \\mathrm{~m}`` says 9.8 m, ``\\left(1\\right)`` says (1), ``71^o`` says 71°, ``11,\\! 111`` says 11,111; the
    thin space of ``10,\\,100`` stays a space, because that is a list.
    """
    if not _HAS_LOOKS.search(text):
        return text
    for pattern, replacement in _LOOKS:
        text = pattern.sub(replacement, text)
    return _tidy(text)


_STATEMENTS = re.compile(r"\(\d{1,2}\)(?:\s?(?:,|;|和|and|&)?\s?\(\d{1,2}\))*")


def statements(text: str) -> str:
    """ "(1)(3)" for folded text that names statements by number, as in ①③; "" for what does not."""
    return "".join(re.findall(r"\(\d+\)", text)) if text[:1] == "(" and _STATEMENTS.fullmatch(text) else ""


# What an answer may say that its value belongs to: x, BF, ∠ABC, a_n, f(2), |AB|, S_{△ABC}, cos B, AB:BC, (p, q), Area.
_MAX_NAME: Final = 60  # our choice: "The total surface area of the solid figure" has 42
_NAME_MARKS = re.compile(
    r"\\(?:overline|overrightarrow|vec|widehat|hat|bar|tilde|odot|operatorname|mathbf|mathit|mathcal|bm)(?![A-Za-z])"
)
_NUMBERED_ANGLE = re.compile(r"(?:∠|\\angle)\s?(\d{1,2})(?!\d)")
_NAME_FRACTION = re.compile(r"\\frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_SUBSCRIPT = re.compile(r"_\s?(?:\{([^{}]*)\}|(\w))|(?<=[A-Za-z])(\d{1,2})(?!\d)")
_ARGUMENT = re.compile(r"(?<=[A-Za-z'])\s?\(([^()=]*)\)")
_EVENT = re.compile(r"P\s?\([^()]{1,40}\)(?=\s?(?:[=≈]|$))")  # P(X=2)
_TUPLE_OF_NAMES = re.compile(r"\(\s?[^\W\d_]'?(?:\s?,\s?[^\W\d_]'?)+\s?\)")
_NAME = re.compile(r"(?![+\-:/])(?=[^A-Za-z\u0370-\u9fff]*[A-Za-z\u0370-\u9fff])(?:[∠△⊙|'\\ +\-:/]|[^\W\d_])+")
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|log|ln|lim|max|min)(?![a-z])")
_RELATION = re.compile(r"[=≈<>≠≤≥]")
_DENIES = re.compile(r"\b(?:no|none|never|nothing|nobody|without|false|than|untrue)\b|[不非没未无否]")
# Before a value, so that "it is not so" says nothing.
_SAYS = re.compile(
    r"(?:\s(?:is|are|equals)\s(?:about\s|approximately\s|equal\sto\s)?|:\s|(?<![不没非未])(?:约?[为是]|等于))(?=\s?[-+$\\√\d]|\s?[(\[]\s?[-+\\√\d])"
)
_PROSE = re.compile(r"[A-Za-z][a-z]{3}|[A-Za-z]{2,} [A-Za-z]{2}|[\u3400-\u9fff]")


def named(text: str) -> tuple[str, str]:
    """Split "BF = 4.2" into what it is the value of, and the value; ("", text) where there is no such name.

    Takes folded text. A name has no figures but as an index or an argument, so that a sum ("2+2=4") or an equation
    ("2x=10") is none; it holds no doubt or denial; and there is one relation sign in all, because a chain is not one
    answer. A leading "=" or "≈" names nothing and is taken off.
    """
    text = colon_as_equals(text)
    event = _EVENT.match(text)
    relation = _RELATION.search(text, event.end() if event else 0)
    if not relation:
        return described(text)
    if relation.group() not in "=≈" or relation.start() > _MAX_NAME:
        return "", text
    left, right = text[: relation.start()].removesuffix(":").strip(), text[relation.end() :].strip()
    if not right or _RELATION.search(right):
        return "", text
    if not left:
        return "", right
    name = _name(left)
    return (name, right) if name else ("", text)


def colon_as_equals(text: str) -> str:
    """ "BF: 4.2" as "BF = 4.2". A letter alone before a colon is a label, or a part of a ratio."""
    colon = _SAYS.search(text)
    if not colon or text[colon.start()] != ":" or colon.start() > _MAX_NAME or _RELATION.search(text):
        return text
    left = text[: colon.start()].strip()
    if (
        len(left) < 2
        or ":" in left
        or _SAYS.search(text, colon.end())
        or _DENIES.search(left)
        or _name(left)[:1] in ("", " ")
    ):
        return text
    return f"{left} = {text[colon.end() :].strip()}"


def described(text: str) -> tuple[str, str]:
    """Split "The area is 12" and 面积为12 like :func:`named`: words without figures that say one thing, and a value."""
    verb = _SAYS.search(text)
    if not verb or verb.start() > _MAX_NAME or _SAYS.search(text, verb.end()):
        return "", text
    name = _name(text[: verb.start()].strip())
    if name[:1] != " " or _DENIES.search(name):
        return "", text
    return name, text[verb.end() :].strip()


def _name(text: str) -> str:
    """One spelling of a name, or "" for what is none; a description in words ("total area") begins with a space."""
    if hedges(text):
        return ""
    text = _NUMBERED_ANGLE.sub(r"∠a_\1", text)
    text = _NAME_FRACTION.sub(r"\1/\2", without_looks(_NAME_MARKS.sub("", text)))
    if _TUPLE_OF_NAMES.fullmatch(text) or _EVENT.fullmatch(text):
        return text.replace(" ", "")
    bare = _ARGUMENT.sub("", _SUBSCRIPT.sub("", text)).replace("{", "").replace("}", "").strip()
    if not _NAME.fullmatch(bare) or "sqrt" in bare:
        return ""
    if _PROSE.search(bare) and "\\" not in bare and not _FUNCTION.match(bare):
        return f" {words(bare)}"
    text = re.sub(r"[{}_\s|\\]", "", text)
    return "".join(_letter(char) for char in text.removeprefix("m∠").removeprefix("∠"))


def _letter(char: str) -> str:
    """Greek letters as LaTeX writes them: α is alpha."""
    if char.isascii() or not "\u0391" <= char <= "\u03c9":
        return char
    name = unicodedata.name(char).rpartition(" ")[2]
    return name.capitalize() if char.isupper() else name.lower()


def same_name(one: str, other: str) -> bool:
    """Whether two names (see :func:`named`) may be the same thing: x is not y, BA is AB, and a description ("area") may
    be the description or the symbol of the same thing. What has no name may be anything."""
    if not one or not other or one == other or (one.isupper() and one == other[::-1]):
        return True
    if one[0] == other[0] == " ":
        first, second = set(one.split()), set(other.split())
        return first <= second or second <= first
    return one[0] == " " or other[0] == " "


_ARTICLE = re.compile(
    r"(?:an?|the) (?!(?:and|or|to) )(?=[^\W\d_])"
)  # before a figure, or on a line of its own, A is a label


def words(text: str) -> str:
    """Folded text for comparison as words: case folded, on one line, no leading article."""
    text = text.casefold().strip()
    article = _ARTICLE.match(text)
    return (text[article.end() :] if article else text).replace("\n", " ")


_PICTURES = "(?:image|picture|pic|photo|photograph|frame|figure|scene|panel|view|video|clip|diagram|graph|chart|map)s"
_HEDGE = re.compile(
    rf"""\b(?:or|either|neither|nor|maybe|perhaps|possibly|probably|could|might|may|unsure|uncertain|unclear|unknown
        |(?:both|between)(?!\s(?:of\s)?(?:the\s|these\s)?(?:two\s|both\s)?{_PICTURES}\b)|not|cannot|don't|isn't|wrong|incorrect|except|unless|if)\b
        |n't\b|[?]|或|可能|也许|不是|不确定|不知道|大概|要么""",
    re.IGNORECASE | re.VERBOSE,
)


def hedges(text: str) -> bool:
    """Whether folded text offers alternatives, doubts or denies, so that no single answer can be read out
    of prose."""
    return _HEDGE.search(text) is not None
