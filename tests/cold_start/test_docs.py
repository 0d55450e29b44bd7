"""docs/cold_start.md says what there is."""

from pathlib import Path

import pytest

from cinema_verl.cold_start import command, outputs
from cinema_verl.cold_start.sampling import REASONS

PAGE = (Path(__file__).parents[2] / "docs" / "cold_start.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_in_the_table(reason):
    assert f"`{reason}`" in PAGE


def test_every_file_is_explained():
    for name in (outputs.SFT, outputs.RL_POOL, outputs.PROVENANCE, outputs.LEFT, outputs.SUMMARY):
        assert f"`{name}`" in PAGE


def test_every_option_that_is_named_exists():
    known = {option for action in command.parser()._actions for option in action.option_strings}
    theirs = {
        "--limit-mm-per-prompt",
        "--port",
        "--fault",
        "--incorrect",
        "--off-path",
    }  # of servers, of the offline run
    words = PAGE.replace("`", " ").replace(":", " ").replace(",", " ").replace(")", " ").split()
    named = {word.rstrip(".;") for word in words if word.startswith("--") and word.strip("-")}
    assert len(named) > 15
    assert named - theirs <= known
