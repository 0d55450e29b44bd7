"""The image conditions of a validation, and how a rollout's `data_source` names one.

The condition is appended to `data_source` (`digits/sum@blank`), by which verl groups the metrics of a validation: so it
reports the conditions apart.
"""

from functools import cache
from typing import Final

TRUE: Final = "true"
SHUFFLED: Final = "shuffled"  # another question's images
REORDERED: Final = "reordered"  # its own images, each in another place
BLANK: Final = "blank"  # grey of the same size
CONDITIONS: Final = (SHUFFLED, REORDERED, BLANK)

_SEPARATOR: Final = "@"


def source_under(data_source: str, condition: str) -> str:
    """The `data_source` of a row that is asked under a condition: `digits/sum@blank`."""
    return f"{data_source}{_SEPARATOR}{condition}"


@cache  # it is asked for every rollout, and sources are few
def split_source(data_source: str) -> tuple[str, str]:
    """A row's own `data_source` and the condition under which it is asked."""
    source, separator, condition = data_source.rpartition(_SEPARATOR)
    return (source, condition) if separator and condition in CONDITIONS else (data_source, TRUE)
