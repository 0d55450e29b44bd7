"""Is the code that a configuration names there? verl loads it in its workers, minutes into a run."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from omegaconf import DictConfig

from cinema_verl.training.refusal import Facts, Refusal, value_of
from cinema_verl.utils.arguments import did_you_mean

_NAMED: Final = ("reward.custom_reward_function", "data.custom_cls")
"""Sections with a `path` and a `name` (`verl.utils.import_utils.load_extern_object`)."""


def missing_code(config: DictConfig, _: Facts) -> Iterator[Refusal]:
    """Every file, module or name of code that is not there; nothing of it is run."""
    for section in _NAMED:
        path, name = value_of(config, f"{section}.path"), value_of(config, f"{section}.name")
        if not path:
            continue
        source = _source(str(path))
        if source is None:
            continue
        if not source.is_file():
            yield Refusal(f"{section}.path", f"{path} does not exist", "correct the path, or the module after pkg://")
        elif (known := _defined(source)) is not None and name not in known:
            yield Refusal(
                f"{section}.name", f"{path} defines no {name}", f"correct the name{did_you_mean(str(name), known)}"
            )


def _source(path: str) -> Path | None:
    """The file that verl loads; None where that is not known here. One that is not there for a module that is not."""
    if not path.startswith("pkg://"):
        local = path.removeprefix("file://")
        return None if re.match(r"\w+://", local) else Path(local)
    module = path.removeprefix("pkg://")
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return Path(module)
    if found is None:
        return Path(module)
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def _defined(source: Path) -> set[str] | None:
    """Names at the top level of a file; None where they are not known without running it."""
    try:
        body = ast.parse(source.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return None  # said by Python, with the line
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif not isinstance(node, ast.Expr):
            return None  # an `if` or a `try` may define anything
    return None if "*" in names else names
