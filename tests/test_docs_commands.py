"""Every command on every page is one that there is: its program parses it, its recipe and overrides compose.

The tests of the pages run them, too (`test_docs_*`), but for those that need GPUs or downloads; here none is left out.
"""

import argparse
import importlib.util
import io
import json
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path

import pytest

import cinema_verl.training.trainer  # noqa: F401  first: other modules of `training` alone meet verl half loaded
from cinema_verl import cli
from cinema_verl.checks.compose import compose, split_overrides

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb"), *ROOT.glob("studies/*/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
HEREDOC = re.compile(r"<<(\w+)\n.*?^\1$", re.DOTALL | re.MULTILINE)  # what a command reads
QUOTE = re.compile(r"^>.*$", re.MULTILINE)  # messages
OURS = ("cinema-verl", "python", "torchrun", "make", "pytest", "pip")
THEIRS = {"cd", "curl", "done", "export", "for", "git", "hf", "ray", "vllm", "sbatch", "eval", "huggingface-cli"}
PLACEHOLDERS = {"N": "1", "RECIPE": "cinema", "SOURCE": "own", "NAME": "own", "$name": "own", "harbour": "own"}
"""What stands for a word of which not every one will do; a source that the reader has added, too."""


def text_of(page: Path) -> str:
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return page.read_text(encoding="utf-8")


def blocks_of(page: Path, *kinds: str) -> list[str]:
    """The lines of blocks of some kinds, those that go on joined."""
    text = HEREDOC.sub("", text_of(page).replace("\\\n", " "))
    blocks = [body for kind, body in FENCE.findall(text) if kind in kinds]
    if "" in kinds:
        blocks += re.findall(r"^ {4}(\S.*)$", FENCE.sub("", text), flags=re.MULTILINE)
    lines, open_ = [], ""
    for line in "\n".join(blocks).splitlines():
        open_ = f"{open_}\n{line}" if open_ else line
        with suppress(ValueError):  # a quotation that goes on in the next line
            shlex.split(open_, comments=True)
            lines.append(open_)
            open_ = ""
    return lines + open_.splitlines()


def spans_of(page: Path) -> list[str]:
    """What stands in the text as code, but for messages."""
    prose = FENCE.sub("", QUOTE.sub("", text_of(page)))
    return [" ".join(span.split()) for span in SPAN.findall(prose) if " " in span]


def words_of(line: str) -> list[str]:
    """The words of a command, without variables before and redirections behind it; none where it is no command."""
    try:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
    except ValueError:  # a sentence with an apostrophe
        return []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    for end in ("&", "|", ">", "&&", "2>", ";"):
        words = words[: words.index(end)] if end in words else words
    if words:
        words[0] = words[0].removeprefix(".venv/bin/")
    return words


def of_ours(page: Path) -> set[tuple[str, bool, str]]:
    """A page's commands: its name, whether a command is whole (else it is named in the text), and its words."""
    shown = {(page.name, True, shlex.join(words_of(line))) for line in blocks_of(page, "", "bash", "sh", "text")}
    named = {(page.name, False, shlex.join(words_of(line))) for line in spans_of(page)}
    found = {each for each in shown | named if each[2].split(" ")[0] in OURS}
    return {each for each in found if not re.match("cinema-verl '…' [a-z]", each[2])}  # the beginning of a message


FOUND = sorted(set().union(*map(of_ours, PAGES)))


class Parsed(Exception):
    """The program has understood its command line, and would go on."""


@pytest.fixture
def parsing(monkeypatch, tmp_path):
    """Programs stop when they have parsed their command line."""

    def stopping(parse):
        def parse_and_stop(parser, arguments=None, namespace=None):
            found = parse(parser, arguments, namespace)
            if getattr(found, "arguments", None) is None:  # else another parser comes after it
                raise Parsed
            return found

        return parse_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
    monkeypatch.chdir(ROOT)
    return monkeypatch


def composes(arguments: list[str]) -> None:
    recipe, overrides = split_overrides([word.replace("…", "x") for word in arguments])
    config, findings = compose(recipe, overrides)
    assert config is not None, findings[-1]


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def runs(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a Python program up to where it has parsed its command line."""
    module = words[0] == "-m"
    patch.setattr(sys, "argv", words[module:])
    run, name = (runpy.run_module, words[1]) if module else (runpy.run_path, str(ROOT / words[0]))
    with pytest.raises(Parsed):
        run(name, run_name="__main__")


def check(words: list[str], whole: bool, patch: pytest.MonkeyPatch) -> None:
    program, *rest = words
    rest = [re.sub(r"\bRECIPE\b", "cinema", PLACEHOLDERS.get(word, word)) for word in rest]
    whole = whole and not {"…", "..."} & {*rest}
    rest = [word for word in rest if word not in ("…", "...")]
    if program == "make":
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{target}:", makefile(), flags=re.MULTILINE), target
    elif program == "pip":
        extras = re.findall(
            r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        for named in re.findall(r"(?:\.|cinema-verl)\[([\w,-]+)\]", " ".join(rest)):
            assert {*named.split(",")} <= {*extras}, named
    elif program == "pytest":
        for path in (word for word in rest if "/" in word):
            assert (ROOT / path).exists(), path
    elif trainer := [word for word in rest if word.startswith("verl.trainer.")]:
        arguments = rest[rest.index(trainer[0]) + 1 :]
        assert importlib.util.find_spec(trainer[0])
        if whole or arguments:
            composes(arguments)
    elif program == "python":
        of_python(rest, whole, patch)
    elif program == "cinema-verl" and rest:
        of_cinema_verl(rest, whole, patch)
    else:
        assert not rest, f"nothing is known of {words}"


def of_python(words: list[str], whole: bool, patch: pytest.MonkeyPatch) -> None:
    if words[:2] == ["-m", "pytest"]:
        check(words[1:], whole, patch)
    elif words[0] == "-m":
        name = words[1] if len(words) > 1 else "cinema_verl"
        if name.split(".")[0] not in ("cinema_verl", "studies"):
            return  # theirs
        assert importlib.util.find_spec(name), name
        if whole:
            runs(words, patch)
    else:
        assert (ROOT / words[0]).is_file(), words[0]
        if whole or len(words) > 1:
            runs(words, patch)


def of_cinema_verl(words: list[str], whole: bool, patch: pytest.MonkeyPatch) -> None:
    assert words[0] in {*cli.COMMANDS, "--help", "--version"}, words[0]
    recipes = [word for word in words if word.startswith("+recipe=") and "…" not in word]
    if not whole:
        known = shown_help(words) if len(words) > 1 else ""
        for option in (word for word in words if word.startswith("--") and word != "--help"):
            assert option in known, option
    else:
        with pytest.raises((Parsed, SystemExit)) as stopped:
            cli.main(words)
        assert stopped.type is Parsed or stopped.value.code == 0, "it is not understood"
    if recipes:
        composes([word for word in words[1:] if "=" in word and word[0] != "-"])


def shown_help(words: list[str]) -> str:
    command = ["prepare", "own"] if words[0] == "prepare" else words[:1]
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    return shown.getvalue()


def test_every_page_is_read_and_every_program_known():
    assert {"README.md", "tutorial.md", "tour.ipynb", "science.md", "models.md"} <= {page.name for page in PAGES}
    assert len(FOUND) > 150
    for page in PAGES:
        for line in blocks_of(page, "bash", "sh"):
            assert not (words := words_of(line)) or words[0] in {*OURS, *THEIRS}, f"{page.name}: {line}"


@pytest.mark.parametrize(("page", "whole", "command"), FOUND, ids=lambda value: str(value)[:60])
def test_a_command_is_understood(page, whole, command, parsing, capsys):
    try:
        check(shlex.split(command), whole, parsing)
    except (SystemExit, AssertionError) as error:
        raise AssertionError(f"{page}: {command}\n{error}\n{capsys.readouterr().err}") from error
