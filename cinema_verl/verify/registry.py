"""Which answer types exist: those of the package, those that somebody registered, and those of installed distributions.

A distribution adds a type without anybody importing it, in every process (Ray's workers, data preparation, evaluation),
by an entry point in the group ``cinema_verl.answer_types``: its name is the answer type, its value the checker::

    [project.entry-points."cinema_verl.answer_types"]
    chess_move = "my_package.moves:check"

Entry points are loaded when first somebody asks for all types or for one that is not known yet.
"""

import threading
from collections.abc import Callable
from typing import Final, overload

from cinema_verl.utils.extensions import ExtensionError, load, named
from cinema_verl.verify.verdict import Checker

GROUP: Final = "cinema_verl.answer_types"

CHECKERS: Final[dict[str, Checker]] = {}
"""The rules by answer type, as far as they are known. Look them up with `find`."""

_lock: Final = threading.Lock()
_loading: Final = threading.local()  # a plugin's import may ask for the types itself
_loaded = False


@overload
def register(answer_type: str, checker: Checker) -> Checker: ...
@overload
def register(answer_type: str) -> Callable[[Checker], Checker]: ...
def register(answer_type: str, checker: Checker | None = None) -> Checker | Callable[[Checker], Checker]:
    """Add an answer type to this process. One that exists is not replaced: training and evaluation must agree on it.

    Args:
        answer_type: Its name in the data.
        checker: Its rule. Without it, a decorator for the rule.

    Returns:
        The rule, or the decorator.

    Raises:
        ValueError: The name is empty or has spaces around it, or the type exists already.
        TypeError: The rule cannot be called.
    """
    if checker is None:
        return lambda rule: register(answer_type, rule)
    if not isinstance(answer_type, str) or not answer_type.strip() or answer_type != answer_type.strip():
        raise ValueError(f"an answer type is a name without spaces around it, got {answer_type!r}")
    if not callable(checker):
        raise TypeError(f"the checker of answer type {answer_type!r} is {type(checker).__name__}, not a function")
    with _lock:
        if answer_type in CHECKERS:
            raise ValueError(f"answer type {answer_type!r} is registered already")
        CHECKERS[answer_type] = checker
    return checker


def answer_types() -> tuple[str, ...]:
    """All answer types by name: the package's, then the others in the order in which they came to be known.

    Raises:
        ExtensionError: An entry point cannot be used.
    """
    _load()
    return tuple(CHECKERS)


def find(answer_type: str) -> Checker | None:
    """The rule of an answer type, or None where there is no such type.

    Raises:
        ExtensionError: The type is not known yet and an entry point cannot be used.
    """
    if answer_type not in CHECKERS:
        _load()
    return CHECKERS.get(answer_type)


def _load() -> None:
    """Add what the entry points name. Nothing is added, and the next call fails again, while one of them is broken."""
    global _loaded
    if _loaded or getattr(_loading, "now", False):
        return
    _loading.now = True
    try:
        found = load(GROUP)
        with _lock:
            for name, checker in found.items():
                if not callable(checker):
                    raise ExtensionError(f"{named(GROUP, name)} is {type(checker).__name__}, not a function")
                if CHECKERS.get(name, checker) is not checker:  # its own import may have registered it
                    raise ExtensionError(f"{named(GROUP, name)}: the answer type exists already; give it another name")
            CHECKERS.update(found)
            _loaded = True
    finally:
        _loading.now = False
