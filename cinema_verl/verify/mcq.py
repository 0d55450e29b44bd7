"""Multiple choice, one letter.

The answer must name exactly one option: by its letter in either case and any wrapping ("(b)", "c)", "Option B",
``\\boxed{B}``); by its text, or by its value in another spelling (``\\frac{1}{2}`` for 0.5, 60 for 60 cm, 3/2 for
3:2, ``5\\sqrt{5}-10`` for ``5(\\sqrt{5}-2)``: the rules of ``number`` and ``latex``), unless two options have that
value; by letter and text in either order ("B. the red car", "D (1.9)", "1.9 (D)"); or by a sentence that concludes with
one capital letter ("A man walks, so C", "The answer is C because ..."). A text that is both a letter and another
option's text is read as the letter.

Letter and text must agree. "B. 2.2" is incorrect where 2.2 is another option, and also where it is none and B is 1: an
answer that says two things is not rewarded for one of them, or a policy would be paid for reasoning that leads to
another result than its letter. So what stands behind a letter must be the option's own text or value, or a remark: a
sentence, or words that its text has; not a value or a few words that its text does not have.

Prose counts only when it names one letter, no other option's text or value, and neither alternatives, doubt nor denial:
"A or B", "B, C", "could be B", "not B" are incorrect. "A" and "I" followed by a lower-case word are an article and a
pronoun. Gold and answer are read alike; a gold that is no option's letter or text, or the text of two options,
abstains. Brackets around a list are of one kind with the option's: [1,2] is not (1,2).
"""

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from string import ascii_uppercase
from typing import Final

from cinema_verl.verify import latex, number, ordering, yesno
from cinema_verl.verify.number_words import read_words
from cinema_verl.verify.reading import (
    fold,
    hedges,
    named,
    peel,
    peel_both,
    same_name,
    statements,
    without_looks,
    without_math_marks,
    words,
)
from cinema_verl.verify.verdict import ABSTAIN, CONTRADICTORY, CORRECT, DIFFERENT, UNREADABLE, Gold, Verdict

