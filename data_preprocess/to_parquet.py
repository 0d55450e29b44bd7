"""Turn dataset directories into the RL parquet that verl reads.

    python data_preprocess/to_parquet.py --input outputs/virl39k --input outputs/own \\
        --output data/rl --val-fraction 0.02

makes the folder data/rl with train-00000.parquet, val-00000.parquet and, where questions are of split test,
test-00000.parquet; a split of more than --rows-per-file questions goes on in -00001. Which questions are held out for
validation depends on their uid and the seed alone. Images are not copied: the files hold their absolute paths.

Train on what it prints:

    python -m verl.trainer.main_ppo +recipe=cinema 'data.train_files=[…]' 'data.val_files=[…]'
"""

import argparse
import sys
from pathlib import Path

from cinema_verl.prepare.export import Export, to_parquet
from cinema_verl.prompts import MODES


def main() -> int:
    default = Export()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, action="append", required=True, help="dataset directory; repeatable")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--mode", choices=MODES, default=default.mode, help="system prompt; %(default)s")
    for name in ("min_pixels", "max_pixels", "seed", "rows_per_file"):
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=int, default=getattr(default, name), metavar="N", help="%(default)s")
    parser.add_argument(
        "--val-fraction", type=float, default=default.val_fraction, metavar="SHARE", help="of train, held out; 0"
    )
    arguments = vars(parser.parse_args())
    if not 0 <= arguments["val_fraction"] < 1:
        parser.error("--val-fraction is from 0 to below 1")
    if not 0 < arguments["min_pixels"] <= arguments["max_pixels"] or arguments["rows_per_file"] < 1:
        parser.error("need 0 < --min-pixels <= --max-pixels, and --rows-per-file of at least 1")
    inputs, output = arguments.pop("input"), arguments.pop("output")
    try:
        written = to_parquet(inputs, output, Export(**arguments))
    except (OSError, ValueError) as error:
        print(f"to_parquet: {error}", file=sys.stderr)
        return 1
    for path, rows in written.items():
        print(f"{rows:>9,} rows  {path}")
    for split, key in (("train", "train_files"), ("val", "val_files"), ("test", "val_files")):
        files = [path for path in written if Path(path).name.startswith(f"{split}-")]
        if files:
            print(f"data.{key}=[{','.join(files)}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
