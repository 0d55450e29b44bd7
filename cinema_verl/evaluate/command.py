"""Make tables from the validations that verl wrote: of an evaluation, of a training run, or of several side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cinema_verl.evaluate.files import dump_of, evaluate_dump
from cinema_verl.evaluate.statistics import difference
from cinema_verl.evaluate.summary import share
from cinema_verl.evaluate.tables import Table, beside_the_paper, estimate, to_markdown
from cinema_verl.runs.rollouts import by_question, read_strictly
from cinema_verl.utils.arguments import Parser

EPILOG = """\
PATH is a dump, <step>.jsonl of trainer.validation_data_dir, or a folder of dumps, of which the latest step is read.
The command writes <step>.evaluation.json (schema: docs/evaluation.md), .md and .html beside each dump.

to make a dump, and these files with it:
  python -m verl.trainer.main_ppo +recipe=cinema_evaluate actor_rollout_ref.model.path=MODEL 'data.val_files=[...]' \\
    trainer.validation_data_dir=outputs/evaluation/NAME

examples:
  cinema-verl evaluate outputs/evaluation/cinema           one evaluation, every table
  cinema-verl evaluate outputs/demo/validation/120.jsonl   one validation of a training run
  cinema-verl evaluate eval/dapo eval/dps eval/cot         side by side, differences paired by question

exit codes: 0 the files were written, 1 a dump is missing or not valid, 2 the command line is not understood
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, print the tables, and return the exit code."""
    parser = Parser(
        prog="cinema-verl evaluate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a validation dump, or a folder of them")
    options = parser.parse_args(arguments)
    try:
        dumps = [dump_of(path) for path in options.paths]
        summaries = [evaluate_dump(dump) for dump in dumps]
        if len(dumps) == 1:
            print(to_markdown(summaries[0], str(options.paths[0])))
        else:
            names = [str(path) for path in options.paths]
            print(beside_the_paper(list(zip(names, summaries, strict=True))).to_markdown())
            print(differences(names, dumps).to_markdown())
    except (OSError, ValueError) as error:
        print(f"cinema-verl evaluate: {error}", file=sys.stderr)
        return 1
    for dump in dumps:
        print(f"written: {dump.with_suffix('.evaluation.json')}, .md, .html", file=sys.stderr)
    return 0


def differences(names: Sequence[str], dumps: Sequence[Path]) -> Table:
    """Accuracy of each run minus that of the first, by benchmark, over the questions that both were asked."""
    runs = [by_question(read_strictly(dump)) for dump in dumps]
    rows = []
    for name, run in zip(names[1:], runs[1:], strict=True):
        common = [question for question in runs[0] if question in run]
        for benchmark in sorted({runs[0][question][0].benchmark for question in common}):
            asked = [question for question in common if runs[0][question][0].benchmark == benchmark]
            values = [
                share({question: side[question] for question in asked}, "acc", max(map(len, side.values())))
                for side in (runs[0], run)
            ]
            gained = difference([b - a for a, b in zip(*values, strict=True)])
            rows.append((name, benchmark, str(len(asked)), estimate(gained.to_json())))
    return Table(
        f"Accuracy minus that of {names[0]}",
        ("policy", "benchmark", "questions", "difference"),
        tuple(rows),
        "In percent, paired by question, with 95 % intervals; questions asked of one alone are left out.",
    )


if __name__ == "__main__":
    sys.exit(main())