# A letter before a text. Firm: marked as a label. Loose: by a space, or by brackets around the text.
_FIRM = re.compile(
    r"""\*{0,2}(?:
        [(\[<]\s?\*{0,2}(?P<bracketed>[A-Za-z])\*{0,2}\s?[)\]>]
      | (?P<letter>[A-Za-z])\*{0,2}(?:\s?(?:[.:),;|\]]|->|=>|→|\s-{1,2}\s|\n)|(?=[\u3400-\u9fff]{2}))
    )\*{0,2}[\s.:,;|]*(?:-{1,2}\s)?(?=[^\s.:,;|])""",
    re.ASCII | re.VERBOSE,
)
_LOOSE = re.compile(
    r"\*{0,2}([A-Za-z])\*{0,2}(?:\s?(?=[(\[])|,?\s(?:(?:which|that)\sis\s|i\.e\.,?\s|is\s|=\s)?(?=\S))", re.ASCII
)
_TAIL = re.compile(
    r"(?:(?:\s|(?<=[^\x00-\x7f]))[(\[]\s?(?:option\s)?([A-Za-z])\s?[)\]]|,?\s(?:option|choice)\s\(?([A-Za-z])\)?)$",
    re.ASCII | re.IGNORECASE,
)
_BARE = re.compile(r"[(\[<]?\s?([A-Za-z])\s?(?:[)\]>.:]?|选?项)", re.ASCII)
_LABEL = re.compile(r"[(\[]?([A-Za-z])(?:\s*[.:)\],]\s*|\s+-\s+|\n\s*)(?=\S)", re.ASCII)  # of an option
# A letter that stands alone, in either case, so that "B, c" is two letters; but no article, no pronoun, and
# no part of a word such as "T-shirt".
_MENTION = re.compile(
    r"""(?<![A-Za-z0-9'\-])(?:
        [AaIi](?!\s(?!(?:is|was|has|and|or|not|but|then|so|therefore|thus|hence|because|since|as
            |with|the|my|this|that|it|final|correct|answer|option|choice)\b)[a-z])
        |[B-HJ-Zb-hj-z]
    )(?![A-Za-z0-9'\-])""",
    re.VERBOSE,
)
# The words after which a letter is the conclusion, and what may follow it.
_CONCLUSION = re.compile(
    r"""(?:^|\b(?:is|be|so|therefore|thus|hence|answer|option|choice|choose|pick|select)\b|[:选是为])
    [\s:,(\[*$"'{]*(?P<letter>[A-Z])[)\]*$"'}]*
    (?:\s?[.,;:]?\s?$|\s?[.,;:]\s|\s(?:because|since|as|is\s(?:the\s)?(?:correct|right|best))\b)""",
    re.VERBOSE,
)
_MAX_WORDS: Final = 40  # our choice: numbers in words, "two hundred and five square meters"
_MAX_MENTIONS: Final = 100  # our choice: it bounds the work on prose that repeats itself
_FIGURES = r"-?\d+(?:[.,:/]\d+)*"
_TOKEN = re.compile(rf"(?<!\w){_FIGURES}|\w+")
_VALUE_IN_PROSE = re.compile(rf"\\[dt]?frac\{{\d+\}}\{{\d+\}}|(?<![\w.]){_FIGURES}")
_HEAD = re.compile(r"(?:[.;:]|,(?!\d))(?=\s)|\n|\s-{1,2}\s|\s(?=(?:because|since)\b)")
_RATIO = re.compile(r"(\d+(?:\.\d+)?)(?:\s?:\s?|\s(?:to)\s|比)(\d+(?:\.\d+)?)")
_AROUND_SIGNS = re.compile(r"\s?([,;:=+*/<>()\[\]{}|^]|-(?=\s?\d))\s?")
_JOINT = re.compile(r",?\s(?:and|&)\s")  # "I, II and III" is "I, II, III"
_ANGLED = re.compile(r"<\s?(image|img|figure|picture|video)\s?(\d{1,2})\s?>")
_JOINTS = re.compile(r"\b(?:and|or)\b")
_TWO_NUMBERS = re.compile(r"\d, \d{3}(?!\d)")
_MATHS = re.compile(r"[\\^+=√π∠°×·<>≤≥∞±]|\d|(?:sin|cos|tan|cot|log|ln)\s?[\dA-Zx-zα-ω(](?![a-z])")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!sqrt|(?:sin|cos|tan|cot|log)[^a-z])[^\W\d_]{4}")
# What a remark has and a text that should be an option's has not.
_REMARK = re.compile(
    r"\b(?:because|since|as|so|thus|therefore|hence|which|that|this|it|they|there|we|i|you|is|are|was|were|has|have|had|can"
    r"|shows?|shown|see|seen|seems?|looks?|correct|right|best|answer|option|choice|based|due|given|from|image|figure|by)\b"
    r"|因为|所以|由于|图|是|正确",
    re.IGNORECASE,
)
_IDLE: Final = frozenset(("a", "an", "the", "of", "in", "on", "at", "to", "and", "with", "for", "by", "side"))
_SUBJECT = re.compile(  # "It grows", "The color is red"
    r"(?:it|they|this|these|there)\s(?:(?:is|are|was|were)\s)?(?=\S)"
    r"|(?:the|its|their|his|her)\s(?:[a-z']+\s){1,6}(?:is|are|was|were)\s(?=\S)",
    re.IGNORECASE,
)
_MAX_NUMBERED: Final = 40  # characters of "the second photograph"
_MAX_VALUE: Final = 200  # our choice: longer texts are compared as texts
_MAX_CLAIM: Final = 4  # words; our choice: what is longer is a sentence
_MAX_HAN: Final = 12  # the same in Chinese characters


