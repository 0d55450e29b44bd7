"""What the studies' command lines share: subcommands over one folder, and published records that stand for it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from studies.dps.records import FILES, PROPERTIES


def parser_of(
    prog: str, description: str | None, helps: Mapping[str, str], output: str
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """A parser, and that of each subcommand; `analyse` is one of them.

    Args:
        helps: a sentence for each subcommand.
        output: the study's folder unless another is given.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for command in made.values():
        command.add_argument(
            "--output", type=Path, default=Path(output), help="Folder of the study. (default: %(default)s)"
        )
    made["analyse"].add_argument(
        "--results",
        type=Path,
        help="Folder for the records and what is made of them; with records that were published there, OUTPUT is not "
        "needed. (default: OUTPUT/results)",
    )
    made["analyse"].add_argument("--docs", type=Path, help="Page whose tables (and pictures, if any) to renew.")
    return parser, made


def is_prepared(output: Path) -> bool:
    """Whether `prepare` has been through in a folder."""
    return (output / PROPERTIES).exists()


def published(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Path:
    """The folder of results, with the records of `--output` where there are some.

    Raises:
        SystemExit: there are records in neither.
    """
    from studies.dps.analyse import RECORDS, publish

    output: Path = options.output
    results: Path = options.results or output / "results"
    if is_prepared(output) and any(output.glob(FILES)):
        publish(output, results)
    elif not (results / RECORDS).exists():
        parser.error(f"neither {output} nor {results} holds records: run `{parser.prog} run` first")
    return results
