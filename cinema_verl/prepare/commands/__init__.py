"""The command lines of data preparation, one module for each subcommand of `cinema-verl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol

from cinema_verl.utils.extensions import ExtensionError
from cinema_verl.utils.files import Locked


class Main(Protocol):
    """The arguments are those without the program's name; None takes `sys.argv`."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def add_overwrite(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """The option by which a command replaces what an earlier run made."""
    parser.add_argument("--overwrite", action="store_true", help=f"{what} (default: refuse)")


def command(name: str) -> Callable[[Callable[[list[str]], int]], Main]:
    """Make a command's `main` of a function of its arguments: what its user can repair is one line and exit code 1."""

    def decorate(run: Callable[[list[str]], int]) -> Main:
        @wraps(run)
        def main(arguments: Sequence[str] | None = None) -> int:
            try:
                return run(list(sys.argv[1:] if arguments is None else arguments))
            except (ExtensionError, Locked, OSError, ValueError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1

        return main

    return decorate
