"""What other installed packages add to CINEMA, found through their entry points.

A package offers an extension in its `pyproject.toml`, and every process that needs it finds it there, Ray workers
included:

    [project.entry-points."cinema_verl.estimators"]
    my_scheme = "my_package.schemes:my_scheme"
"""

from functools import cache
from importlib import metadata
from typing import Any


class ExtensionError(RuntimeError):
    """An installed extension cannot be used. Not an ImportError: verl takes those for "optional part absent"."""


@cache
def load(group: str) -> dict[str, Any]:
    """Load every entry point of a group, once in a process.

    Args:
        group: Name of the entry-point group, such as `cinema_verl.estimators`.

    Returns:
        The loaded objects by the names of their entry points. The dictionary is shared: do not change it.

    Raises:
        ExtensionError: An entry point cannot be loaded, or two distributions give one name to different objects.
    """
    found: dict[str, metadata.EntryPoint] = {}
    loaded: dict[str, Any] = {}
    for entry in metadata.entry_points(group=group):
        before = found.setdefault(entry.name, entry)
        if before.value != entry.value:
            raise ExtensionError(f"{_named(before)} and {_named(entry)} have the same name: uninstall one of the two")
        if entry.name in loaded:  # the same distribution, listed by two directories of sys.path
            continue
        try:
            loaded[entry.name] = entry.load()
        except Exception as error:
            raise ExtensionError(
                f"{_named(entry)} cannot be loaded: {type(error).__name__}: {error}. Repair or uninstall it"
            ) from error
    return loaded


def named(group: str, name: str) -> str:
    """An entry point in words, with its distribution: for messages about what `load` has loaded."""
    return _named(next(iter(metadata.entry_points(group=group, name=name))))


def _named(entry: metadata.EntryPoint) -> str:
    distribution = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown one"
    return f"the entry point {entry.name} = {entry.value!r} of distribution {distribution} (group {entry.group})"
