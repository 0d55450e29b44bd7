"""Every page names files, headings, modules and recipes that are there."""

import importlib
import re
from pathlib import Path

import pytest

import cinema_verl.training.trainer  # noqa: F401  first: other modules of `training` alone meet verl half loaded
from cinema_verl.registration.command_line import shipped_recipes

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("studies/*/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
MODULE = re.compile(r"cinema_verl(?:\.\w+)+")
PATH = re.compile(r"`((?:cinema_verl|recipes|data_preprocess|tools|tests|benchmarks|docs)/[\w./-]+)`")
ENTRY_POINTS = {"answer_types", "sources", "prompt_modes", "annealing_shapes", "estimators"}


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for path, anchor in LINK.findall(prose(page)):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


# The changelog tells of what was removed, under the names that it had.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_what_is_named_is_there(page):
    text = page.read_text(encoding="utf-8")
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), path
    for name in set(MODULE.findall(text)):
        assert name.split(".")[1] in ENTRY_POINTS or exists(name), name
    for recipes in re.findall(r"\+recipe=\[?([\w,]+)", text):
        assert {*recipes.split(",")} - {"RECIPE", "cinemma"} <= {*shipped_recipes()}, recipes
