"""Over which images a question was asked, and how a rollout's `data_source` says so.

verl keeps one text beside each answer of a validation that tells answers apart: `data_source`. The condition is
appended to it (`digits/sum@blank`), so that verl, too, reports the conditions apart.
"""

from typing import Final

TRUE: Final = "true"
SHUFFLED: Final = "shuffled"  # another question's images
REORDERED: Final = "reordered"  # its own images, each in another place
BLANK: Final = "blank"  # grey of the same size
CONDITIONS: Final = (SHUFFLED, REORDERED, BLANK)

_SEPARATOR: Final = "@"  # between a row's data_source and its condition: verl then reports them apart


def source_under(data_source: str, condition: str) -> str:
    """The ``data_source`` of a row asked under a condition, ``digits/sum@blank``."""
    return f"{data_source}{_SEPARATOR}{condition}"


def split_source(data_source: str) -> tuple[str, str]:
    """A row's own ``data_source`` and the condition that it is asked under."""
    source, separator, condition = data_source.rpartition(_SEPARATOR)
    return (source, condition) if separator and condition in CONDITIONS else (data_source, TRUE)
