"""`cinema-verl doctor`: will this machine train what the command line says?

The installation is looked at in the driver and in a Ray worker on every node; the recipe is composed as the run would
compose it, what it selects is looked up, and the run's own verdict is asked. Every finding that is not well says what
to do.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from cinema_verl.checks.cluster import workers
from cinema_verl.checks.compose import WHERE, UsageError, compose, default_recipe, program_for, split_overrides
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.judge import inspect_judge
from cinema_verl.checks.process import REPORT, inspect_process
from cinema_verl.checks.quiet import quiet
from cinema_verl.checks.selection import inspect_selection
from cinema_verl.registration.command_line import RL_TRAINER
from cinema_verl.training.model_folder import folder_refusals
from cinema_verl.training.verdict import refusals
from cinema_verl.utils.arguments import Parser

EXAMPLES = """\
examples:
  cinema-verl doctor                              the recipe for this machine: cinema, or cinema_cpu without a GPU
  cinema-verl doctor +recipe=cinema trainer.nnodes=2 actor_rollout_ref.rollout.name=vllm
  cinema-verl doctor --no-ray                     faster, but cannot see what Ray workers see
  cinema-verl doctor --json | jq '.[] | select(.ok == false)'

The exit code is 0 when nothing is wrong and 1 otherwise. Lines that begin with "-" are for your information.
"""


def examine(recipe: str | None = None, overrides: Sequence[str] = (), with_ray: bool = True) -> list[Finding]:
    """Every finding about this machine and one recipe; the first questions come first."""
    findings: list[Finding] = []
    if recipe is None or importlib.util.find_spec("verl") is None:
        findings = inspect_process("driver")
        if "verl" not in sys.modules:
            return findings
    with quiet():
        recipe = recipe or default_recipe()
        config, composed = compose(recipe, overrides)
    rl = config is not None and program_for(recipe) == RL_TRAINER
    engine = config.actor_rollout_ref.rollout.name if rl else None
    with workers(config if rl else None, engine) if with_ray else nullcontext(list) as others:
        findings = findings or inspect_process("driver")
        if "verl" not in sys.modules:
            return findings
        findings += composed
        if config is not None:
            with quiet():
                findings += inspect_config(config, rl=rl)
        return [*findings, *others()]


def inspect_config(config: Any, *, rl: bool) -> list[Finding]:
    """What is selected, and what the run itself will say before it starts."""
    findings = []
    if rl:
        try:
            findings += inspect_selection(config)
        except Exception as error:  # a broken registry is reported already; the doctor must not die of it
            findings.append(Finding(WHERE, "selection", False, f"{type(error).__name__}: {error}", REPORT))
    found = refusals(config)
    if not any(refusal.key.endswith("model.path") for refusal in found):  # else the folder's faults are said already
        found += folder_refusals(config)
    findings += [Finding.of(WHERE, refusal) for refusal in found]
    if not found:
        findings.append(Finding(WHERE, "verdict", True, "the run would accept this configuration"))
    return [*findings, *inspect_judge()]


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl doctor`; see `--help`."""
    parser = Parser(
        prog="cinema-verl doctor",
        description="Check that plugin, recipe, versions and Ray workers fit together, before a run does.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", help="the same as +recipe=RECIPE (default: the one for this machine)")
    parser.add_argument("--no-ray", action="store_true", help="do not start or join Ray")
    parser.add_argument("--json", action="store_true", help="print a JSON array of findings instead of lines")
    parser.add_argument("overrides", nargs="*", metavar="+recipe=NAME key=value", help="what the run to come is given")
    parsed = parser.parse_intermixed_args(arguments)
    named = [f"+recipe={parsed.recipe}"] if parsed.recipe else []
    given = [*named, *parsed.overrides]
    recipe, overrides = None, given
    if any(override.startswith("+recipe=") for override in given):
        try:
            recipe, overrides = split_overrides(given)
        except UsageError as error:
            parser.error(str(error))

    findings = examine(recipe, overrides, with_ray=not parsed.no_ray)
    if parsed.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    else:
        _print(findings)
    return int(any(finding.ok is False for finding in findings))


def _print(findings: Sequence[Finding]) -> None:
    where = None
    for finding in findings:
        if finding.where != where:
            where = finding.where
            print(f"\n{where}")
        print(f"  {finding}".replace("\n", "\n  "))
    wrong = sum(finding.ok is False for finding in findings)
    print(f"\n{'All is well.' if not wrong else f'{wrong} of {len(findings)} checks failed.'}")


if __name__ == "__main__":
    sys.exit(main())
