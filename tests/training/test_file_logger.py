"""The `file` logger: one JSON a step, whose history survives a resumed run."""

import json
import os

import pytest

from cinema_verl.training.file_logger import AppendingFileLogger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "metrics.jsonl"


def record(path, steps, resume_step=0):
    logger = AppendingFileLogger(path, resume_step=resume_step)
    for step in steps:
        logger.log({"cinema/acc": step / 10}, step)
    logger.finish()


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_are_verls(path):
    record(path, [1])
    assert path.read_text() == '{"step":1,"data":{"cinema/acc":0.1}}\n'


def test_a_resumed_run_goes_on_after_its_checkpoint(path):
    record(path, [1, 2, 3, 4, 5])
    record(path, [4, 5, 6], resume_step=3)
    assert steps(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("tail", ['{"step":3,"da', '{"step":3,"data":{}}', "3\n", "[]\n", "\n", '{"data":{}}\n'])
def test_what_a_crash_left_behind_is_dropped(path, tail):
    record(path, [1, 2])
    with open(path, "a") as file:
        file.write(tail)
    record(path, [4], resume_step=3)
    assert steps(path) == [1, 2, 4]


def test_a_new_run_starts_a_new_file(path):
    record(path, [1, 2])
    record(path, [1])
    assert steps(path) == [1]


def test_resuming_without_a_history_starts_one(path):
    record(path, [4], resume_step=3)
    assert steps(path) == [4]


def test_every_record_is_on_disk_at_once(path):
    logger = AppendingFileLogger(path, resume_step=0)
    logger.log({"x": 1.0}, 1)
    assert steps(path) == [1], "a kill -9 after this loses nothing"
    logger.finish()


def test_a_kill_while_the_history_is_rewritten_loses_nothing(path, monkeypatch):
    record(path, [1, 2, 3])
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            AppendingFileLogger(path, resume_step=2)
    assert path.read_bytes() == before
    record(path, [3], resume_step=2)
    assert steps(path) == [1, 2, 3]
