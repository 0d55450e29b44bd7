"""An evaluation through verl's own entry point, on the CPU: asked, scored, summed up, and it looks at the images."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_module

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.evaluate.unfinished import NAME, Unfinished, asked_of

from .conftest import kill

TIME_LIMIT = 900  # seconds; a run takes about one minute


def overrides_of(folder: Path, *more: str) -> list[str]:
    return [
        "+recipe=cinema_evaluate_cpu",
        f"data.val_files={folder}/test.parquet",
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        f"trainer.validation_data_dir={folder}/evaluation",
        f"hydra.run.dir={folder}/hydra",
        *more,
    ]


def start(folder: Path, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "verl.trainer.main_ppo", *overrides_of(folder, *overrides)],
        cwd=folder,
        env=os.environ | {"VERL_PLATFORM": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def evaluate(folder: Path, *overrides: str) -> str:
    """What an evaluation says until it has ended well."""
    with start(folder, *overrides) as process:
        try:
            said, _ = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            kill(process)
            raise
    assert process.returncode == 0, said[-5000:]
    return said


def records_of(folder: Path) -> list[dict]:
    """The dump without verl's ids, which are random, in an order that does not depend on them."""
    lines = (folder / "evaluation" / "0.jsonl").read_text().splitlines()
    records = [{name: value for name, value in json.loads(line).items() if name != "uid"} for line in lines]
    return sorted(records, key=lambda record: json.dumps(record, sort_keys=True))


def test_an_evaluation_goes_on_with_what_was_answered(tmp_path, processor):
    write_dataset(tmp_path, Sizes(train=0, test=6, sft_train=0, sft_val=0))
    options = ["cinema.image_conditions=[]", "data.val_batch_size=4"]
    rows = pq.read_table(tmp_path / "test.parquet").to_pylist()
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides_of(tmp_path, *options))
    before = Unfinished(tmp_path / "evaluation", asked_of(config))
    words = "<global>said before</global><answer>nonsense</answer>"
    for row in rows[:3]:
        ids = np.array(processor.tokenizer.encode(words, add_special_tokens=False))
        before.add([((row["extra_info"]["uid"], row["data_source"]), 1, (ids, "answer"))])
    before.close()

    said = evaluate(tmp_path, *options)
    assert "continuing an evaluation that did not end: 3 answers" in said
    records = records_of(tmp_path)
    assert len(records) == 12
    recalled = [record for record in records if record["output"] == words]
    assert {record["question_uid"] for record in recalled} == {row["extra_info"]["uid"] for row in rows[:3]}
    assert [(record["acc"], record["format"], record["pattern"], record["stop_reason"]) for record in recalled] == [
        (0.0, 1.0, "global>answer", "answer")
    ] * 3
    summary = json.loads((tmp_path / "evaluation" / "0.evaluation.json").read_text())
    assert (summary["questions"], summary["failed_rollouts"]) == ({"true": 6}, 0)
    assert not (tmp_path / "evaluation" / NAME).exists()


@pytest.mark.slow
def test_an_evaluation_killed_in_the_middle_ends_as_one_that_was_not(tmp_path):
    """On the CPU each rollout has a seed of its own, so that the two can be the same."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    options = ["data.val_batch_size=8", f"data.val_files={tmp_path}/test.parquet"]
    for folder in (killed, undisturbed):
        folder.mkdir()
    write_dataset(tmp_path, Sizes(train=0, test=24, sft_train=0, sft_val=0))
    with start(killed, *options) as process:
        deadline = time.monotonic() + TIME_LIMIT
        journal = killed / "evaluation" / NAME
        while not (journal.exists() and len(journal.read_bytes().splitlines()) > 40):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kill(process)
    assert not (killed / "evaluation" / "0.jsonl").exists()
    assert "continuing an evaluation" in evaluate(killed, *options)
    assert "continuing an evaluation" not in evaluate(undisturbed, *options)
    assert records_of(killed) == records_of(undisturbed)
    assert json.loads((killed / "evaluation" / "0.evaluation.json").read_text()) == json.loads(
        (undisturbed / "evaluation" / "0.evaluation.json").read_text()
    )


@pytest.mark.slow
def test_the_digits_policy_looks_at_its_images(tmp_path):
    write_dataset(tmp_path, Sizes(train=0, test=40, sft_train=0, sft_val=0))
    said = evaluate(tmp_path)
    assert "evaluation written" in said
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
    assert "best@" not in said  # verl draws it by bootstrap


@pytest.mark.slow
def test_an_action_that_the_prompt_takes_out_breaks_the_format_rule(tmp_path):
    write_dataset(tmp_path, Sizes(train=0, test=10, sft_train=0, sft_val=0))
    evaluate(
        tmp_path,
        "cinema.image_conditions=[]",
        "data.cinema_prompt_mode=cinema_without_think",
        "data.max_prompt_length=1500",
    )
    records = records_of(tmp_path)
    assert len(records) == 20
    for record in records:
        assert "<think>" not in record["input"]
        if "think" in record["pattern"]:
            assert "removed_action" in record["violations"]
            assert record["format"] == 0
