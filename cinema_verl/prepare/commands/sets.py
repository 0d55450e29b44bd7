"""`cinema-verl sets`: the cold-start candidates and the RL set, of the paper's sizes, in one command."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cinema_verl.prepare.choices import COLD_START, RL, SHIPPED, Choices
from cinema_verl.prepare.commands import command, load_processor
from cinema_verl.prepare.convert import MAX_PIXELS
from cinema_verl.prepare.pipeline import Stopped, processors
from cinema_verl.prepare.sets import Plan, make_sets
from cinema_verl.prepare.sets_page import write_page
from cinema_verl.utils.arguments import Parser, positive

_DESCRIPTION: Final = """\
Make the 57k candidates of the cold start and the 58k questions of reinforcement learning, over several images, frames
of videos and single images, from the public sources that are there.

examples:
    cinema-verl sets --downloads downloads --output outputs/sets

takes each source and benchmark from DOWNLOADS/NAME (as `cinema-verl prepare NAME --help` says), prepares it, checks
every gold, takes out duplicates and what any of the ten benchmarks asks, mixes both sets to their sizes and writes

    outputs/sets/index.html      one page: what went in, what was left out and why, what was chosen
    outputs/sets/cold_start/     candidates, for `cinema-verl cold-start --questions outputs/sets/cold_start`
    outputs/sets/rl/             parquet of the RL set, for verl
    outputs/sets/rl_questions/   the same as questions; sources/, benchmarks/ and clean/ are what it was made of

If it is killed at any moment, the same command goes on. A step is repeated only if its inputs or choices have changed:
add a source and run the same command again. What the paper does not say about the sets is our choice, and stands with
a reason for each value in one file; change a copy of it:
"""


@command("sets")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.max_prompt_tokens is not None and not parsed.processor:
        parser.error("--max-prompt-tokens counts with a model's tokenizer: give --processor MODEL, too")
    if parsed.processor:
        load_processor(parser, parsed.processor, MAX_PIXELS)
    if parsed.val_fraction is not None and not 0 <= parsed.val_fraction < 1:
        parser.error("--val-fraction must be at least 0 and under 1")
    try:
        plan = _plan(parsed)
        report = make_sets(plan, lambda line: print(line, flush=True))
        page = write_page(plan, report)
    except Stopped as error:
        print(f"sets: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sets: interrupted; run the same command to go on from here", file=sys.stderr)
        return 1
    for each in report.missing:
        print(f"not there: {each.name} (data set {each.get_from}, into {plan.downloads / each.name})")
    print(f"look at {page}")
    return 0


def _plan(parsed: argparse.Namespace) -> Plan:
    sizes = {COLD_START: parsed.size_cold_start, RL: parsed.size_rl}
    choices = Choices.read(parsed.choices).resized({name: size for name, size in sizes.items() if size is not None})
    if parsed.val_fraction is not None:
        choices = replace(choices, val_fraction=parsed.val_fraction)
    settings: dict[str, Any] = {"processor": parsed.processor, "max_prompt_tokens": parsed.max_prompt_tokens}
    return Plan(
        downloads=parsed.downloads.absolute(),
        output=parsed.output,
        choices=choices,
        without=frozenset(parsed.without),
        workers=parsed.workers,
        limit=parsed.limit,
        settings=settings,
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="cinema-verl sets",
        description=f"{_DESCRIPTION}\n    {SHIPPED}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--downloads", type=Path, required=True, help="the folder with a folder for each source")
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--choices", type=Path, default=SHIPPED, metavar="FILE", help="sources, benchmarks and mixes (default: ours)"
    )
    for name, flag in ((COLD_START, "--size-cold-start"), (RL, "--size-rl")):
        parser.add_argument(flag, type=positive, metavar="N", help=f"questions of {name} (default: as the choices say)")
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="SHARE",
        help="share of the RL set to hold out (default: as the choices say)",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out a source, or go without a benchmark; may be given several times",
    )
    parser.add_argument("--limit", type=positive, metavar="ROWS", help="read only the first ROWS rows of each source")
    parser.add_argument("--processor", default="", metavar="MODEL", help="as of `cinema-verl prepare`")
    parser.add_argument("--max-prompt-tokens", type=positive, metavar="N", help="as of `cinema-verl prepare`")
    parser.add_argument(
        "--workers",
        type=int,
        default=processors(),
        metavar="N",
        help="processes that prepare; 0 prepares in this process (default: one for each core, %(default)s)",
    )
    return parser
