"""Whether a trainer's command line gets the recipe that it names, from files alone and before Hydra reads it.

`+recipe=cinema` is the whole difference between CINEMA and verl's defaults, and where Hydra does not find the group of
such an override, it silently adds a plain key. Programs that recipes are not for are left alone.
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
_CHECKED = {**PROGRAMS, "verl.trainer.sft_trainer_ray": PROGRAMS[SFT_TRAINER], "cinema_verl": None}
"""Every program whose command line is checked, and its primary configuration; our own commands compose any of them."""

_OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<group>[\w/-]+)(?:@[\w.:]*)?=(?P<value>.*)")
_OWN_CONFIGS = ("--config-dir", "-cd", "--config-path", "-cp")


def shipped_recipes() -> tuple[str, ...]:
    """The names that `+recipe=` accepts, from the files inside this installation."""
    return tuple(sorted(path.stem for path in RECIPES.glob("recipe/*.yaml")))


def program_of(recipe: str) -> str:
    """The verl program that a shipped recipe is for: the header of its file shows the command."""
    found = re.search(r"-m (verl\.trainer\.\w+)", (RECIPES / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return found[1] if found else RL_TRAINER


def check_command_line(arguments: Sequence[str], program: str | None) -> None:
    """Refuse a command line that asks for a recipe and would train something else.

    `+group=name` with a group that Hydra does not find *adds a key* `group: name` and composes verl's defaults. With
    our search path in place the group `recipe` is found, and Hydra itself refuses an unknown name. What is left to
    refuse here: a misspelt group, a recipe under the wrong program, and an installation that has lost its recipes.

    Args:
        arguments: the command line without the program.
        program: what is running (`running_program`); None, for a program that recipes are not for, refuses nothing.

    Raises:
        SystemExit: with what to write or do instead.
    """
    if program is None:
        return
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
                if _CHECKED[program] not in (None, PROGRAMS[program_of(name)]):
                    raise SystemExit(f"cinema-verl: {argument} is for {program_of(name)}, and this is {program}.")
        # A configuration directory of the user's may have groups of any name, with options that are called like ours.
        elif match["plus"] and ours and not any(a.split("=")[0] in _OWN_CONFIGS for a in arguments):
            raise SystemExit(
                f"cinema-verl: {argument} would only add a key to the configuration, and verl would train its own "
                f"defaults. The group is called recipe: +recipe={match['value']}"
            )


def running_program(line: Sequence[str] | None = None) -> str | None:
    """Which of the programs that recipes are for is running.

    It is recognised however it was started: `python -m`, also behind a debugger, profiler or launcher; torchrun, which
    starts its ranks in these ways; the path of verl's file; the console script of this package.

    Args:
        line: the command line with the interpreter; this process's (`sys.orig_argv`) by default, because `sys.argv[0]`
            is a bare "-m" while packages are imported.

    Returns:
        The dotted name of the program, or None for one that recipes are not for.
    """
    line = sys.orig_argv if line is None else line
    script = next((argument for argument in line[1:] if not argument.startswith("-")), "")
    if Path(script).name == "cinema-verl":
        return "cinema_verl"
    for before, argument in zip(["", *line], line, strict=False):
        module = argument if re.fullmatch(r"-[A-Za-z]*m", before) else argument[2:] if argument.startswith("-m") else ""
        file = Path(argument).absolute()
        name = ".".join(file.with_suffix("").parts[-3:]) if file.suffix == ".py" and "=" not in argument else ""
        if found := {module, name} & _CHECKED.keys():
            return found.pop()
    return None
