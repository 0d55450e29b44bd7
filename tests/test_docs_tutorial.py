"""docs/tutorial.md is followed as it is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial_runs_and_leaves_what_it_says(tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "VERL_PLATFORM": "cpu"}
    blocks = BLOCK.findall(PAGE)
    assert [kind for kind, _ in blocks] == ["python", *["bash"] * 4]
    for kind, block in blocks:
        command = [sys.executable, "-c", block] if kind == "python" else ["bash", "-euc", block]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for path in ("rows.html", "runs/mine/report.html", "runs/mine/global_step_3/actor/huggingface/config.json"):
        assert (tmp_path / path).is_file(), path