class Options:
    """The choices of one question: which letters exist, and which text and value belongs to which."""

    def __init__(self, options: tuple[str, ...]) -> None:
        texts = [fold(option) for option in options]
        labels = [_LABEL.match(text) for text in texts]
        if texts and all(m and m[1].upper() == ascii_uppercase[i % 26] for i, m in enumerate(labels)):
            texts = [text[m.end() :] for text, m in zip(texts, labels, strict=True) if m]
        self.letters: Final = ascii_uppercase[: len(texts)] if texts else ascii_uppercase
        self._as_written = as_written = [peel(text, brackets=False) for text in texts]
        texts = [peel(text) for text in texts]
        self.has_texts: Final = any(texts)
        self._verbatim: Final = _unique(as_written)
        self._texts: Final = [words(text) for text in texts]
        self._plain: Final = [_plain(text) for text in texts]
        self._letter_of: Final = _unique(self._texts)
        self._contents: Final = [_content(text) for text in self._plain]
        self._stems: Final = [
            [stem for stem in content if not stem.isdigit()] for content in self._contents if len(content) > 1
        ]
        # Pictures by their numbers: "Image 3" is the third image.
        numbers = [ordering.item(text) if len(text) <= _MAX_NUMBERED else "" for text in texts]
        numbers = [
            "" if text == number or not number.isdigit() else number
            for text, number in zip(texts, numbers, strict=True)
        ]
        self._numbered: Final = _unique(numbers) if any(numbers) else {}
        self._have_signs: Final = any(not text.replace(" ", "").isalnum() for text in texts if text)
        self._squeezed: Final = _unique([_squeeze(text) for text in self._plain])
        self._values: Final = [number.read(text) if len(text) <= _MAX_VALUE else None for text in texts]
        # Brackets mean something in an expression; what is a number is left to the rule for numbers.
        self._maths: Final = [
            text if is_maths(text) and not (value and value.is_plain) else ""
            for text, value in zip(as_written, self._values, strict=True)
        ]
        self.has_values: Final = any(self._values) or any(self._maths)
        # Scripts without spaces have no words to be whole.
        self._in_prose: Final = [
            (i, text, _TOKEN.findall(text) if text.isascii() else [])
            for i, text in enumerate(self._plain)
            if len(text) > 1
        ]

    def by_text(self, text: str, as_written: str) -> str | None:
        """The letter of the one option with this text: peeled, or else with its brackets; spaces around signs aside."""
        if not self.has_texts:
            return None
        letter = self._letter_of.get(words(text)) or self._verbatim.get(as_written)
        if not letter and (self._have_signs or "\\" in text or "$" in text or "<" in text):
            letter = self._squeezed.get(_squeeze(_plain(text)))
        if not letter and self._numbered:
            letter = self._numbered.get(ordering.item(text))
        if not letter and (subject := _SUBJECT.match(text)) and not hedges(subject[0]):
            letter = self._letter_of.get(words(text[subject.end() :]))
        if letter and "," in text:
            brackets = {_brackets(as_written), _brackets(self._as_written[ascii_uppercase.index(letter)])}
            return letter if len(brackets - {""}) < 2 else None  # [1,2] is not (1,2)
        return letter

    def by_value(self, text: str, as_written: str) -> str | None:
        """The letter of the one option with this value (peeled text): as a number, a ratio, or an expression."""
        if not self.has_values or len(text) > _MAX_VALUE or (not _MATHS.search(text) and len(text) > _MAX_WORDS):
            return None
        value, ratio = number.read(text), _ratio(text)
        if value is not None and (same := self._same_number(value)):
            return _only(same)
        if (value or ratio) and (same := [i for i in range(len(self._texts)) if self._same_ratio(i, value, ratio)]):
            return _only(same)
        return self._by_expression(as_written) if is_maths(text) and not (value and value.is_plain) else None

    def _same_number(self, value: number.Quantity) -> list[int]:
        """The options with this value, by the first of three measures that any of them meets: the same unit; a unit
        left out on one side; a noun left out by the answer (12 for "12 apples")."""
        numbers = [(i, own) for i, own in enumerate(self._values) if own and same_name(value.name, own.name)]
        return (
            [i for i, own in numbers if own.value == value.value and own.unit == value.unit]
            or [i for i, own in numbers if own.value in number.on_scale_of(own, value)]
            or [
                i
                for i, own in numbers
                if not value.unit and own.value == value.value and _WORD.search(own.unit) and "\\" not in own.unit
            ]
        )

    def _same_ratio(self, i: int, value: number.Quantity | None, ratio: Fraction | None) -> bool:
        """3/2 is 3:2; one side is written as a ratio."""
        own, own_ratio = self._values[i], _ratio(self._plain[i])
        if ratio is not None:
            return ratio == own_ratio or (own is not None and not own.unit and ratio == own.value)
        return value is not None and not value.unit and value.value == own_ratio

    def _by_expression(self, text: str) -> str | None:
        """By the rule of ``latex``, without what both are said to be the value of."""
        name, body = named(without_looks(text))
        same = []
        for i, own in enumerate(self._maths):
            own_name, own_body = named(without_looks(own))
            if not own or {*_JOINTS.findall(text), *_JOINTS.findall(own)} == {"and", "or"}:
                continue
            values = name != own_name and same_name(name, own_name) and latex.check(body, Gold(own_body)).correct
            if values or latex.check(text, Gold(own)).correct:
                same.append(i)
        return _only(same)

    def names_another(self, letter: str, prose: str) -> bool:
        """Whether ``prose`` names, in whole words or by value, an option other than ``letter``'s.

        Where texts overlap the longest counts: "quarter past" does not name "quarter". A number of one digit counts
        only where the option's own is not there: prose is full of small numbers.
        """
        if not self.has_texts:
            return False
        own, prose = ascii_uppercase.index(letter), _plain(prose)
        if any(self._plain[i] != self._plain[own] for i in self._named_in(prose)):
            return True
        if self._contents_named(own, prose):
            return True
        if not any(self._values):
            return False
        said = _VALUE_IN_PROSE.findall(prose)[:_MAX_MENTIONS]
        mentioned = {value for value in map(_figure, said) if value is not None}
        mine = self._values[own]
        others = {value.value for value in self._values if value} - ({mine.value} if mine else set())
        if mine and mine.value in mentioned:
            others = {value for value in others if abs(value) >= 10 or value.denominator > 1}
        return bool(mentioned & others)

    def _contents_named(self, own: int, prose: str) -> bool:
        """Whether prose has all words of another option's text, in any order, and not all of its own."""
        if not any(all(map(prose.__contains__, stems)) for stems in self._stems):
            return False  # as nearly always, and quick to see
        said, mine = _content(prose), self._contents[own]
        return not mine <= said and any(
            len(content) > 1 and content <= said and not content <= mine for content in self._contents
        )

    def _named_in(self, prose: str) -> list[int]:
        """The options whose texts stand in ``prose``, and there within no longer option's text."""
        if not any(not own or own[0] in prose for _, _, own in self._in_prose):
            return []
        tokens = list(_TOKEN.finditer(prose))
        joined = _spaced(match.group() for match in tokens)
        spans: list[tuple[int, int, int]] = []
        for i, text, own in self._in_prose:
            if not own:
                spans += [(match.start(), match.end(), i) for match in re.finditer(re.escape(text), prose)]
            elif _spaced(own) in joined:
                spans += [
                    (tokens[at].start(), tokens[at + len(own) - 1].end(), i)
                    for at in range(len(tokens) - len(own) + 1)
                    if tokens[at].group() == own[0] and [match.group() for match in tokens[at : at + len(own)]] == own
                ]
        spans = spans[:_MAX_MENTIONS]
        return [
            i for start, end, i in spans
            if not any(first <= start and end <= last and last - first > end - start for first, last, _ in spans)
        ]  # fmt: skip

    def without_own(self, letter: str, prose: str) -> str:
        """Prose without the option's own text inside: "The answer is C, May, ..." does not doubt; "May be C" does."""
        own = self._as_written[ascii_uppercase.index(letter)] if letter in self.letters and self._texts else ""
        return prose[:1] + prose[1:].replace(own, " ") if own else prose

    def claims_something_else(self, letter: str, text: str) -> bool:
        """Whether ``text`` behind a letter is a value or a few words that are not its option's, and no remark."""
        own = ascii_uppercase.index(letter)
        expected = self._plain[own]
        if self._numbered and len(text) <= _MAX_NUMBERED and ordering.item(text).isdigit():
            return True  # of a picture that is not this option
        if not expected or _REMARK.search(text):
            return False
        plain = _plain(text)
        value = self._values[own]
        if (value is None or not value.is_plain) and not self._maths[own]:
            if not text.isascii():
                return len(text) <= _MAX_HAN and plain not in expected and expected not in plain
            found, own_words = _content(plain), _content(expected)
            if found <= own_words or own_words <= found:
                return False
            if 0 < len(found) <= _MAX_CLAIM:
                return True
        said = number.read(text) if len(text) <= _MAX_VALUE else None
        return said is not None or is_maths(text) or len(_content(plain)) <= _MAX_CLAIM


