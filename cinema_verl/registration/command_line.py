"""Does this command line get the recipe it names? Asked before Hydra looks at it, from files alone.

`+recipe=cinema` is the whole difference between CINEMA and verl's defaults, and Hydra turns an override that it does
not understand as a choice into a plain key, without a word.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

RL_TRAINER = "verl.trainer.main_ppo"
SFT_TRAINER = "verl.trainer.sft_trainer"
RECIPES = Path(__file__).parents[1] / "recipes"

PROGRAMS = {RL_TRAINER: "ppo_trainer", SFT_TRAINER: "sft_trainer_engine"}
"""verl's programs that recipes are for, and the primary configuration of each."""

_OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<group>[\w/-]+)(?:@[\w.:]*)?=(?P<value>.*)")
_OWN_CONFIGS = ("--config-dir", "-cd", "--config-path", "-cp")


def shipped_recipes() -> tuple[str, ...]:
    """The names that `+recipe=` accepts, from the files inside this installation."""
    return tuple(sorted(path.stem for path in RECIPES.glob("recipe/*.yaml")))


def program_of(recipe: str) -> str:
    """The verl program that a shipped recipe is for: the header of its file shows the command."""
    found = re.search(r"-m (verl\.trainer\.\w+)", (RECIPES / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return found[1] if found else RL_TRAINER


def check_command_line(arguments: Sequence[str], program: str | None = None) -> None:
    """Refuse a command line that asks for a recipe and would train something else.

    `+group=name` with a group that Hydra does not find *adds a key* `group: name` and composes verl's defaults. With
    our search path in place the group `recipe` is found, and Hydra itself refuses an unknown name. What is left to
    refuse here: a misspelt group, a recipe under the wrong program, and an installation that has lost its recipes.

    Args:
        arguments: the command line without the program.
        program: the module that `python -m` runs, if any.

    Raises:
        SystemExit: with what to write or do instead.
    """
    recipes = shipped_recipes()
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            continue
        names = [name.strip(" '\"") for name in match["value"].strip("[] ").split(",")]
        ours = [name for name in names if name in recipes]
        if match["group"] == "recipe":
            if not recipes:
                raise SystemExit(
                    f"cinema-verl: {argument} asks for a recipe, and this installation has none below {RECIPES}: "
                    "verl would train its own defaults. Install cinema-verl again."
                )
            for name in ours:
                if program in PROGRAMS and program_of(name) != program:
                    raise SystemExit(f"cinema-verl: {argument} is for {program_of(name)}, and this is {program}.")
        # Whoever brings a configuration directory may have groups of any name, and an option called like ours.
        elif match["plus"] and ours and not any(a.split("=")[0] in _OWN_CONFIGS for a in arguments):
            raise SystemExit(
                f"cinema-verl: {argument} would only add a key to the configuration, and verl would train its own "
                f"defaults. The group is called recipe: +recipe={match['value']}"
            )


def running_module() -> str | None:
    """What follows `-m` on this process's command line (`sys.argv[0]` is a bare "-m" while packages are imported)."""
    line = sys.orig_argv
    return line[line.index("-m") + 1] if "-m" in line[:-1] else None
