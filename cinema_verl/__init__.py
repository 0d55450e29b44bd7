"""CINEMA (arXiv 2601.07298) on verl: meta-action trajectories, their reward, and diversity-preserving RL.

What is named in `__all__` is the public API (docs/library.md). Each is imported when it is first asked for; none loads
torch. `verify` is the subpackage, which can be called: `verify(answer, gold, answer_type)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cinema_verl.diversity import group_rewards
    from cinema_verl.meta_action import parse
    from cinema_verl.reward import compute_score
    from cinema_verl.schedule import AnnealingSchedule
    from cinema_verl.verify import verify

__version__ = "0.1.0"

__all__ = ["AnnealingSchedule", "__version__", "compute_score", "group_rewards", "parse", "verify"]

_HOMES = {
    "AnnealingSchedule": "schedule",
    "compute_score": "reward",
    "group_rewards": "diversity",
    "parse": "meta_action",
}


def __getattr__(name: str) -> Any:
    if name == "verify":
        return import_module("cinema_verl.verify")
    if name in _HOMES:
        return getattr(import_module(f"cinema_verl.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
