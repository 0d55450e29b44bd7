"""An evaluation through verl's own entry point, on the CPU: asked, scored, summed up, and it looks at the images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cinema_verl.data.digits import Sizes, write_dataset

TIME_LIMIT = 900  # seconds; a run takes about one minute


def evaluate(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "+recipe=cinema_evaluate_cpu",
        f"data.val_files={folder}/test.parquet",
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        f"trainer.validation_data_dir={folder}/evaluation",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"VERL_PLATFORM": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )


@pytest.mark.slow
def test_the_digits_policy_looks_at_its_images(tmp_path):
    write_dataset(tmp_path, Sizes(train=0, test=40, sft_train=0, sft_val=0))
    run = evaluate(tmp_path)
    assert run.returncode == 0, run.stdout[-5000:]
    assert "evaluation written" in run.stdout
    summary = json.loads((tmp_path / "evaluation" / "0.evaluation.json").read_text())
    assert summary["settings"]["prompt_mode"] is None
    assert summary["settings"]["engine"] == "transformers"
    assert summary["rollouts_per_question"] == 2
    # A quarter of the digits questions has one image, which has no other order.
    assert summary["questions"] == {"true": 40, "shuffled": 40, "reordered": 32, "blank": 40}
    digits = summary["benchmarks"]["digits"]
    assert len(digits["by_task"]) == 10
    assert 0.45 < digits["accuracy"]["mean"] < 0.85  # 0.65 over many questions
    assert digits["pass_at_k"]["2"]["mean"] > digits["accuracy"]["mean"]
    for condition in ("shuffled", "blank"):
        assert digits["image_dependence"][condition]["drop"]["low"] > 0
        assert digits["image_dependence"][condition]["warning"] is None
    assert "val-aux" not in run.stdout  # verl's bootstrap is not drawn


@pytest.mark.slow
def test_an_action_that_the_prompt_takes_out_breaks_the_format_rule(tmp_path):
    write_dataset(tmp_path, Sizes(train=0, test=10, sft_train=0, sft_val=0))
    run = evaluate(
        tmp_path,
        "cinema.image_conditions=[]",
        "data.cinema_prompt_mode=cinema_without_think",
        "data.max_prompt_length=1500",
    )
    assert run.returncode == 0, run.stdout[-5000:]
    records = [json.loads(line) for line in (tmp_path / "evaluation" / "0.jsonl").read_text().splitlines()]
    assert len(records) == 20
    for record in records:
        assert "<think>" not in record["input"]
        if "think" in record["pattern"]:
            assert "removed_action" in record["violations"]
            assert record["format"] == 0