def _figure(text: str) -> Fraction | int | None:
    """The value of figures in prose; most are integers, which need not be read as quantities."""
    if text.isascii() and text.isdigit():
        return int(text)
    value = number.read(text)
    return value.value if value else None


def _is_remark(text: str) -> bool:
    return bool(_REMARK.search(text)) or len(_content(text)) > _MAX_CLAIM


def _only(indices: list[int]) -> str | None:
    return ascii_uppercase[indices[0]] if len(indices) == 1 else None


def _unique(texts: Sequence[str]) -> dict[str, str | None]:
    """The letter of each text; two options with one text: the text names neither."""
    found: dict[str, str | None] = {}
    for letter, text in zip(ascii_uppercase, texts, strict=False):
        if text:
            found[text] = None if text in found else letter
    return found


def _plain(text: str) -> str:
    """Words without LaTeX's looks and math marks."""
    return words(without_looks(without_math_marks(text)))


def _squeeze(text: str) -> str:
    """Without spaces around signs: "P, Q" is "P,Q". A list of figures keeps them: "1, 200" is not 1,200."""
    if numbers := statements(text):
        return numbers
    if _TWO_NUMBERS.search(text):
        return text
    return _AROUND_SIGNS.sub(r"\1", _JOINT.sub(", ", _ANGLED.sub(r"\1 \2", text)))


