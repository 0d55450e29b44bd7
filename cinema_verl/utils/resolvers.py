"""OmegaConf resolvers that recipes may use."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

PACKAGE = Path(__file__).parents[1]

_MOVED = MappingProxyType({"cpu/digits_cold_start": "demo/digits_cold_start"})


def package_path(relative: str) -> str:
    """`${cinema_package:demo/digits_cold_start}`: absolute path of a file or folder that ships in this package.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = PACKAGE / relative
    if not path.exists():
        moved = f"; it has moved: ${{cinema_package:{_MOVED[relative]}}}" if relative in _MOVED else ""
        raise FileNotFoundError(f"cinema-verl ships no {relative} (looked at {path}){moved}")
    return str(path)


def total(*numbers: int) -> int:
    """`${cinema_sum:${data.max_prompt_length},${data.max_response_length}}`: the sum of whole numbers."""
    return sum(int(number) for number in numbers)


def first_stage(stages: Any) -> int:
    """`${cinema_first_stage:${cinema.stages}}`: steps of the first stage that has some; 0 if none has."""
    found = stages.values() if OmegaConf.is_dict(stages) else ()
    steps = (stage.get("steps") for stage in found if OmegaConf.is_dict(stage))
    return next((each for each in steps if isinstance(each, int) and each > 0), 0)


# A process may import this twice under Ray's module shipping; the same function registered again is no conflict.
OmegaConf.register_new_resolver("cinema_package", package_path, replace=True)
OmegaConf.register_new_resolver("cinema_sum", total, replace=True)
OmegaConf.register_new_resolver("cinema_first_stage", first_stage, replace=True)
