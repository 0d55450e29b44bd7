"""Multiple choice, one letter.

The answer must name exactly one option. It may be the letter in either case and any wrapping ("(b)",
"Option B", "\\boxed{B}"); the text of an option, which counts as its letter; the letter with its text or a
remark ("B. the red car"); or a sentence that concludes with one capital letter ("A man walks, so C", "The
answer is C because ..."). A text that is both a letter and another option's text is read as the letter.
Prose counts only when it names one letter, no other option's text, and neither alternatives, doubt nor
denial: "A or B", "B, C", "could be B", "not B" are wrong. "A" and "I" followed by a lower-case word are an
article and a pronoun. Gold and answer are read alike; a gold that is no option's letter or text, or the
text of two options, abstains.
"""

import re
from functools import lru_cache
from string import ascii_uppercase
from typing import Final

from cinema_verl.verify.reading import fold, hedges, peel, words
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict

_LABEL = re.compile(r"[(\[]?([A-Za-z])(?:\s*[.:)\],]\s*|\s+-\s+|\n\s*)(?=\S)", re.ASCII)
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
_TOKEN = re.compile(r"\w+")


class Options:
    """The choices of one question: which letters exist and which text belongs to which."""

    def __init__(self, options: tuple[str, ...]) -> None:
        texts = [fold(option) for option in options]
        labels = [_LABEL.match(text) for text in texts]
        if texts and all(m and m[1].upper() == ascii_uppercase[i % 26] for i, m in enumerate(labels)):
            texts = [text[m.end() :] for text, m in zip(texts, labels, strict=True) if m]
        self.letters: Final = ascii_uppercase[: len(texts)] if texts else ascii_uppercase
        self._texts: Final = tuple(words(peel(text)) for text in texts)
        # Scripts without spaces have no words to be whole.
        self._in_prose: Final = [
            (text, _spaced(text) if text.isascii() else "") for text in self._texts if len(text) > 1
        ]
        self._letter_of: Final[dict[str, str | None]] = {}
        for letter, text in zip(self.letters, self._texts, strict=False):
            if not text:
                continue
            # Two options with one text: the text names neither.
            self._letter_of[text] = None if text in self._letter_of else letter

    def by_text(self, text: str) -> str | None:
        """The letter of the one option with this text (peeled)."""
        return self._letter_of.get(words(text)) if self._letter_of else None

    def names_another(self, letter: str, prose: str) -> bool:
        """Whether ``prose`` holds, as whole words, the text of an option other than ``letter``'s.

        Texts of one character are left to the rule for letters.
        """
        if not self._in_prose:
            return False
        prose, own = words(prose), self._texts[ord(letter) - ord("A")]
        prose = prose.replace(own, " ") if own else prose
        tokens = _spaced(prose)
        return any((spaced or text) in (tokens if spaced else prose) for text, spaced in self._in_prose if text != own)


def _spaced(text: str) -> str:
    """The words of a text between single spaces, so that ``in`` compares whole words."""
    return f" {' '.join(_TOKEN.findall(text))} "


@lru_cache(maxsize=1024)  # one question is asked of a whole group, and of every epoch
def options_of(options: tuple[str, ...]) -> Options:
    return Options(options)


def read_exact(text: str, options: Options) -> str | None:
    """The letter that peeled text is: a bare letter, an option's text, or a letter labelled with its own
    text."""
    if len(text) == 1 and text.upper() in options.letters:
        return text.upper()
    by_text = options.by_text(text)
    if by_text:
        return by_text
    label = _LABEL.match(text)
    if label:
        letter = label[1].upper()
        if letter in options.letters and options.by_text(peel(text[label.end() :])) == letter:
            return letter
    return None


def read_prose(text: str, options: Options) -> str | None:
    """The letter that a sentence, or a letter with a remark, comes down to; None unless it is exactly one."""
    mentions: set[str] = {m.upper() for m in _MENTION.findall(text)}
    if len(mentions) != 1 or hedges(text):
        return None
    (letter,) = mentions
    stated = [m["letter"] for m in _CONCLUSION.finditer(text)]
    if label := _LABEL.match(text):
        stated.append(label[1])
    if letter not in options.letters or letter not in stated or options.names_another(letter, text):
        return None
    return letter


def read(text: str, options: Options) -> str | None:
    """The one letter that text means, or None."""
    text = peel(fold(text))
    return read_exact(text, options) or read_prose(text, options)


def check(answer: str, gold: Gold) -> Verdict:
    options = options_of(gold.options)
    expected = read(gold.text, options)
    if expected is None:
        return ABSTAIN
    found = read(answer, options)
    if found is None:
        return UNREADABLE
    return RIGHT if found == expected else DIFFERENT
