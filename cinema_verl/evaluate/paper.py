"""The rows of the CINEMA paper's results that are known, to be shown beside ours.

They are from a third party's notes of arXiv 2601.07298, in percent. The paper's images, prompts and number of rollouts
are not public, so a difference from ours shows nothing by itself. Its "Overall" averages columns that are not known
and is left out.
"""

import re
from typing import Final

COLUMNS: Final = ("MUIR", "MMIU", "MV-Math", "EMMA", "MIRB", "MVBench", "VideoMME", "VideoMMMU")

ROWS: Final[dict[str, tuple[float | None, ...]]] = {
    "GPT-4o": (68.0, 55.7, 32.1, 32.7, None, None, 75.0, 61.2),
    "Qwen2.5-VL-7B": (57.9, 50.6, 26.7, 20.4, 48.3, 62.6, 56.7, 45.8),
    "CINEMA (DAPO)": (71.6, 53.3, 36.9, 29.3, 55.2, 66.5, 59.4, 49.0),
    "CINEMA (DPS + annealing)": (71.0, 52.2, 35.0, 28.6, 55.7, 66.8, 61.0, 50.1),
}

# Letters and digits of a data set's name -> the paper's column.
_SPELLINGS: Final = {"muirbench": "MUIR", **{re.sub(r"[^a-z0-9]", "", name.lower()): name for name in COLUMNS}}


def column_of(benchmark: str) -> str | None:
    """The paper's column for the benchmark part of a `data_source`; None if the paper has none."""
    return _SPELLINGS.get(re.sub(r"[^a-z0-9]", "", benchmark.lower()))
