"""The study of the Diversity-Preserving Strategy: see studies/dps/README.md.

python -m studies.dps prepare    # what the cold start is like: half a minute
python -m studies.dps run        # every arm and seed: hours; may be stopped and started again
python -m studies.dps confirm …  # one arm through verl itself
python -m studies.dps analyse    # tables and plots of the records there are
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.command_line import is_prepared, parser_of, published
from studies.dps.arms import FAMILIES, RECIPES, REMOVED, seeds_of


def _parser() -> argparse.ArgumentParser:
    helps = {
        "prepare": "Measure the cold start on the testbed; does nothing where that is done.",
        "run": "Train and measure every arm with every seed; what is recorded is not done again.",
        "confirm": "Train one arm through verl itself, with the same questions and random numbers, and compare.",
        "analyse": "Write tables, decisions and plots from the records there are.",
    }
    parser, made = parser_of("python -m studies.dps", __doc__, helps, "outputs/dps")
    run = made["run"]
    seeds = "Of the registered ones: 1 to 16, and 17 to 32 for `replication`. (default: all)"
    run.add_argument("--seeds", type=int, nargs="+", help=seeds)
    units = [unit for family in FAMILIES for unit in family]
    run.add_argument("--units", nargs="+", choices=units, default=units, help="Arms to run. (default: all)")
    run.add_argument("--processes", type=int, default=2, help="Processes side by side, one thread each. (default: 2)")
    run.add_argument("--shard", metavar="I/N", help="Run only the I-th of N parts of the seeds, in this process.")
    confirm = made["confirm"]
    confirm.add_argument("--arm", choices=[a for a in RECIPES if a not in REMOVED], required=True, help="Arm to train.")
    confirm.add_argument("--seed", type=int, required=True, help="Seed of the run.")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path = options.output
    if options.command == "prepare":
        from cinema_verl.demo.digit_images import load_pools
        from studies.dps.prepare import prepare

        print(json.dumps(prepare(output, load_pools()), indent=2))
        return 0
    if options.command == "run":
        if not is_prepared(output):
            parser.error(
                f"{output} holds no prepared study: run `python -m studies.dps prepare --output {output}` first"
            )
        return _run(parser, options)
    if options.command == "confirm":
        from studies.dps.confirm import confirm

        for name, point in confirm(output, options.arm, options.seed)["arms"][options.arm].items():
            print(name, {metric: point[metric] for metric in ("pass_1", "pass_8", "pattern_entropy")})
        return 0
    from studies.dps.analyse import analyse

    print(analyse(published(parser, options), options.docs).tables())
    return 0


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from studies.dps.run import run, run_side_by_side

    registered = sorted({seed for unit in options.units for seed in seeds_of(unit)})
    seeds = registered if options.seeds is None else options.seeds
    if others := sorted(set(seeds) - set(registered)):
        parser.error(f"--seeds: {others} are not registered for {', '.join(options.units)}, but {registered} are")
    if options.shard is None:
        return run_side_by_side(options.output, seeds, options.units, options.processes)
    index, slash, count = options.shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        parser.error(f"--shard is I/N with I from 0 to N - 1, not {options.shard!r}")
    run(options.output, seeds, options.units, (int(index), int(count)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
