"""The sources that are known by name. One module each; `adapter` finds them.

A new one is a module here with an ``ADAPTER`` (`mmk12` is among the shortest), its name in `cinema_verl.data.sources`,
and a script in ``data_preprocess/``.
"""

from __future__ import annotations

from importlib import import_module

from cinema_verl.data.sources import NAMES
from cinema_verl.prepare.draft import Adapter


def adapter(name: str) -> Adapter:
    """The adapter of that name.

    Raises:
        KeyError: no such source; the message lists those there are.
    """
    if name not in NAMES:
        raise KeyError(f"no source is called {name!r}; there are {', '.join(NAMES)}")
    found: Adapter = import_module(f"{__name__}.{name}").ADAPTER
    return found
