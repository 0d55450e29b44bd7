"""docs/runs.md is followed as a user follows it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cinema_verl.runs.locate import METRICS
from cinema_verl.training.checkpoint import PROGRESS, TRACKER, complete_steps
from cinema_verl.training.lora import ADAPTER
from cinema_verl.training.stop_signal import EXIT_CODE

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "runs.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## The cold start") :]
PROGRAMS = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", SECTION, flags=re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_page_names_what_there_is():
    for name in (TRACKER, METRICS, PROGRESS, f"{ADAPTER}/", str(EXIT_CODE)):
        assert name in SECTION


@pytest.mark.slow
def test_its_commands_train_and_then_find_the_run_finished(tmp_path):
    for name in ("data_preprocess", "cinema_verl"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    said = []
    for program, *arguments in commands():
        done = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=tmp_path,
            env={"OMP_WAIT_POLICY": "PASSIVE", "VERL_PLATFORM": "cpu"} | os.environ,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(done.stdout)
    assert len(said) == 3
    assert complete_steps(tmp_path / "outputs" / "sft") == [5]
    assert "step 5 of 5: the run is finished" in said[1]
    assert "step 5 of 5: trained already" in said[2]
