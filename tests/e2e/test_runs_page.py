"""docs/runs.md, its first half: reinforcement learning is started, stopped, moved, resumed and cut anew as it says.

The other half is followed in `training/sft/test_docs.py`.
"""

import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from cinema_verl.runs.locate import CONFIG, METRICS, RUN
from cinema_verl.runs.metrics import records
from cinema_verl.training.checkpoint import TRACKER, complete_steps, world_sizes
from cinema_verl.training.stop_signal import EXIT_CODE

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "runs.md").read_text(encoding="utf-8")
SECTION = PAGE[: PAGE.index("## The cold start")]
TIME_LIMIT = 900  # seconds; a run takes about one minute
PROGRAMS = {"python": [sys.executable], "cinema-verl": [sys.executable, "-m", "cinema_verl"]}


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_names_what_there_is():
    for name in (RUN, CONFIG, METRICS, TRACKER, str(EXIT_CODE), "rollouts/", "validation/"):
        assert name in SECTION


def test_every_command_of_a_training_is_a_configuration():
    found = re.findall(r"verl\.trainer\.main_ppo (.*)", SECTION)
    assert len(found) == 3
    for overrides in found:
        given = [one.replace("…", "x") for one in overrides.split() if one != "…"]
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("ppo_trainer", overrides=given)
        assert config.trainer.v1.trainer_mode == "cinema"


@pytest.mark.slow
def test_its_commands_train_stop_go_on_and_are_looked_at(tmp_path):
    for name in ("data_preprocess", "cinema_verl"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    _, data, train, report, reshard = commands()

    def start(command, folder="outputs/rl"):
        program, *arguments = [word.replace("outputs/rl", folder) for word in command]
        log = (tmp_path / "log.txt").open("ab")
        return subprocess.Popen([*PROGRAMS[program], *arguments], cwd=tmp_path, stdout=log, stderr=log)

    def ended(process):
        return process.wait(timeout=TIME_LIMIT), (tmp_path / "log.txt").read_text(errors="replace")[-3000:]

    assert ended(start(data))[0] == 0
    run = tmp_path / "outputs" / "rl"
    process, deadline = start(train), time.monotonic() + TIME_LIMIT
    while not complete_steps(run):
        assert process.poll() is None, ended(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    code, said = ended(process)
    assert code == EXIT_CODE, said
    (stopped, *_) = reversed(complete_steps(run))
    assert stopped < 4

    shutil.copytree(run, tmp_path / "outputs" / "moved", copy_function=shutil.copy)  # new times, as `cp -r`
    code, said = ended(start(train, "outputs/moved"))
    assert code == 0, said
    moved = tmp_path / "outputs" / "moved"
    assert complete_steps(moved) == [3, 4]
    assert complete_steps(run)[-1] == stopped
    history = list(records(moved / METRICS))
    assert [step for step, data in history if "cinema/acc" in data] == [1, 2, 3, 4]
    assert {step for step, data in history if any("val-" in name for name in data)} == {0, 2, 4}

    assert ended(start(report, "outputs/moved"))[0] == 0
    assert ended(start(reshard, "outputs/moved"))[0] == 0
    assert world_sizes(moved / "global_step_4") == {1, 2}
