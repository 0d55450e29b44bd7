"""The one-way flow of imports that docs/architecture.md promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cinema_verl"
CORE = ("meta_action", "prompts", "verify", "reward", "diversity", "schedule", "settings")


def imported_by(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", CORE)
def test_the_core_loads_neither_torch_nor_verl(module):
    program = f"import sys, cinema_verl.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "verl", "ray", "transformers"} & set(loaded)


def test_nothing_imports_the_trainer():
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    guilty = [path.name for path in files if path.name != "trainer.py" and "cinema_verl.trainer" in imported_by(path)]
    assert guilty == []  # the plugin names it in a table and imports it when verl asks


def test_only_the_plugin_reaches_into_the_cpu_folder():
    allowed = {"hooks.py", "plugin.py", "doctor.py"}
    guilty = [
        path.name
        for path in PACKAGE.glob("*.py")
        if path.name not in allowed and any(name.startswith("cinema_verl.cpu") for name in imported_by(path))
    ]
    assert guilty == []
