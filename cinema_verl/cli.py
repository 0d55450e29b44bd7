"""`cinema-verl`: one command, one module for each subcommand, and only that module is imported.

A subcommand is a line in `COMMANDS` and a module with `main(arguments: list[str]) -> int`, its exit code.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from cinema_verl import __version__

COMMANDS = {
    # name: (module, one line of help)
    "cold-start": (
        "cinema_verl.cold_start.command",
        "two verified trajectories a question, by a student and a teacher",
    ),
    "doctor": (
        "cinema_verl.checks.doctor",
        "do plugin, recipe, versions and Ray workers fit together on this machine?",
    ),
    "evaluate": ("cinema_verl.evaluate.command", "tables from validations: accuracy, pass@k, image dependence"),
    "preflight": ("cinema_verl.checks.preflight", "will a run get through its data, and what memory will it take?"),
    "report": ("cinema_verl.report.command", "one HTML file from a training run: curves, patterns, every rollout"),
}

EXAMPLES = """\
examples:
  cinema-verl doctor                                     before the first run, and when something is odd
  cinema-verl doctor --recipe cinema trainer.nnodes=2    with the overrides of the run to come
  cinema-verl preflight +recipe=cinema data.train_files=train.parquet data.val_files=val.parquet
                                                         before GPUs are paid for
  cinema-verl report outputs/demo                        a run, finished or going, as one page
  cinema-verl doctor --help                              every subcommand explains itself

to train:
  python -m verl.trainer.main_ppo +recipe=cinema ...     on GPUs
  python -m verl.trainer.main_ppo +recipe=cinema_cpu ... on a CPU, with a tiny model
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: without the program's name; None takes `sys.argv`.

    Returns:
        The exit code: 0 is well, 1 is a finding, 2 is a command line that is not understood.
    """
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="cinema-verl",
        description="CINEMA on verl: the commands around training. Training itself is verl's own entry point.",
        epilog="commands:\n"
        + "".join(f"  {name:<{width}}  {help_}\n" for name, (_, help_) in COMMANDS.items())
        + f"\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    parsed = parser.parse_args(arguments)
    module, _ = COMMANDS[parsed.command]
    return importlib.import_module(module).main(parsed.arguments)


if __name__ == "__main__":
    sys.exit(main())
