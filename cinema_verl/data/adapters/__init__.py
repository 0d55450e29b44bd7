"""The sources that are known by name. One module each; `adapter` finds them.

A new one is a module here with an ``ADAPTER`` (`mmk12` is among the shortest), its name in `SOURCES` or `BENCHMARKS`,
and a script in ``data_preprocess/``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

from cinema_verl.data.draft import Adapter

SOURCES: Final = (
    *(
        "m4_instruct",
        "mantis_instruct",
        "mmdu",
        "virl39k",
        "mm_eureka",
        "mmk12",
        "geometry3k",
        "mmr1",
        "openmmreasoner",
    ),
    *("video_r1", "video_r1_cot", "videorft_cot", "videorft_rl", "llava_video_178k", "own", "rl_parquet"),
)
"""What one trains on."""
BENCHMARKS: Final = (
    *("muirbench", "mmiu", "mv_math", "emma", "mirb", "mvbench", "video_mme", "videommmu", "mathvista", "mathvision"),
)
"""What one evaluates on, and decontaminates against."""
NAMES: Final = (*SOURCES, *BENCHMARKS)
"""A module of this package each, with an `Adapter` called ``ADAPTER``."""


def adapter(name: str) -> Adapter:
    """The adapter of that name.

    Raises:
        KeyError: no such source; the message lists those there are.
    """
    if name not in NAMES:
        raise KeyError(f"no source is called {name!r}; there are {', '.join(NAMES)}")
    found: Adapter = import_module(f"{__name__}.{name}").ADAPTER
    return found
