"""The configuration that verl prints is in a file; every other line is on the console."""

import io
import sys
from pprint import pformat

import pytest

from cinema_verl.training.quiet import SHOW_CONFIG, configuration_to_file, without_configuration

CONFIG = {
    "actor_rollout_ref": {"actor": {"entropy_coeff": 0.1, "list": list(range(60))}, "model": {"path": "somewhere"}},
    "trainer": {"default_local_dir": "outputs/first", "total_epochs": 3},
}


def said_by(who, lines, color):
    """What Ray writes of a process: a text a line, then the end of the line."""
    prefix = f"\x1b[36m({who})\x1b[0m " if color else f"({who}) "
    for line in lines:
        yield prefix + line
        yield "\n"


@pytest.fixture
def console(monkeypatch):
    monkeypatch.delenv(SHOW_CONFIG, raising=False)

    def console():
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)  # in the test: pytest has put its own there after the fixtures
        return stream

    return console


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("node", ["", ", ip=10.0.0.7"])
def test_its_lines_are_dropped_and_no_others(console, tmp_path, color, node):
    stream = console()
    runner, worker = f"TaskRunnerV1 pid=11{node}", "WorkerDict pid=12"
    lines = pformat(CONFIG).splitlines()
    assert len(lines) > 20
    texts = [
        *said_by(runner, ["checkpoints are kept", " a line with a space before"], color),
        *said_by(runner, lines[:5], color),
        *said_by(worker, [" loading", "{'actor_rollout_ref': {"], color),
        *said_by(runner, lines[5:], color),
        *said_by(runner, ["step:1 - loss:0.5", " spaced", *lines[:3]], color),
    ]
    with configuration_to_file(tmp_path / "config.yaml"):
        for text in texts:
            sys.stdout.write(text)
        print("of the driver itself", file=sys.stdout)
    assert sys.stdout is stream
    said = stream.getvalue()
    assert said.count(str(tmp_path / "config.yaml")) == 1
    assert "entropy_coeff" in said.split("step:1")[1], "a second one is not the start's"
    kept = ("checkpoints are kept", " a line with a space", " loading", "step:1", " spaced", "of the driver itself")
    assert all(line in said for line in kept)
    assert "total_epochs" not in said
    assert "\n\n" not in said


def test_a_switch_shows_it(console, tmp_path, monkeypatch):
    stream = console()
    monkeypatch.setenv(SHOW_CONFIG, "1")
    with configuration_to_file(tmp_path / "config.yaml"), without_configuration(lambda: CONFIG, "elsewhere"):
        assert sys.stdout is stream
        print(CONFIG)
    assert str(CONFIG) in stream.getvalue()


def test_what_is_printed_as_one_text_is_replaced(console):
    stream = console()
    with without_configuration(lambda: CONFIG, "elsewhere"):
        print("before")
        print(CONFIG)
        print({"other": list(range(99))})
    said = stream.getvalue()
    assert said.splitlines()[:2] == ["before", "elsewhere"]
    assert "'other'" in said
    assert "entropy_coeff" not in said


def test_the_stream_is_what_it_was_otherwise(console, tmp_path):
    console()
    with configuration_to_file(tmp_path / "config.yaml"):
        assert sys.stdout.isatty() is False
        sys.stdout.flush()
        assert sys.stdout.getvalue() == ""