def _brackets(text: str) -> str:
    """The brackets around text, which say whether "1,2" is a point, an interval or a set; "" for none."""
    text = without_looks(without_math_marks(text)).replace("\\", "")
    return text[0] + text[-1] if text[:1] in ("(", "[", "{") and text[-1] in ")]}" else ""


def _spaced(tokens: Iterable[str]) -> str:
    """Words between single spaces, so that ``in`` compares whole words."""
    return f" {' '.join(tokens)} "


def _content(text: str) -> frozenset[str]:
    """The words that say something, numbers in figures, and other words by their stem: "increases" is "increased"."""
    found = set()
    for token in _TOKEN.findall(text):
        if token not in _IDLE:
            value = read_words(token) if token.isalpha() else None
            found.add(str(value[0]) if value and not value[1] else token.rstrip("s")[:5])
    return frozenset(found)


def is_maths(text: str) -> bool:
    """Whether text is an expression and no words."""
    return len(text) <= _MAX_VALUE and bool(_MATHS.search(text)) and not _WORD.search(_plain(text))


def _ratio(text: str) -> Fraction | None:
    """3:2 as a quotient; None for what is none, and for the time 7:05."""
    match = _RATIO.fullmatch(text)
    if not match or (match[2].startswith("0") and not match[2].startswith("0.")):
        return None
    return Fraction(match[1]) / Fraction(match[2]) if Fraction(match[2]) else None


@lru_cache(maxsize=1024)  # one question is asked of a whole group, and of every epoch
def options_of(options: tuple[str, ...]) -> Options:
    return Options(options)


_DISAGREE: Final = "?"
"""What the readings below return for a letter and a text that disagree; no option has this letter."""


def read_exact(text: str, options: Options) -> str | None:
    """The letter that peeled text is and nothing more: a letter, an option's text or value, or a letter with them."""
    letter = _exact(text, text, options)
    return letter if letter != _DISAGREE else None


def _exact(text: str, as_written: str, options: Options) -> str | None:
    if len(text) == 1 and text.upper() in options.letters:
        return text.upper()
    if letter := options.by_text(text, as_written):
        return letter
    if len(text) <= 5 and (bare := _BARE.fullmatch(text)):
        return bare[1].upper() if bare[1].upper() in options.letters else None
    # What is marked as a label is one: "A: x = 3" is not the value of "A: x".
    letter = _labelled(text, options)
    if letter or not options.has_values:
        return letter
    if (firm := _FIRM.match(text)) and (firm["bracketed"] or firm["letter"]).upper() in options.letters:
        return None
    return options.by_value(text, as_written)


def _split(text: str, options: Options) -> tuple[str, str, bool] | None:
    """The letter, the text that it stands by, and whether it is marked as a label or only stands before a space."""
    if (firm := _FIRM.match(text)) and (letter := (firm["bracketed"] or firm["letter"]).upper()) in options.letters:
        return letter, text[firm.end() :], True
    if text[-1:] in ")]" or "tion" in text or "hoice" in text:
        tail = _TAIL.search(text)
        if tail and (letter := (tail[1] or tail[2]).upper()) in options.letters:
            return letter, text[: tail.start()], True
    if (loose := _LOOSE.match(text)) and (letter := loose[1].upper()) in options.letters:
        rest = text[loose.end() :]
        return letter, rest, rest[:1] in "(["
    return None


