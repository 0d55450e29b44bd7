"""The sources that are known by name, one module each; `adapter` finds them.

To add one to this package, write a module here with an ``ADAPTER`` (`mmk12` is among the shortest) and a line in
`cinema_verl.data.sources.SHIPPED`. A package of your own registers its adapter as an entry point; see there.
"""

from __future__ import annotations

from importlib import import_module

from cinema_verl.data import sources
from cinema_verl.prepare.draft import Adapter


def adapter(name: str) -> Adapter:
    """The adapter of a source.

    Raises:
        KeyError: No source has this name; the message lists those that exist.
        ExtensionError: An installed package offers a source that cannot be used.
    """
    if name in sources.SHIPPED:
        shipped: Adapter = import_module(f"{__name__}.{name}").ADAPTER
        return shipped
    installed = sources.installed()
    if name not in installed:
        raise KeyError(f"no source is called {name!r}; there are {', '.join(sources.names())}")
    found: Adapter = installed[name]
    return found
