"""The command lines of data preparation, one module for each subcommand of `cinema-verl`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Protocol

from cinema_verl.data.families import names
from cinema_verl.prepare.convert import enlarging, load_counter
from cinema_verl.utils.extensions import ExtensionError
from cinema_verl.utils.files import Locked


class Main(Protocol):
    """The arguments are those without the program's name; None takes `sys.argv`."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def add_overwrite(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str) -> None:
    """The option by which a command replaces what an earlier run made."""
    parser.add_argument("--overwrite", action="store_true", help=f"{what} (default: refuse)")


def load_processor(parser: argparse.ArgumentParser, model: str, max_pixels: int) -> None:
    """Load a model's counter, so that a wrong name is reported now and not by every worker.

    Ends with exit code 2 where `model` is none, and warns where it enlarges pictures that are stored as small as
    `max_pixels`.
    """
    try:
        counter = load_counter(model)
    except OSError as error:
        parser.error(f"--processor {model}: {error}")
    except (TypeError, ValueError, ImportError) as error:  # some families' processors want packages of their own
        parser.error(f"--processor {model}: {error} (a model of {names()} is wanted)")
    if (warning := enlarging(counter.patching, max_pixels)) is not None:
        print(f"warning: {warning}", file=sys.stderr)


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
