"""Choose questions from dataset directories so that the mix has the size and the shares that a YAML file asks for.

    python data_preprocess/mix.py --input outputs/clean --spec data_preprocess/mix_example.yaml --output outputs/mix

writes another dataset directory:

    outputs/mix/questions/       the questions of the mix, shuffled; pictures are not copied
    outputs/mix/rejected.jsonl   all others: uid, reason (pass_rate, pass_rate_unknown, not_in_mix), detail
    outputs/mix/manifest.json    the specification, what was wanted, available and taken of each stratum, the command

and prints the table of wanted, available and taken; --dry-run prints it and writes nothing. The specification may ask
by source, modality, answer type, number of images and pass rate (mix_example.yaml shows all of it). Where a stratum has
too few questions the others rise together; where that cannot be, the run stops and says which part to relax. Which
questions are taken depends on their uids and the seed alone, not on the order of the inputs.

Decontaminate first (decontaminate.py). Next: `cinema-verl cold-start`, which parts the questions by whether the teacher
solves them, or to_parquet.py for reinforcement learning alone.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from cinema_verl.data.directory import start_anew, write_dataset
from cinema_verl.prepare.mix import Mix, lines, table
from cinema_verl.prepare.mix_spec import MixSpec
from cinema_verl.utils.files import sha256_of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="dataset directory; repeatable")
    parser.add_argument("--spec", type=Path, required=True, help="YAML; begin with a copy of mix_example.yaml")
    parser.add_argument("--output", type=Path, required=True, help="a new dataset directory")
    parser.add_argument("--dry-run", action="store_true", help="print the table, write nothing")
    arguments = parser.parse_args()
    try:
        spec = MixSpec.read(arguments.spec)
        output = arguments.output if arguments.dry_run else start_anew(arguments.output)
        mix = Mix(arguments.input, spec)
        report = lines(spec, mix.available, mix.taken)
        if not arguments.dry_run:
            made_by = {
                "command": sys.argv,
                "spec": {"sha256": sha256_of(arguments.spec), "text": arguments.spec.read_text(encoding="utf-8")},
                "inputs": [str(path.absolute()) for path in arguments.input],
                "input_rows": mix.read,
                "strata": [asdict(line) for line in report],
            }
            write_dataset(output, mix.questions(), mix.rejections(), made_by)
    except (OSError, ValueError) as error:
        print(f"mix: {error}", file=sys.stderr)
        return 1
    print(table(report))
    print(f"{mix.read:,} questions read = {spec.size:,} in the mix + {mix.read - spec.size:,} left")
    print("nothing was written (--dry-run)" if arguments.dry_run else f"in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
