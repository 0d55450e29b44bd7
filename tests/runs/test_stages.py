"""The stages of a run that is over: what report and model card say of it."""

import pytest
import yaml

from cinema_verl.export.card import card
from cinema_verl.export.find import Found
from cinema_verl.export.manner import Manner
from cinema_verl.report.page import build, read_run
from cinema_verl.runs.locate import locate
from cinema_verl.runs.stages import planned

STAGES = {
    "explore": {"steps": 2, "coefficient": 0.2},
    "exploit": {"steps": 3, "coefficient": 0.2, "shape": "linear", "filter": "acc"},
    "polish": {"steps": 4, "coefficient": 0, "filter": "acc"},
}
SAID = (
    "explore: 2 steps, coefficient 0.2, every group",
    "exploit: 3 steps, coefficient 0.2 linear to 0, groups filtered by acc",
    "polish: 4 steps, coefficient 0, groups filtered by acc",
)


@pytest.fixture
def run_of(make_run, tmp_path):
    """A run with these stages, beside shorthands that say something else."""

    def run_of(**filter_groups):
        folder = make_run(tmp_path / "run")
        path = folder / "hydra" / ".hydra" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["cinema"]["stages"] = STAGES
        config["algorithm"] = {"filter_groups": filter_groups}
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return folder

    return run_of


def test_report_and_card_say_what_was_trained(run_of):
    run = run_of(enable=True, metric="acc")
    html, _ = build([read_run(locate(run))], 1 << 20)
    text = card(Found(4, run, run, locate(run)), Manner(None), "bfloat16", "mine")
    assert "; ".join(SAID) in html
    assert f"| stages | {SAID[0]}; {SAID[1]}, to step 4 |" in text
    assert "| step | 4 of 9 |" in text


def test_filters_that_verls_key_switched_off_are_not_claimed(run_of):
    run = run_of(enable=False, metric="acc")
    assert not planned(locate(run)).filters
    assert "filtered by acc" not in build([read_run(locate(run))], 1 << 20)[0]
