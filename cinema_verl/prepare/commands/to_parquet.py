"""`cinema-verl to-parquet`: dataset directories become the RL parquet that verl reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cinema_verl.prepare.commands import add_overwrite, command
from cinema_verl.prepare.export import Export, to_parquet
from cinema_verl.prompts import modes
from cinema_verl.utils.arguments import Parser, area

_DESCRIPTION: Final = """\
Turn dataset directories into the RL parquet that verl reads.

examples:
    cinema-verl to-parquet --input outputs/virl39k --input outputs/own --output data/rl --val-fraction 0.02

makes the folder data/rl with train-00000.parquet, val-00000.parquet and, where questions are of split test,
test-00000.parquet; a split of more than --rows-per-file questions continues in -00001. Which questions are held out for
validation depends only on their uids and the seed. Images are not copied, and the files hold their absolute paths:
train on a machine that sees them there. With --copy-images the folder holds them, too, and can be moved as it is.

Train on what it prints:

    python -m verl.trainer.main_ppo +recipe=cinema 'data.train_files=[…]' 'data.val_files=[…]'"""
_NUMBERS: Final = {
    "min_pixels": ("AREA", "area in pixels that smaller images are enlarged to when the policy sees them"),
    "max_pixels": ("AREA", "area in pixels, or 640x480, that larger images are shrunk to when the policy sees them"),
    "seed": ("N", "seed of the draw of validation questions"),
    "rows_per_file": ("N", "most rows of a file"),
}


@command("to-parquet")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure."""
    default = Export()
    parser = Parser(
        prog="cinema-verl to-parquet", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", type=Path, action="append", required=True, help="a dataset directory; may be given several times"
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--mode",
        choices=modes(),
        default=default.mode,
        metavar="MODE",
        help=f"prompt mode whose system prompt the rows get, one of {', '.join(modes())} (default: %(default)s)",
    )
    for name, (metavar, says) in _NUMBERS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=area if name.endswith("pixels") else int,
            default=getattr(default, name),
            metavar=metavar,
            help=f"{says} (default: %(default)s)",
        )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=default.val_fraction,
        metavar="SHARE",
        help="share of the questions of split train to hold out for validation (default: %(default)s)",
    )
    parser.add_argument(
        "--copy-images",
        action="store_true",
        help="put the images into --output and name them relative to it, so that the folder can be moved to another "
        "machine (default: name them where they are)",
    )
    add_overwrite(parser, "replace a folder that an earlier run made")
    given = vars(parser.parse_args(arguments))
    if not 0 <= given["val_fraction"] < 1:
        parser.error("--val-fraction must be at least 0 and under 1")
    if not 0 < given["min_pixels"] <= given["max_pixels"] or given["rows_per_file"] < 1:
        parser.error("need 0 < --min-pixels <= --max-pixels, and --rows-per-file of at least 1")
    inputs, output, overwrite = given.pop("input"), given.pop("output"), given.pop("overwrite")
    written = to_parquet(inputs, output, Export(**given), overwrite=overwrite)
    for path, rows in written.items():
        print(f"{rows:>9,} rows  {path}")
    for split, key in (("train", "train_files"), ("val", "val_files"), ("test", "val_files")):
        files = [path for path in written if Path(path).name.startswith(f"{split}-")]
        if files:
            print(f"data.{key}=[{','.join(files)}]")
    return 0
