"""docs/troubleshooting.md quotes messages that the code has, and every entry says something."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^> (.*)$", PAGE, flags=re.MULTILINE)


def words_of(node: ast.expr) -> str:
    """A string as the source has it, with a gap for each value that is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return words_of(node.left) + words_of(node.right)
    return "…"


@cache
def literals() -> list[str]:
    found = []
    for path in (ROOT / "cinema_verl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                found.append(" ".join(words_of(node).split()))
    return found


def says(literal: str, parts: list[str]) -> bool:
    """Whether the parts stand in the literal, in their order."""
    at = 0
    for part in parts:
        at = literal.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def test_there_are_many():
    assert len(QUOTED) >= 40
    assert len(re.findall("^### ", PAGE, flags=re.MULTILINE)) >= 30


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_that_is_quoted_is_in_the_code(message):
    parts = [part for part in re.split(r"\s*…\s*", message) if len(part.strip(" .,:;()")) > 2]
    assert parts
    assert any(says(literal, parts) for literal in literals()), parts
