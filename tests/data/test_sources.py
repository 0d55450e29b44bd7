"""A source of somebody's own package is known wherever the shipped ones are."""

import json

import pytest

from cinema_verl.data import sources
from cinema_verl.data.directory import read_questions
from cinema_verl.evaluate.questions import known_sources
from cinema_verl.prepare.commands import decontaminate as decontaminate_command
from cinema_verl.prepare.commands.prepare import main
from cinema_verl.prepare.sources import adapter

HARBOUR = '''"""Harbour: questions about ships.

Unpack the archive beside the rows.
"""

from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def convert(row):
    return build(
        source_id=fields.text(row, "number"),
        split="test",
        question=fields.text(row, "asked"),
        media=fields.pictures(row.get("photo"), "photo"),
        answer=fields.text(row, "gold"),
    )


ADAPTER = Adapter(
    name="harbour",
    summary="Harbour, questions about ships",
    license="mine",
    patterns=("*.jsonl",),
    example={"number": 1, "asked": "How many masts?", "photo": "ship.jpg", "gold": "3"},
    required=("number", "asked", "photo", "gold"),
    convert=convert,
    about=__doc__,
    benchmark=True,
)
'''
ENTRY = {sources.GROUP: {"harbour": "harbour:ADAPTER"}}


def test_an_installed_source_is_prepared_listed_and_evaluated(install, tmp_path, make_picture, capsys):
    assert "harbour" not in known_sources()
    install("harbour", ENTRY, HARBOUR)
    assert sources.kinds()["harbour"] == sources.BENCHMARK
    assert "harbour" in sources.names(sources.BENCHMARK)
    assert "harbour" not in sources.names(sources.TRAIN)
    assert "harbour" in known_sources()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ship.jpg").write_bytes(make_picture(1, kind="JPEG"))
    (tmp_path / "in" / "rows.jsonl").write_text(json.dumps(dict(adapter("harbour").example)) + "\n")
    given = ["harbour", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--workers", "0"]
    assert main(given) == 0
    (question,) = read_questions(tmp_path / "out")
    assert (question.uid, question.split, question.answer) == ("harbour/1", "test", "3")
    capsys.readouterr()
    for command, arguments in ((main, ["--help"]), (main, ["harbour", "--help"]), (decontaminate_command.main, ["-h"])):
        with pytest.raises(SystemExit):
            command(arguments)
        assert "harbour" in capsys.readouterr().out


def test_a_module_is_all_that_a_worker_needs(install, tmp_path, run):
    folder = install("harbour", ENTRY, HARBOUR)
    code = "from cinema_verl.prepare.sources import adapter; print(adapter('harbour').license)"
    done = run("-c", code, PYTHONPATH=str(folder))
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


def test_the_commands_say_it_in_a_line(install, capsys):
    install("harbour", ENTRY)
    for command in (main, decontaminate_command.main):
        assert command(["--help"]) == 1
        said = capsys.readouterr().err
        assert "harbour 1.0" in said
        assert said.count("\n") == 1


def test_an_unknown_source_is_refused_with_those_there_are():
    with pytest.raises(KeyError, match=r"no source is called 'x'; there are m4_instruct, .*mathvision"):
        adapter("x")
