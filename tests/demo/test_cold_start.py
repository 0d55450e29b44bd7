"""The offline run: the scripted teacher and the questions at once, the whole of it as a slow test."""

import base64
import json
import random
from pathlib import Path

import pytest

from cinema_verl.cold_start.requests import Calls, SamplingSettings
from cinema_verl.cold_start.sampling import unusable
from cinema_verl.cold_start.tree import read
from cinema_verl.demo.cold_start import (
    FAULTS,
    ScriptedTeacher,
    canonical,
    compared,
    faults_of,
    incorrect_answer,
    main,
    problems,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    drawn = problems("train", 20, 0)
    return [
        (question, each.problem)
        for question, each in zip(canonical(drawn, tmp_path_factory.mktemp("data")), drawn, strict=True)
    ]


def request(question, path) -> dict:
    """A call as it goes over the wire."""
    images = {image.sha256: Path(image.path).read_bytes() for image in question.images}
    messages = [dict(message) for message in Calls(SamplingSettings(), "s", "t").refine(question, path, 0).messages]
    messages[-1]["content"] = [
        part
        if part["type"] == "text"
        else {
            "type": "image_url",
            "image_url": {"url": "data:image/png;base64," + base64.b64encode(images[part["sha256"]]).decode()},
        }
        for part in messages[-1]["content"]
    ]
    return {"messages": messages}


@pytest.mark.parametrize("path", [("focus", "think", "answer"), ("hint", "answer"), ("think", "answer")])
def test_the_teacher_follows_the_path_and_is_correct(pairs, path):
    teacher = ScriptedTeacher(pairs, incorrect=0, off_path=0)
    for question, _ in pairs:
        assert unusable(question, SamplingSettings()) is None
        sample = read("t", teacher(request(question, path), random.Random(0)), question)
        assert (sample.usable, sample.path, sample.correct) == (True, path, True)


def test_the_teacher_errs_when_told_to(pairs):
    wrong, stray = ScriptedTeacher(pairs, incorrect=1, off_path=0), ScriptedTeacher(pairs, incorrect=0, off_path=1)
    path = ("focus", "answer")
    for question, problem in pairs:
        sample = read("t", wrong(request(question, path), random.Random(0)), question)
        assert (sample.path, sample.correct) == (path, False)
        assert incorrect_answer(problem) != problem.answer
        sample = read("t", stray(request(question, path), random.Random(0)), question)
        assert (sample.path, sample.correct) == (("focus", "hint", "answer"), True)


def test_the_same_arguments_give_the_same_questions_and_other_splits_other_digits():
    assert problems("train", 10, 0) == problems("train", 10, 0) != problems("train", 10, 1)
    train = {name[:4] for each in problems("train", 200, 0) for name in each.images}
    assert not train & {name[:4] for each in problems("test", 200, 0) for name in each.images}


def test_faults_by_name():
    assert faults_of(None) == FAULTS
    assert faults_of(["none"]) == {}
    assert faults_of(["hang=0.1", "429=0.2"]) == {"hang": 0.1, "429": 0.2}
    for wrong in ("429", "fire=0.1", "429=much"):
        with pytest.raises(ValueError):
            faults_of([wrong])


def test_the_table_has_both_measurements():
    names = ("greedy_acc", "acc", "format", "pass_at_k", "unique_patterns")
    table = compared({"questions": 100} | dict.fromkeys(names, 0.25), dict.fromkeys(names, 0.5)).splitlines()
    assert table[0].split() == ["on", "100", "held-out", "questions", "before", "SFT", "after"]
    assert table[1].split()[-2:] == ["0.250", "0.500"]
    assert table[-1] == "(a share of 0.7 of 100 is known to +-0.09)"


@pytest.mark.slow
def test_the_whole_run_and_once_more(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--questions", "24", "--steps", "4", "--test", "16"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert "correct, at temperature 1" in first
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["questions"] == 24 == summary["cold_start"] + summary["rl"] + summary["left_out"]
    assert (tmp_path / "policy" / "model.safetensors").exists()
    before = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert '"requests": 0' in again
    assert again.splitlines()[-7:] == first.splitlines()[-7:]
    assert {path: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before
