"""The command `cinema-verl` itself: help, versions, hints, and what it says of a package that is missing."""

import argparse
import os
import re
import subprocess
import sys
from importlib import metadata

import pytest

from cinema_verl import __version__, prompts
from cinema_verl.checks import environment
from cinema_verl.cli import COMMANDS, how_to_install, main


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert out.count(f"cinema-verl {command}") >= 2, "beside its usage, a command to run"


@pytest.mark.parametrize("arguments", [[each] for each in COMMANDS] + [["prepare", "own"]], ids=" ".join)
def test_every_option_is_explained_in_sentences(arguments, capsys, monkeypatch):
    shown = []
    plain = argparse.ArgumentParser.format_help
    monkeypatch.setattr(argparse.ArgumentParser, "format_help", lambda parser: shown.append(parser) or plain(parser))
    with pytest.raises(SystemExit):
        main([*arguments, "--help"])
    (parser,) = shown
    for action in parser._actions:
        assert action.help, action.dest
        if action.help != argparse.SUPPRESS:
            assert action.help[0].isupper(), action.help
            assert re.search(r"[.)…]( \(default.*\))?$", action.help), action.help


COMPLETED = [
    ("cinema-verl pref", "preflight"),
    ("cinema-verl plan --gpu", "--gpu-memory"),
    ("cinema-verl cold-start --teacher-nat", "--teacher-native-reasoning"),
]


@pytest.mark.parametrize(("line", "completion"), COMPLETED)
def test_the_shell_completes(line, completion, tmp_path):
    pytest.importorskip("argcomplete", reason="the extra `completion` is not installed")
    asks = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    files = {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "completions"), "_ARGCOMPLETE_IFS": "\n"}
    command = [sys.executable, "-m", "cinema_verl"]
    subprocess.run(command, env={**os.environ, **asks, **files}, check=False, capture_output=True)
    assert completion in (tmp_path / "completions").read_text().split()


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"cinema-verl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["docktor"], "doctor"),
        (["prefligth", "+recipe=cinema"], "preflight"),
        (["doctor", "--no-rya"], "--no-ray"),
        (["preflight", "+recipe=cinema", "--gallary", "x.html"], "--gallery"),
        (["report", "--outptu=x", "."], "--output"),
        (["preflight", "+recipe=cinma"], "cinema"),
        (["preflight", "+recipe=cinema", "data.trian_files=a.parquet"], "train_files"),
    ],
)
def test_what_is_misspelt_gets_the_nearest_name(arguments, nearest, capsys):
    assert f"Did you mean {nearest}?" in refused(arguments, capsys)


def test_what_is_near_to_nothing_gets_no_hint(capsys):
    assert "Did you mean" not in refused(["xyzzy"], capsys)
    assert "Did you mean" not in refused(["ask", "--model", "a"], capsys), "two options are not near for their dashes"


# --- The end, when it comes from outside ------------------------------------------------------------------------

ENDS = """
import sys, types
from cinema_verl import cli

def main(arguments):
    {body}

sys.modules["mine"] = types.SimpleNamespace(main=main)
cli.COMMANDS["report"] = ("mine", "")
sys.exit(cli.main(["report"]))
"""


def test_ctrl_c_is_a_line_and_an_exit_code(run):
    done = run("-c", ENDS.format(body="raise KeyboardInterrupt"))
    assert (done.returncode, done.stderr) == (130, "\ncinema-verl report: interrupted\n")


@pytest.mark.parametrize("lines", [1, 100_000])
def test_who_reads_no_further_ends_it_without_a_word(lines, tmp_path):
    """As `head -1` does. A short output is written at the end only, a long one while it is made."""
    end, pipe = os.pipe()
    os.close(end)
    with open(pipe, "wb") as nobody:
        code = ENDS.format(body=f"print('words\\n' * {lines}); return 0")
        done = subprocess.run([sys.executable, "-c", code], stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


# --- A package that is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("sentence_transformers", "pip install 'cinema-verl[cold-start]'"),
        ("vllm", None),
        ("httpx", "pip install cinema-verl"),
        ("cinema_verl", None),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module, says):
    advice = how_to_install(module)
    assert (advice is None) == (says is None)
    assert says is None or says in advice


def test_a_command_that_lacks_its_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "report", ("needs_one", ""))
    monkeypatch.setattr("cinema_verl.cli.importlib.import_module", _without("sentence_transformers"))
    assert main(["report"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cinema-verl report: No module named 'sentence_transformers'.")
    assert "cinema-verl[cold-start]" in said


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch):
    monkeypatch.setattr("cinema_verl.cli.importlib.import_module", _without("cinema_verl.gone"))
    with pytest.raises(ModuleNotFoundError):
        main(["report"])


def _without(module):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    return import_module


# --- cinema-verl env ------------------------------------------------------------------------------------------


def test_what_to_paste_into_an_issue(monkeypatch, capsys):
    monkeypatch.setenv("CINEMA_JUDGE_API_KEY", "secret-key")
    monkeypatch.setenv("CINEMA_JUDGE_URL", "http://inside.example/v1")
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"```\ncinema-verl {__version__} (")
    assert f"\nverl {metadata.version('verl')}\n" in out
    assert "plugin: loaded" in out
    assert "CINEMA_JUDGE_API_KEY" in out
    assert "secret-key" not in out
    assert "inside.example" not in out
    assert os.getcwd() not in out
    assert not re.search(r"(?<![\w.<>])/(home|root|work|tmp|usr)/", out)


def test_paths_are_taken_out_of_what_went_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = f"ImportError: {tmp_path}/mine/lib/python3.11/site-packages/torch/x.so, {tmp_path}/secret"
    assert environment.without_paths(text) == "ImportError: .../torch/x.so, ~/secret"


def test_an_extension_that_cannot_be_used_is_named_in_a_line(install, capsys):
    install("mine", {prompts.GROUP: {"brief": "mine:BRIEF"}})
    assert main(["cold-start", "--help"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("cinema-verl cold-start: the entry point brief = 'mine:BRIEF' of distribution mine 1.0")
    assert said.count("\n") == 1


def test_alone_it_shows_what_there_is(capsys):
    assert main([]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in COMMANDS)


def test_an_option_that_is_not_quite_one_gets_a_hint(capsys):
    assert "Did you mean --version?" in refused(["--verion"], capsys)
