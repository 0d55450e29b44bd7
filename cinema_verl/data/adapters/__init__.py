"""The sources that are known by name. One module each; `ADAPTERS` finds them."""

from __future__ import annotations

from importlib import import_module
from typing import Final

from cinema_verl.data.draft import Adapter

NAMES: Final[tuple[str, ...]] = ()
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
