"""`cinema-verl decontaminate`: take benchmark questions and duplicates out of training questions."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Final

from cinema_verl.data import sources
from cinema_verl.prepare.commands import add_overwrite, command
from cinema_verl.prepare.contamination import Rules
from cinema_verl.prepare.decontaminate import decontaminate
from cinema_verl.prepare.decontamination_report import PAGE_NAME
from cinema_verl.utils.arguments import Parser

_DESCRIPTION: Final = """\
Take benchmark questions and duplicates out of training questions.

examples:
    cinema-verl decontaminate --input outputs/virl39k --input outputs/m4_instruct \\
        --benchmark muirbench=outputs/muirbench --benchmark mmiu=outputs/mmiu --output outputs/clean

reads dataset directories and writes another one, with

    outputs/clean/questions/             the questions that stay, in the order of the inputs; pictures are not copied
    outputs/clean/rejected.jsonl         the others: uid, reason, and the question that each matches
    outputs/clean/decontamination.html   counts, and a sample of pairs with their pictures side by side
    outputs/clean/decontamination.json   counts, rules and every match

A training question is taken out when one of its pictures is a benchmark's picture, when its words are a particular
benchmark question's, or when an earlier training question asks the same over the same pictures (inputs in the order
given, then by uid). Short or generic words alone are no reason, and neither are blank pictures. The rules and their
numbers are in cinema_verl/prepare/contamination.py and duplicates.py; benchmarks/decontamination.py measures what they
find and how long it takes."""
_RULES: Final = {
    "distance": "bits in which the perceptual hashes of two pictures may differ for the pictures to be compared",
    "similarity": "share of three-word sequences that two texts must have in common, 0 to 1",
    "min_words": "different words that a text needs to be recognised without a picture",
    "max_uses": "sets of pictures over which one text may be used before it counts as a template",
}


@command("decontaminate")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure."""
    parser = Parser(
        prog="cinema-verl decontaminate",
        description=_DESCRIPTION,
        epilog=f"known benchmarks: {', '.join(sources.names(sources.BENCHMARK))}; "
        "prepare them as sources are prepared (`cinema-verl prepare NAME`)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        required=True,
        help="a dataset directory of training questions; may be given several times",
    )
    parser.add_argument(
        "--benchmark",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a benchmark's dataset directory; may be given several times (default: only duplicates are taken out)",
    )
    parser.add_argument("--output", type=Path, required=True, help="the dataset directory to make")
    add_overwrite(parser, "replace a complete data set that --output holds")
    usual = Rules()
    for name, says in _RULES.items():
        default = getattr(usual, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help=f"{says} (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    if twice := [name for name, number in Counter(name for name, _ in parsed.benchmark).items() if number > 1]:
        parser.error(f"two benchmarks are called {twice[0]}: give each a NAME of its own")
    rules = Rules(**{name: getattr(parsed, name) for name in _RULES})
    shown = ["cinema-verl", "decontaminate", *arguments]
    against = dict(parsed.benchmark)
    summary = decontaminate(parsed.input, against, parsed.output, rules, overwrite=parsed.overwrite, command=shown)
    output = parsed.output.absolute()
    print(f"{summary['read']:,} questions read, {summary['kept']:,} stay in {output}")
    for reason, count in summary["removed"].items():
        print(f"  {count:>9,} {reason}")
    print(f"look at {output / PAGE_NAME}")
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(path)
