"""`cinema-verl pack`: parquet and its images into one folder that can be moved to the machine that trains."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from cinema_verl.data.movable import pack
from cinema_verl.prepare.commands import command
from cinema_verl.utils.arguments import Parser

_DESCRIPTION: Final = """\
Copy parquet files and the images of their rows into one folder that can be moved to the machine that trains.

examples:
    cinema-verl pack --input out/cold_start/sft.parquet --input out/cold_start/rl.parquet --output data/cold_start

The rows then name their images relative to the folder. The data sets that recipes cinema and cinema_cold_start select
(cinema_verl.data.dataset, cinema_verl.data.sft_dataset) read such files wherever they lie; verl's own data sets do not.
`cinema-verl to-parquet --copy-images` makes such a folder at once."""


@command("pack")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure."""
    parser = Parser(
        prog="cinema-verl pack", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", type=Path, action="append", required=True, help="a parquet file; may be given several times"
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parsed = parser.parse_args(arguments)
    for path, rows in pack(parsed.input, parsed.output).items():
        print(f"{rows:>9,} rows  {path}")
    return 0
