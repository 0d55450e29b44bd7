"""`cinema-verl`: one command, one module for each subcommand, and only that module is imported.

A subcommand is a line in `COMMANDS` and a module with `main(arguments: list[str]) -> int`, its exit code.
"""

import argparse
import atexit
import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import metadata

from cinema_verl import __version__
from cinema_verl.utils.arguments import Parser
from cinema_verl.utils.extensions import ExtensionError

COMMANDS = {
    # name: (module, one line of help)
    "ask": ("cinema_verl.ask.command", "ask a trained policy a question over pictures"),
    "cold-start": ("cinema_verl.cold_start.command", "write verified trajectories with a student and a teacher"),
    "decontaminate": ("cinema_verl.prepare.commands.decontaminate", "take benchmark questions and duplicates out"),
    "doctor": ("cinema_verl.checks.doctor", "check plugin, recipe, versions and Ray workers on this machine"),
    "env": ("cinema_verl.checks.environment", "print what to paste into an issue"),
    "evaluate": ("cinema_verl.evaluate.command", "make tables from validations: accuracy, pass@k, image dependence"),
    "export": ("cinema_verl.export.command", "make one Hugging Face folder of a checkpoint"),
    "mix": ("cinema_verl.prepare.commands.mix", "choose questions by source, modality, answer type, difficulty"),
    "pack": ("cinema_verl.prepare.commands.pack", "copy parquet and its images into a folder that can be moved"),
    "plan": ("cinema_verl.checks.fits", "compute the memory of each GPU for a recipe; estimate hours and disk"),
    "preflight": ("cinema_verl.checks.preflight", "check configuration, model and data of a run before it starts"),
    "prepare": ("cinema_verl.prepare.commands.prepare", "turn the rows of a source into verified questions"),
    "report": ("cinema_verl.report.command", "show a training run as one HTML file: curves, patterns, every rollout"),
    "reshard": ("cinema_verl.training.reshard", "cut a checkpoint anew, to go on with another number of GPUs"),
    "sets": ("cinema_verl.prepare.commands.sets", "make sets of the paper's sizes from the public sources"),
    "to-parquet": ("cinema_verl.prepare.commands.to_parquet", "write questions as the parquet that verl reads"),
}

EXAMPLES = """\
examples:
  cinema-verl doctor                                     before the first run, and when something is odd
  cinema-verl doctor +recipe=cinema trainer.nnodes=2     with the overrides of the run to come
  cinema-verl preflight +recipe=cinema data.train_files=train.parquet data.val_files=val.parquet
                                                         before GPUs are paid for
  cinema-verl report outputs/demo                        a run, finished or going, as one page
  cinema-verl doctor --help                              each command has its own help

to complete commands and options with the tab key (pip install argcomplete), in ~/.bashrc:
  eval "$(register-python-argcomplete cinema-verl)"

to train:
  python -m verl.trainer.main_ppo +recipe=cinema ...     on GPUs
  python -m verl.trainer.main_ppo +recipe=cinema_cpu ... on a CPU, with a tiny model

exit codes: 0 all is well, 1 something is wrong, 2 the command line is not understood, 130 interrupted
"""

_DISTRIBUTIONS = {"sentence_transformers": "sentence-transformers", "sklearn": "scikit-learn", "PIL": "pillow"}
"""Modules that are called otherwise than the distribution that brings them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: Without the program's name; None takes `sys.argv`.

    Returns:
        The exit code: 0 is well, 1 is a finding, 2 is a command line that is not understood, 130 is Ctrl-C.
    """
    if arguments is None:  # the program itself: with PyTorch loaded, looking for cycles at its end takes over a second
        atexit.register(gc.freeze)
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="cinema-verl",
        description="CINEMA on verl: the commands around training. Training itself is verl's own entry point.",
        epilog="commands:\n"
        + "".join(f"  {name:<{width}}  {help_}\n" for name, (_, help_) in COMMANDS.items())
        + f"\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if "_ARGCOMPLETE" in os.environ:
        _complete_for(os.environ.get("COMP_LINE", "").split(" "))
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the command's own arguments")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given and "_ARGCOMPLETE" not in os.environ:  # somebody who looks around
        parser.print_help(sys.stderr)
        return 2
    if given and given[0].startswith("--") and given[0] not in parser.options():
        parser.error(f"unrecognized arguments: {given[0]}")
    parsed = parser.parse_args(given)
    module, _ = COMMANDS[parsed.command]
    try:
        code: int = importlib.import_module(module).main(parsed.arguments)
        sys.stdout.flush()  # here, where a reader that has gone can still be dealt with
        return code
    except KeyboardInterrupt:
        print(f"\ncinema-verl {parsed.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # what reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ExtensionError as error:  # another package's: the message names it, and a traceback would show ours
        print(f"cinema-verl {parsed.command}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        advice = how_to_install((error.name or "").partition(".")[0])
        if advice is None:
            raise
        print(f"cinema-verl {parsed.command}: {error}. {advice}", file=sys.stderr)
        return 1


def _complete_for(words: Sequence[str]) -> None:
    """In a shell that asks for completions behind a subcommand, let its own parser give them; that ends the process."""
    if len(words) > 2 and words[1] in COMMANDS:
        os.environ["_ARGCOMPLETE"] = "2"  # argcomplete's word for: leave out the first one
        importlib.import_module(COMMANDS[words[1]][0]).main([])


def how_to_install(module: str) -> str | None:
    """Which extra brings a module that is missing; None for a module that cinema-verl does not ask for."""
    wanted = _normal(_DISTRIBUTIONS.get(module, module))
    if wanted == "cinema-verl":
        return None  # a bug, not an installation
    for requirement in metadata.requires("cinema-verl") or ():
        name = re.match(r"[\w.-]+", requirement)
        if name is None or _normal(name[0]) != wanted:
            continue
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if extra is None:
            return "Install cinema-verl again: pip install cinema-verl"
        return f"It comes with an extra: pip install 'cinema-verl[{extra[1]}]'"
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
