"""Take benchmark questions and duplicates out of training questions.

    python data_preprocess/decontaminate.py --input outputs/virl39k --input outputs/m4_instruct \\
        --benchmark muirbench=outputs/muirbench --benchmark mmiu=outputs/mmiu --output outputs/clean

reads dataset directories (of canonical questions) and writes another one, with

    outputs/clean/questions/             the questions that stay, in the order of the inputs; pictures are not copied
    outputs/clean/rejected.jsonl         the others: uid, reason, and the question that each matches
    outputs/clean/decontamination.html   counts, and a sample of pairs with their pictures side by side
    outputs/clean/decontamination.json   counts, rules and every match

A training question goes when one of its pictures is a benchmark's picture, when its words are a particular benchmark
question's, or when an earlier training question asks the same over the same pictures (inputs in the order given, then
by uid). Short or generic words alone are no reason, and neither are blank pictures. The rule and its numbers are stated
in `cinema_verl/prepare/decontaminate.py`; benchmarks/decontamination.py measures how long it takes.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from cinema_verl.data.directory import start_anew, write_dataset
from cinema_verl.prepare.decontaminate import Decontamination, Rules
from cinema_verl.prepare.decontamination_report import PAGE_NAME, write_report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="training questions; repeatable")
    parser.add_argument(
        "--benchmark",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="repeatable; without one only duplicates go",
    )
    parser.add_argument("--output", type=Path, required=True, help="a new dataset directory")
    for rule in fields(Rules):
        flag = f"--{rule.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(rule.default), default=rule.default, help="see the rule; %(default)s")
    arguments = vars(parser.parse_args())
    inputs, benchmarks, output = (arguments.pop(name) for name in ("input", "benchmark", "output"))
    if len(dict(benchmarks)) < len(benchmarks):
        parser.error("two benchmarks have the same name")
    try:
        directory = start_anew(output)
        run = Decontamination([path.absolute() for path in inputs], dict(benchmarks), Rules(**arguments))
        made_by = {"command": sys.argv, "rules": arguments}
        manifest = write_dataset(directory, run.kept(), run.rejections(), made_by)
        summary = write_report(directory, run)
    except (OSError, ValueError) as error:
        print(f"decontaminate: {error}", file=sys.stderr)
        return 1
    print(f"{summary['read']:,} questions read, {manifest['questions']:,} stay in {directory}")
    for reason, count in summary["removed"].items():
        print(f"  {count:>9,} {reason}")
    print(f"look at {directory / PAGE_NAME}")
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(path).absolute()


if __name__ == "__main__":
    sys.exit(main())
