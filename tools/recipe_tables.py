"""Where every value of a recipe comes from: read from the comments beside the values.

    python tools/recipe_tables.py docs/paper.md

A recipe line reads `key: value  # source: why`. The sources are named in `SOURCES`; a value without one is an error, so
no number can slip into a recipe unexplained.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from cinema_verl.utils.resolvers import package_path

SOURCES = {
    "paper": "the CINEMA paper, arXiv 2601.07298",
    "DAPO": "the DAPO paper, arXiv 2503.14476, or its published script",
    "verl": "a requirement or default of verl 0.9.1",
    "CPU": "what a machine without an accelerator demands",
    "our choice": "nobody's knowledge: chosen here, with the reason",
}
MARKER = "<!-- below: made by `python tools/recipe_tables.py docs/paper.md` -->"
_COMMENT = re.compile(rf"#\s*({'|'.join(SOURCES)}):\s+(\S.*)$")


@dataclass(frozen=True)
class Value:
    """One value of a recipe: dotted key, the value as written, source and reason."""

    key: str
    value: str
    source: str
    reason: str


class MissingSource(ValueError):
    """A recipe has a value whose line does not say where it comes from."""


def values(recipe: Path) -> list[Value]:
    """Every value of a recipe file, in order.

    Raises:
        MissingSource: naming file, line and key.
    """
    text = recipe.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    for key, node in _leaves(yaml.compose(text, Loader=yaml.SafeLoader), ""):
        line = lines[node.start_mark.line]
        comment = _COMMENT.search(line)
        if comment is None:
            raise MissingSource(
                f"{recipe}:{node.start_mark.line + 1}: {key} has no source; write `# source: why` beside it, with one "
                f"of {', '.join(SOURCES)}"
            )
        found.append(Value(key, text[node.start_mark.index : node.end_mark.index].strip(), *comment.groups()))
    return found


def _leaves(node: yaml.Node, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key, child in node.value:
            if not prefix and key.value == "defaults":
                continue  # what a recipe builds on is not a value
            yield from _leaves(child, f"{prefix}{key.value}.")
    else:
        yield prefix.rstrip("."), node


def tables() -> str:
    """The legend and one Markdown table a recipe."""
    parts = ["\n".join(f"* **{name}**: {meaning}" for name, meaning in SOURCES.items()) + "\n"]
    for recipe in sorted(Path(package_path("recipes/recipe")).glob("*.yaml")):
        parts.append(f"## Recipe {recipe.stem}\n\n| key | value | source | why |\n| --- | --- | --- | --- |")
        parts.append("\n".join(f"| `{v.key}` | `{v.value}` | {v.source} | {v.reason} |" for v in values(recipe)) + "\n")
    return "\n".join(parts)


def with_tables(page: str) -> str:
    """The page with everything below its marker made anew; see `below`."""
    return below(MARKER, page, tables)


def below(marker: str, page: str, made: Callable[[], str]) -> str:
    """A page with everything below a marker made anew.

    Raises:
        ValueError: if the page has no marker.
    """
    head, found, _ = page.partition(marker)
    if not found:
        raise ValueError(f"the page has no line {marker!r}")
    return f"{head}{marker}\n\n{made()}"


def rewrite(description: str | None, with_tables: Callable[[str], str]) -> None:
    """The command line of a tool that makes a page's tables anew."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the Markdown page, e.g. docs/paper.md")
    page: Path = parser.parse_args().page
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    rewrite(__doc__, with_tables)
