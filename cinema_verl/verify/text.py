"""Free text with aliases.

Right is the gold or one of its aliases, word for word: after folding of scripts and case, with single
spaces and without wrapping or a leading article. Nothing is given for containing the gold, so that text
around it does not help. A gold that is empty abstains; empty aliases are ignored.
"""

from cinema_verl.verify.reading import fold, peel, words
from cinema_verl.verify.verdict import ABSTAIN, DIFFERENT, RIGHT, UNREADABLE, Gold, Verdict


def _readings(text: str) -> set[str]:
    """Folded text as it stands and peeled: a gold such as "(None)" or "Option" may be meant literally."""
    text = fold(text)
    return {reading for reading in (words(text), words(peel(text))) if reading}


def check(answer: str, gold: Gold) -> Verdict:
    expected = _readings(gold.text)
    if not expected:
        return ABSTAIN
    found = _readings(answer)
    if not found:
        return UNREADABLE
    if found & expected or any(found & _readings(alias) for alias in gold.aliases):
        return RIGHT
    return DIFFERENT
