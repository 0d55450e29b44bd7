"""What the demo prints of a run's stages."""

import json

from cinema_verl.demo.__main__ import stage_ends, what_stages_did


def test_what_the_stages_did(tmp_path):
    steps = [(1.0, 0.4, 8), (1.0, 0.2, 8), (2.0, 0.0, 20)]
    lines = [{"step": 0, "data": {"val": 1.0}}]
    lines += [
        {
            "step": step,
            "data": {
                "cinema/stage": stage,
                "cinema/diversity_advantage_share": share,
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
    assert stage_ends([]) == (84, 120)
    assert stage_ends(["cinema.exploration_steps=2", "cinema.stages.exploitation.steps=3", "data.seed=1"]) == (2, 5)
