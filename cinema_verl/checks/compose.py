"""A recipe and its overrides, composed as the run composes them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from cinema_verl.checks.finding import Finding
from cinema_verl.registration.command_line import PROGRAMS, RL_TRAINER, program_of, shipped_recipes
from cinema_verl.registration.search_path import PROVIDER, CinemaSearchPath
from cinema_verl.training.values import misspelt, unread
from cinema_verl.utils.arguments import did_you_mean

WHERE = "recipe"
_NO_KEY = re.compile(r"full_key: ([\w.]+)")  # as OmegaConf names a key that is not there


class UsageError(ValueError):
    """A command line that no run could have."""


def split_overrides(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe's name, and the other overrides.

    Raises:
        UsageError: No recipe, or two.
    """
    recipes = [argument.removeprefix("+recipe=") for argument in arguments if argument.startswith("+recipe=")]
    if len(recipes) != 1:
        raise UsageError(f"name one recipe, as the run does: +recipe=NAME, of {', '.join(shipped_recipes())}")
    return recipes[0], [argument for argument in arguments if not argument.startswith("+recipe=")]


def default_recipe() -> str:
    """The recipe for this machine, as verl would detect its platform."""
    from verl.plugin.platform import get_platform

    return "cinema_cpu" if get_platform().device_name == "cpu" else "cinema"


def program_for(recipe: str) -> str:
    """The program that a recipe is for, reinforcement learning where it is none of ours."""
    recipes = [name for name in recipe.strip("[]").split(",") if name in shipped_recipes()]
    return program_of(recipes[0]) if recipes else RL_TRAINER


def compose(recipe: str, overrides: Sequence[str]) -> tuple[Any, list[Finding]]:
    """Compose what `python -m verl.trainer.… +recipe=RECIPE OVERRIDES` would compose.

    Returns:
        The configuration (None if it does not compose), and the findings about search path and composition.
    """

    program = program_for(recipe)
    Plugins.instance().register(CinemaSearchPath)  # as the plugin does when verl is imported
    with initialize_config_dir(_configurations(), version_base=None):
        findings = _search_path(recipe)
        if findings[0].ok is False:
            return None, findings
        try:
            config = hydra_compose(PROGRAMS[program], overrides=[f"+recipe={recipe}", *overrides])
        except Exception as error:  # Hydra's own errors have many types, and all are the user's to correct
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            advice = f"correct the recipe's name or the override{_hint(recipe, f'{error}{cause}')}"
            return None, [*findings, Finding(WHERE, f"+recipe={recipe}", False, f"{error}{cause}", advice)]
    findings.append(Finding(WHERE, f"+recipe={recipe}", True, f"composes for {program}"))
    found = [*misspelt(config, overrides), *unread(config, overrides)]
    return config, [*findings, *(Finding.of(WHERE, refusal) for refusal in found)]


def _configurations() -> str:
    """verl's folder of configurations, found without importing verl, which takes longer than all that is done here.

    Raises:
        ModuleNotFoundError: verl is not installed.
    """
    found = importlib.util.find_spec("verl")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'verl'", name="verl")
    return str(Path(found.submodule_search_locations[0], "trainer", "config").absolute())


def _search_path(recipe: str) -> list[Finding]:
    """Whether Hydra finds our recipes, and takes them from us."""
    sources = [s for s in GlobalHydra.instance().config_loader().get_sources() if s.is_group("recipe")]
    ours = next((s for s in sources if s.provider == PROVIDER), None)
    if ours is None:
        advice = "pip install cinema-verl again: its recipes or the package hydra_plugins are missing"
        return [Finding(WHERE, "search path", False, "Hydra finds no recipes of cinema-verl", advice)]
    findings = [Finding(WHERE, "search path", True, f"{ours.scheme()}://{ours.path}")]
    shadow = next(s for s in sources if s.is_config(f"recipe/{recipe}") or s is ours)
    if shadow is not ours:
        detail = f"recipe/{recipe} is taken from {shadow.provider} ({shadow.path}), which comes before ours"
        findings.append(Finding(WHERE, "search path", False, detail, "rename that file, or take it off the path"))
    return findings


def _hint(recipe: str, message: str) -> str:
    """The nearest recipe, or the nearest key beside one that Hydra does not find."""
    known = shipped_recipes()
    if recipe not in known:
        return did_you_mean(recipe, known)
    found = _NO_KEY.search(message)
    if found is None:
        return ""
    parent, _, key = found[1].rpartition(".")
    config = hydra_compose(PROGRAMS[program_for(recipe)], overrides=[f"+recipe={recipe}"])
    beside = OmegaConf.select(config, parent) if parent else config
    return did_you_mean(key, map(str, beside or ()))
