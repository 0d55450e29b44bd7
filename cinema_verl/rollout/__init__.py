"""The rollout engine of transformers alone, and the same generation behind an OpenAI-compatible endpoint."""

from typing import NoReturn

_NOW_IN_ENGINE = ("ServerAdapter", "TransformersReplica", "TransformersServer", "server_name")


def __getattr__(name: str) -> NoReturn:
    # This package was a module once. An AttributeError would lose its text in `from cinema_verl.rollout import name`.
    if name in _NOW_IN_ENGINE:
        raise ImportError(f"cinema_verl.rollout.{name} has moved: it is cinema_verl.rollout.engine.{name} now")
    raise AttributeError(f"module 'cinema_verl.rollout' has no attribute {name!r}")
