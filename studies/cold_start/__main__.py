"""The study of the cold start: see studies/cold_start/README.md.

python -m studies.cold_start prepare    # pretrain the backbone and retrieve second paths: minutes
python -m studies.cold_start run        # every arm and seed; may be stopped and started again
python -m studies.cold_start analyse    # tables of the records there are
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.command_line import is_prepared, parser_of, published


def _parser() -> argparse.ArgumentParser:
    helps = {
        "prepare": "Pretrain the backbone and retrieve second paths; does nothing where that is done.",
        "run": "Train and measure every arm with every seed; what is recorded is not done again.",
        "analyse": "Write tables and decisions from the records there are.",
    }
    parser, made = parser_of("python -m studies.cold_start", __doc__, helps, "outputs/cold_start_study")
    made["run"].add_argument("--seeds", type=int, nargs="+", help="Seeds to run. (default: 1 to 6)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    output: Path = options.output
    if options.command == "prepare":
        from studies.cold_start.prepare import prepare

        print(json.dumps(prepare(output), indent=2))
        return 0
    if options.command == "run":
        if not is_prepared(output):
            parser.error(f"{output} is not prepared: run `python -m studies.cold_start prepare --output {output}`")
        from studies.cold_start.run import SEEDS, run

        run(output, options.seeds or SEEDS)
        return 0
    from studies.cold_start.analyse import analyse

    print(analyse(published(parser, options), options.docs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
