"""The house that docs/architecture.md describes: its rooms, and the arrows that are allowed between them."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cinema_verl"

PAPER = {"meta_action", "prompts", "verify", "reward", "diversity", "schedule"}
"""The method, in the order of the paper: pure Python and NumPy."""
MAY_IMPORT: dict[str, set[str]] = {
    "utils": set(),
    "meta_action": set(),
    "diversity": set(),
    "schedule": {"utils"},
    "prompts": {"meta_action", "utils"},
    "endpoint": {"utils"},
    "verify": {"meta_action", "endpoint", "utils"},
    "reward": {"meta_action", "prompts", "verify", "utils"},
    "registration": {"rollout", "utils"},
    "rollout": {"utils"},
    "data": {"meta_action", "prompts", "verify", "reward", "utils"},
    "runs": {"meta_action", "schedule", "utils"},
    "prepare": {"data", "prompts", "verify", "utils"},
    "evaluate": {"data", "runs", "diversity", "utils"},
    "training": {*PAPER, "data", "runs", "evaluate", "rollout", "utils"},
    "cold_start": {"data", "endpoint", "meta_action", "prompts", "verify", "utils"},
    "report": {"runs", "meta_action", "diversity", "schedule", "utils"},
    "export": {"meta_action", "prompts", "schedule", "data", "evaluate", "prepare", "runs", "training", "utils"},
    "ask": {"meta_action", "prompts", "verify", "endpoint", "rollout", "runs", "export", "training", "utils"},
    "checks": {*PAPER, "data", "evaluate", "registration", "training", "utils"},
    "demo": {*PAPER, "data", "prepare", "cold_start", "rollout", "runs", "evaluate", "report", "checks", "utils"},
    "cli": {"utils"},
    "__main__": {"cli"},
    "plugin": {"registration"},
    "__init__": PAPER - {"prompts"},
}
"""For each room, the rooms below it that it may use. The first line of the package's `__init__` is everybody's."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_by(path: Path) -> set[str]:
    """Every module of this package that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "cinema_verl":
            names |= {f"cinema_verl.{alias.name}" for alias in node.names if not alias.name.startswith("__")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.startswith("cinema_verl.")}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "recipes" not in path.parts)


def test_imports_go_one_way_between_the_rooms():
    assert len(FILES) > 100
    found = defaultdict(set)
    for path in FILES:
        for name in imported_by(path):
            target = name.split(".")[1]
            if target != room_of(path) and target not in MAY_IMPORT[room_of(path)]:
                found[f"{room_of(path)} -> {target}"].add(str(path.relative_to(PACKAGE)))
    assert dict(found) == {}


LAZY = {
    "registration/hooks.py": "every process that imports verl runs it",
    "verify/judge.py": "the reward should not load httpx",
    "prepare/convert.py": "none: utils.torchvision no longer loads torch, so this one can move up",
}
"""Where modules of this package are imported inside functions, and why."""


def test_imports_inside_functions_have_a_reason():
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [each for each in ast.walk(node) if isinstance(each, ast.ImportFrom) and each.module]
                if any(each.module.startswith("cinema_verl") for each in inner):
                    found.add(str(path.relative_to(PACKAGE)))
    assert found <= LAZY.keys()


def test_the_allowed_arrows_have_no_circle():
    """Taking away the rooms that use none of those left, floor by floor, leaves nothing."""
    left = {room: set(below) for room, below in MAY_IMPORT.items()}
    while floor := {room for room, below in left.items() if not below & left.keys()}:
        left = {room: below for room, below in left.items() if room not in floor}
    assert left == {}


def test_the_root_is_the_paper_and_the_ways_in():
    files = {path.name for path in PACKAGE.iterdir() if path.is_file() and path.suffix == ".py"}
    assert files == {f"{name}.py" for name in MAY_IMPORT if (PACKAGE / f"{name}.py").exists()}
    assert len(files) <= 9
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"templates", "recipes"} == {name for name in MAY_IMPORT if (PACKAGE / name).is_dir()}
    assert len(folders) <= 18


@pytest.mark.parametrize("module", sorted(PAPER))
def test_the_paper_loads_neither_torch_nor_verl(module):
    program = f"import sys, cinema_verl.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "verl", "ray", "transformers"} & set(loaded)


def test_the_paper_is_short():
    for name in PAPER - {"verify"}:
        assert len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 300, name


def test_nothing_imports_the_trainer():
    guilty = [str(path) for path in FILES if "cinema_verl.training.trainer" in imported_by(path)]
    assert guilty == []  # `registration.hooks` names it in a table, and verl's import of its own trainers loads it


def test_functions_are_short():
    """A function of more than 80 lines, its docstring included, is more than one thought."""
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > 80:
                    long.append(f"{path.relative_to(PACKAGE)}:{node.name} {lines}")
    assert long == []