def _labelled(text: str, options: Options) -> str | None:
    """A letter and a text, in either order. `_DISAGREE` when they disagree; None when the text may be a remark."""
    if ("\\" in text or "$" in text) and _LABEL_IN_LATEX.match(text):
        text = peel(without_looks(without_math_marks(text)))
    split = _split(text, options)
    as_written, rest = peel_both(split[1]) if split else ("", "")
    if not split or not rest:
        return None
    letter, _, firm = split
    said = options.by_text(rest, as_written)
    if not said and rest[-2:-1] == " " and rest[-1] in (options.letters if options.has_texts else "ABCDE"):
        return None  # "B. 2 C" names two
    if not said and not _REASON.match(rest):
        said = options.by_value(rest, as_written) or (_read_remark(rest, options) if firm else None)
    if said == letter:
        return letter
    if said and (firm or not _WORD_OR_MORE.match(rest)):
        return _DISAGREE
    if not firm:
        return None  # "A man", "I see"
    if options.has_texts:
        return _DISAGREE if options.claims_something_else(letter, rest) else None
    return letter if _is_value(rest) else None


_REASON = re.compile(r"(?:as|because|since)\s", re.IGNORECASE)
_WORD_OR_MORE = re.compile(r"[a-z]{2}")
_LABEL_IN_LATEX = re.compile(r"\W{0,8}(?:\\[A-Za-z]{1,12}\s?\{)?\W{0,8}[A-Za-z]\W")


def _is_value(text: str) -> bool:
    """Whether text behind a letter is one quantity or expression, for questions whose options are not known."""
    quantity = number.read(text) if len(text) <= _MAX_VALUE else None
    if quantity is not None:
        return quantity.is_plain
    return is_maths(text) and not hedges(text) and not _OTHER_LABEL.search(text)


_OTHER_LABEL = re.compile(r"(?:^|[\s,;(\[])[A-Za-z]\s?[.):\]]|[,;/&|]\s?[(\[]?[A-Za-z][)\]]?\s?(?:$|[,;/&|])|\n")


def read_prose(text: str, options: Options) -> str | None:
    """The letter that a sentence, or a letter with a remark, comes down to; None unless it is exactly one."""
    mentions: set[str] = {m.upper() for m in _MENTION.findall(text)}
    if len(mentions) != 1:
        return None
    (letter,) = mentions
    if hedges(text) and hedges(options.without_own(letter, text)):
        return None
    stated = [m["letter"] for m in _CONCLUSION.finditer(text)]
    if label := _LABEL.match(text):
        stated.append(label[1])
    if letter not in options.letters or letter not in stated or options.names_another(letter, text):
        return None
    return letter


def _read_remark(text: str, options: Options) -> str | None:
    """The option whose text stands before a remark: "Yes, it is a diagram of it." """
    head = _HEAD.search(text) if options.has_texts else None
    if not head:
        return None
    remark = text[head.end() :].strip()
    said = peel(text[: head.start()])
    letter = options.by_text(said, said) or options.by_value(said, said)
    is_side = yesno.read(said) is not None and yesno.read(text) is not None  # "No, it is not."
    if not letter or not (is_side or (_is_remark(remark) and not hedges(remark))):
        return None
    if options.names_another(letter, remark):
        return None
    others = {m.upper() for m in _MENTION.findall(remark)} - {letter}
    return None if others or (said[-1:].isdigit() and remark[:1].isdigit()) else letter


def read(text: str, options: Options) -> str | None:
    """The one letter that text means, or None."""
    letter = _read(text, options)
    return letter if letter != _DISAGREE else None


@lru_cache(maxsize=1024)  # answers repeat within a group, and golds over an epoch
def _read(text: str, options: Options) -> str | None:
    as_written, text = peel_both(fold(text))
    return _exact(text, as_written, options) or read_prose(text, options) or _read_remark(text, options)


def check(answer: str, gold: Gold) -> Verdict:
    options = options_of(gold.options)
    expected = read(gold.text, options)
    if expected is None:
        return ABSTAIN
    found = _read(answer, options)
    if found == _DISAGREE:
        return CONTRADICTORY
    if found is None:
        return UNREADABLE
    return CORRECT if found == expected else DIFFERENT
