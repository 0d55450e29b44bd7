"""Show a training run: `cinema-verl report RUN_DIR` writes one HTML file that needs no network."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cinema_verl.report.page import build, read_run
from cinema_verl.runs.locate import NothingFound, locate, names
from cinema_verl.utils.arguments import Parser
from cinema_verl.utils.files import atomic_write

EPILOG = """\
RUN_DIR is any folder of the run: Hydra's, the checkpoints, the rollouts, or a parent of these. Its parts are
  metrics.jsonl               verl's `file` logger: trainer.logger=[console,file], VERL_FILE_LOGGER_PATH
  rollouts/<step>.jsonl       trainer.rollout_data_dir; the recipes set it to <trainer.default_local_dir>/rollouts
  .hydra/config.yaml          says where the others are, and what was trained
  the parquet files           data.train_files and data.val_files of that configuration
The page shows what there is; it and stderr say what is missing. The run may still be going.

examples:
  cinema-verl report outputs/demo
  cinema-verl report outputs/2026-01-05/10-00-00 --output report.html
  cinema-verl report outputs/dps outputs/dapo            two runs in one page, curves overlaid
  cinema-verl report run --metrics logs/cinema.jsonl --rollouts /scratch/rollouts --data /data/rl/train.parquet

exit codes: 0 a report was written, 1 there is nothing to report, or several runs, 2 the command line is not understood
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report and return the exit code."""
    parser = Parser(
        prog="cinema-verl report",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN_DIR", help="one run, or two to compare")
    add("--output", type=Path, metavar="FILE", help="the page (default: report.html in the first RUN_DIR)")
    add("--metrics", type=Path, metavar="FILE", help="the metrics, if they are elsewhere (one run only)")
    add("--rollouts", type=Path, metavar="DIR", help="the rollouts, if they are elsewhere (one run only)")
    add(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="parquet with the questions, if it is elsewhere; may be given several times",
    )
    add(
        "--max-mb",
        type=float,
        default=10,
        metavar="MB",
        help="largest size of the page in megabytes; a larger one shows more groups (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if len(options.runs) > 2:
        parser.error(f"one run or two, not {len(options.runs)}")
    if len(options.runs) == 2 and (options.metrics or options.rollouts):
        parser.error("--metrics and --rollouts are for one run")
    if not options.max_mb > 0:
        parser.error("--max-mb must be above 0")

    output: Path = options.output or options.runs[0] / "report.html"
    try:
        located = [locate(path, options.metrics, options.rollouts, options.data) for path in options.runs]
        runs = [read_run(replace(files, name=name)) for files, name in zip(located, names(options.runs), strict=True)]
        page, notes = build(runs, int(options.max_mb * 1e6))
        with atomic_write(output) as file:
            file.write(page)
    except (NothingFound, OSError) as error:
        print(f"cinema-verl report: {error}{'. Nothing was written.' * isinstance(error, OSError)}", file=sys.stderr)
        return 1
    for note in notes:
        print(f"cinema-verl report: {note}", file=sys.stderr)
    print(f"{output}  {len(page.encode()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
