"""The first screen of the README, from a clone to an answer about two pictures of one's own, as it is printed.

Stand-ins are the packages of this environment for those that would be downloaded (others are), and a recipe of one step
a stage.
"""

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from PIL import Image

from cinema_verl.demo.digit_images import draw_image, image_name, load_pools

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"```sh\n(git clone .*?)```", README, re.DOTALL)[1].splitlines()
NOT_IN_A_CLONE = ("__pycache__", "*.egg-info", "build", "dist", "outputs", ".git", ".venv*", ".*_cache")
OURS = ("VERL_", "CINEMA_", "PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS")


def published(folder: Path) -> Path:
    """This tree as a repository that can be cloned."""
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*NOT_IN_A_CLONE))
    git = ["git", "-C", str(folder), "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All of it"]):
        subprocess.run([*git, *command], check=True)
    return folder


def environment_in(clone: Path) -> None:
    """`.venv` as `make` makes it, where the packages of this environment count as downloaded."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", clone / ".venv"], check=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(clone / ".venv")}))
    here = [Path(each).resolve() for each in [*site.getsitepackages(), *sys.path] if each.endswith("-packages")]
    (purelib / "downloaded.pth").write_text("\n".join(map(str, dict.fromkeys(here))), encoding="utf-8")


def own_pictures(folder: Path) -> None:
    """A three and an eight, as somebody saves what a scanner gave: larger, in colour, not quite square."""
    pools = load_pools()
    for name, digit in (("a", 3), ("b", 8)):
        drawn = draw_image(pools, image_name(pools.by_split["test"][digit][0], (0, 0)))
        paper = Image.new("RGB", (290, 310), "white")
        paper.paste(drawn.resize((280, 280)), (5, 15))
        paper.save(folder / f"{name}.png")


@pytest.mark.slow
def test_from_a_clone_to_an_answer_about_two_pictures_of_one_s_own(tmp_path):
    clone, train, ask = COMMANDS[:3]
    assert " ask " in ask
    repository, place = published(tmp_path / "published"), tmp_path / "somebody"
    place.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}

    def given(command: str, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    inside = Path(given(f"{clone.replace('URL', str(repository), 1)}\npwd", place).strip())
    environment_in(inside)
    recipe = inside / "recipes" / "recipe" / "cinema_cpu.yaml"
    recipe.write_text(re.sub(r"(exploration|annealing)_steps: \d+", r"\1_steps: 1", recipe.read_text()))
    own_pictures(inside)
    assert "accuracy" in given(train, inside)
    assert (inside / "outputs" / "demo" / "report.html").is_file()
    assert re.search(r"<answer>[AB]</answer>\s*$", given(ask, inside))
