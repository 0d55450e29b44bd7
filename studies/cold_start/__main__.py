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

from studies.dps.records import PROPERTIES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.cold_start", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {
        "prepare": "Pretrain the backbone and retrieve second paths; does nothing where that is done.",
        "run": "Train and measure every arm with every seed; what is recorded is not done again.",
        "analyse": "Write tables and decisions from the records there are.",
    }
    made = {name: commands.add_parser(name, help=text, description=text) for name, text in helps.items()}
    for command in made.values():
        command.add_argument(
            "--output", type=Path, default=Path("outputs/cold_start_study"), help="Folder. (default: %(default)s)"
        )
    made["run"].add_argument("--seeds", type=int, nargs="+", help="Seeds to run. (default: 1 to 6)")
    made["analyse"].add_argument(
        "--results",
        type=Path,
        help="Folder for records and tables; with records that were published there, OUTPUT is not needed. "
        "(default: OUTPUT/results)",
    )
    made["analyse"].add_argument("--docs", type=Path, help="Page whose tables to renew.")
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
    prepared = (output / PROPERTIES).exists()
    if options.command == "run":
        if not prepared:
            parser.error(f"{output} is not prepared: run `python -m studies.cold_start prepare --output {output}`")
        from studies.cold_start.run import SEEDS, run

        run(output, options.seeds or SEEDS)
        return 0
    from studies.cold_start.analyse import analyse
    from studies.dps.analyse import RECORDS, publish

    results: Path = options.results or output / "results"
    if prepared and any(output.glob("records-*.jsonl")):
        publish(output, results)
    elif not (results / RECORDS).exists():
        parser.error(f"neither {output} nor {results} holds records: run `python -m studies.cold_start run` first")
    print(analyse(results, options.docs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
