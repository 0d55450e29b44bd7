"""Names of a module that has become a package: importing them from there is an error that says where they are."""

from collections.abc import Callable, Collection
from typing import NoReturn


def moved_names(package: str, names: Collection[str], to: str) -> Callable[[str], NoReturn]:
    """A `__getattr__` for the package.

    Args:
        package: its dotted name.
        names: what the module of that name had.
        to: the module that has them now.

    Returns:
        A function that raises ImportError for one of the names (of an AttributeError, `from package import name` would
        lose the text) and AttributeError for any other.
    """

    def __getattr__(name: str) -> NoReturn:
        if name in names:
            raise ImportError(f"{package}.{name} has moved: it is {to}.{name} now")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__
