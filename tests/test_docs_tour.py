"""docs/tour.ipynb: its cells run in order, and print what the paper's reward says."""

import json
from pathlib import Path

NOTEBOOK = json.loads((Path(__file__).parents[1] / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
PROGRAMS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_its_cells_run_and_its_numbers_are_the_paper_s(capsys):
    names = {}
    for program in PROGRAMS:
        exec(program, names)
    out = capsys.readouterr().out
    assert "global>focus>think>answer B" in out
    # Five trajectories. First and fourth share a pattern, second and third another one: 1 - 0.5 * 0.1 * (2 - 1) / 4
    # where correct. The third is incorrect and well formed, the last has neither.
    assert "0.1 [0.9875, 0.9875, 0.5, 0.9875, 0.0]" in out
    assert "0.0 [1.0, 1.0, 0.5, 1.0, 0.0]" in out
    assert "  850 0.050" in out


def test_it_is_kept_without_outputs():
    assert NOTEBOOK["nbformat"] == 4
    assert len(PROGRAMS) >= 4
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
