"""The names of the sources that are known: what one trains on, and the benchmarks that one evaluates on.

Each shipped name is a module of `cinema_verl.prepare.sources`. Another installed package adds its own through the
entry-point group `cinema_verl.sources`: the name is the source's, the value is where its `Adapter` is.

    [project.entry-points."cinema_verl.sources"]
    harbour = "my_package.harbour:ADAPTER"
"""

from collections.abc import Mapping
from typing import Any, Final

from cinema_verl.utils.extensions import ExtensionError, load, named

GROUP: Final = "cinema_verl.sources"
TRAIN: Final = "train"
BENCHMARK: Final = "benchmark"

SHIPPED: Final[Mapping[str, str]] = {
    "m4_instruct": TRAIN,
    "mantis_instruct": TRAIN,
    "mmdu": TRAIN,
    "virl39k": TRAIN,
    "mm_eureka": TRAIN,
    "mmk12": TRAIN,
    "geometry3k": TRAIN,
    "mmr1": TRAIN,
    "openmmreasoner": TRAIN,
    "video_r1": TRAIN,
    "video_r1_cot": TRAIN,
    "videorft_cot": TRAIN,
    "videorft_rl": TRAIN,
    "llava_video_178k": TRAIN,
    "own": TRAIN,
    "rl_parquet": TRAIN,
    "muirbench": BENCHMARK,
    "mmiu": BENCHMARK,
    "mv_math": BENCHMARK,
    "emma": BENCHMARK,
    "mirb": BENCHMARK,
    "mvbench": BENCHMARK,
    "video_mme": BENCHMARK,
    "videommmu": BENCHMARK,
    "mathvista": BENCHMARK,
    "mathvision": BENCHMARK,
}
"""The sources of this package, in the order in which they are listed. A new one is a module and a line here."""


def installed() -> dict[str, Any]:
    """The adapters that other installed packages offer, by the name of the source.

    Raises:
        ExtensionError: One cannot be loaded, is not an adapter, or has a name that is taken.
    """
    found = load(GROUP)
    for name, adapter in found.items():
        if name in SHIPPED:
            raise ExtensionError(f"{named(GROUP, name)}: {name!r} ships with cinema-verl; use another name")
        if getattr(adapter, "name", None) != name or not isinstance(getattr(adapter, "benchmark", None), bool):
            raise ExtensionError(
                f"{named(GROUP, name)} is {adapter!r}; it must be a cinema_verl.prepare.draft.Adapter with "
                f"name={name!r}"
            )
    return dict(found)


def kinds() -> dict[str, str]:
    """Every known source and whether it is `TRAIN` or `BENCHMARK`: those shipped, then those installed.

    Raises:
        ExtensionError: See `installed`.
    """
    return {**SHIPPED, **{name: BENCHMARK if found.benchmark else TRAIN for name, found in installed().items()}}


def names(kind: str | None = None) -> tuple[str, ...]:
    """The names of all known sources, or of those of one kind."""
    return tuple(name for name, found in kinds().items() if kind in (None, found))
