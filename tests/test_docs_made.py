"""Pictures and tables that scripts make are what the scripts make today."""

import re
import subprocess
from pathlib import Path

import hardware_tables
import method_picture
import site_hooks
import yaml

from cinema_verl.checks.compose import compose, split_overrides
from cinema_verl.cli import COMMANDS
from studies.dps import analyse

ROOT = Path(__file__).parents[1]


def test_the_picture_of_the_method():
    drawn = (ROOT / "docs" / "img" / "method.svg").read_text(encoding="utf-8")
    assert drawn == method_picture.picture(), "run: python tools/method_picture.py docs/img/method.svg"


def test_the_tables_of_hardware():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert page == hardware_tables.with_tables(page), "run: python tools/hardware_tables.py docs/hardware.md"


def test_the_tables_of_the_study():
    page = (ROOT / "docs" / "science.md").read_text(encoding="utf-8")
    found = analyse.Found.of(*analyse.published(ROOT / "studies" / "dps" / "results"))
    command = "run: python -m studies.dps analyse --results studies/dps/results --docs docs/science.md"
    assert page == analyse.with_tables(page, found.tables()), command


def test_the_slurm_script_is_bash_and_its_overrides_compose():
    script = ROOT / "tools" / "slurm" / "cinema.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    words = script.read_text(encoding="utf-8").split("verl.trainer.main_ppo ")[1].replace("\\\n", " ").split()
    recipe, overrides = split_overrides([word.replace('"', "").replace("$SLURM_JOB_NUM_NODES", "2") for word in words])
    config, findings = compose(recipe, overrides)
    assert config is not None, findings[-1]
    assert config.trainer.nnodes == 2


def test_every_page_is_in_the_site():
    named = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_an_option_in_a_line_of_text_is_one_word():
    html = "<p>A-b <code>to-parquet --max-pixels 4 -n 1</code></p><pre><code><span>--seed</span></code></pre>"
    words = re.findall(r'<span class="one-word">(.*?)</span>', site_hooks.on_page_content(html))
    assert words == ["--max-pixels", "-n"]


def test_the_issue_template_asks_for_commands_that_there_are():
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8"))
    assert {part["id"] for part in form["body"] if part.get("validations", {}).get("required")} == {
        "command", "happened", "env"
    }  # fmt: skip
    named = set(re.findall(r"`cinema-verl ([\w-]+)`", str(form)))
    assert "env" in named
    assert named <= COMMANDS.keys()
