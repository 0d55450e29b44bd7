"""The names of the sources that are known: what one trains on, and the benchmarks that one evaluates on."""

from typing import Final

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
"""A module of `cinema_verl.prepare.sources` each, with an `Adapter` called ``ADAPTER``."""
