"""`cinema-verl mix`: choose questions from dataset directories so that the mix has the size and shares asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cinema_verl.prepare.commands import add_overwrite, command
from cinema_verl.prepare.mix import mix, table
from cinema_verl.utils.arguments import Parser

_DESCRIPTION: Final = """\
Choose questions from dataset directories so that the mix has the size and the shares that a YAML file asks for.

examples:
    cinema-verl mix --input outputs/clean --spec data_preprocess/mix_example.yaml --output outputs/mix

writes another dataset directory:

    outputs/mix/questions/       the questions of the mix, shuffled; pictures are not copied
    outputs/mix/rejected.jsonl   all others: uid, reason (pass_rate, pass_rate_unknown, excluded, not_in_mix), detail
    outputs/mix/manifest.json    the specification; what was wanted, available and taken of each stratum; the command

and prints the table of what was wanted, available and taken. The specification may ask by source, modality, answer
type, number of images and pass rate; data_preprocess/mix_example.yaml in the repository shows all of it:

    size: 58000                  questions in the mix
    seed: 0                      another seed takes other questions for the same table
    pass_rate_window: {above: 0.0, below: 1.0, unknown: keep}
    source:     {virl39k: 0.4, m4_instruct: {at_most: 0.2}}
    num_images: {"1": 0.2, "2-4": 0.5, "5+": {at_least: 5000}}

Where a stratum has too few questions the others rise together; where that cannot be, the run stops and says which part
to relax. Which questions are taken depends only on their uids and the seed, not on the order of the inputs.

Decontaminate first (`cinema-verl decontaminate`). Next: `cinema-verl cold-start`, which divides the questions by
whether the teacher solves them, or `cinema-verl to-parquet` for reinforcement learning alone."""


@command("mix")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure."""
    parser = Parser(
        prog="cinema-verl mix", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", type=Path, action="append", required=True, help="a dataset directory; may be given several times"
    )
    parser.add_argument("--spec", type=Path, required=True, help="YAML file; begin with a copy of mix_example.yaml")
    parser.add_argument("--output", type=Path, required=True, help="the dataset directory to make")
    parser.add_argument(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        help="a dataset directory whose questions are left out, such as another mix; may be given several times",
    )
    add_overwrite(parser, "replace a complete data set that --output holds")
    parser.add_argument("--dry-run", action="store_true", help="print the table and write nothing")
    parsed = parser.parse_args(arguments)
    output = None if parsed.dry_run else parsed.output
    done = mix(
        parsed.input,
        parsed.spec,
        output,
        exclude=parsed.exclude,
        overwrite=parsed.overwrite,
        command=["cinema-verl", "mix", *arguments],
    )
    print(table(done.lines))
    print(f"{done.read:,} questions read = {done.taken:,} in the mix + {done.read - done.taken:,} left")
    print("nothing was written (--dry-run)" if parsed.dry_run else f"in {parsed.output.absolute()}")
    return 0
