"""What the demo prints of a run's stages."""

import json

import pytest

from cinema_verl.checks.compose import compose
from cinema_verl.demo.__main__ import main, stage_ends, what_stages_did


@pytest.mark.parametrize("term", ["diversity", "novelty"])
def test_what_the_stages_did(tmp_path, term):
    steps = [(1.0, 0.4, 8), (1.0, 0.2, 8), (2.0, 0.0, 20)]
    lines = [{"step": 0, "data": {"val": 1.0}}]
    lines += [
        {
            "step": step,
            "data": {
                "cinema/stage": stage,
                f"cinema/{term}_advantage_share": share,
                "cinema/dynamic_sampling/generated_groups": groups,
            },
        }
        for step, (stage, share, groups) in enumerate(steps, start=1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = what_stages_did(tmp_path / "metrics.jsonl")
    assert "30%" in first
    assert "16 groups" in first
    assert "0%" in second
    assert "20 groups" in second


def test_where_the_stages_end_follows_the_overrides():
    def ends(*overrides):
        return stage_ends(compose("cinema_cpu", overrides)[0])

    assert ends() == (84, 120)
    assert ends("cinema.exploration_steps=2", "cinema.stages.exploitation.steps=3", "data.seed=1") == (2, 5)
    assert ends("~cinema.stages.exploitation") == (84, 84)
    assert ends("++cinema.stages.polish={steps: 3, coefficient: 0}") == (84, 123)


def test_overrides_that_cannot_be_are_a_wrong_command_line(tmp_path, capsys):
    for override in ("cinema.nothing=1", "cinema.exploration_steps=-1"):
        with pytest.raises(SystemExit) as ended:
            main(["--output", str(tmp_path / "demo"), override])
        assert ended.value.code == 2
        assert override.partition("=")[0].rpartition(".")[2].partition("_")[0] in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
