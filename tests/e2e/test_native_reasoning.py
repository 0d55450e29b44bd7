"""A policy that is declared to think on its own: what is taken off is counted, and kept in every dump.

The shipped policy does not; its leading Think actions stand for the blocks that `strip` takes off.
"""

import json

import pytest

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.utils.native_reasoning import KEY

from . import test_evaluate_cpu as evaluation
from . import test_train_cpu as training
from .conftest import finish, log_of

pytestmark = pytest.mark.slow

STRIP = f"{KEY}=strip"


def check_dump(path):
    """The records; whatever one of them begins with is in it, and is no action."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        assert record["native_reasoning"] == float(bool(record["stripped"]))
        assert record["output"].startswith(record["stripped"])
        assert record["stripped"].strip().startswith("<think>") or not record["stripped"]
    assert 0 < sum(bool(record["stripped"]) for record in records) < len(records)
    return records


def test_in_training_and_its_validations(tmp_path):
    write_dataset(tmp_path, Sizes(train=64, test=16, sft_train=0, sft_val=0))
    short = ("cinema.exploration_steps=1", "cinema.annealing_steps=0", "cinema.image_conditions=[]")
    options = (STRIP, *short, "trainer.save_freq=-1", "trainer.val_before_train=true")
    process = training.start(tmp_path, tmp_path, *options)
    assert finish(process, tmp_path, training.TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]
    rollouts = check_dump(tmp_path / "checkpoints" / "rollouts" / "1.jsonl")
    validated = check_dump(tmp_path / "validation" / "0.jsonl")
    history = {record["step"]: record["data"] for record in training.records(tmp_path)}
    found = sum(record["native_reasoning"] for record in rollouts)
    assert history[1]["cinema/native_reasoning"] == pytest.approx(found / len(rollouts))
    means = [value for name, value in history[0].items() if "/native_reasoning/mean" in name]
    assert len(means) == len({record["data_source"] for record in validated})
    assert max(means) > 0


def test_in_an_evaluation(tmp_path):
    write_dataset(tmp_path, Sizes(train=0, test=16, sft_train=0, sft_val=0))
    many = "actor_rollout_ref.rollout.val_kwargs.n=8"  # one in twenty begins with Think
    evaluation.evaluate(tmp_path, STRIP, "cinema.image_conditions=[]", many)
    records = check_dump(tmp_path / "evaluation" / "0.jsonl")
    summary = json.loads((tmp_path / "evaluation" / "0.evaluation.json").read_text())
    assert summary["settings"]["native_reasoning"] == "strip"
    found = sum(record["native_reasoning"] for record in records)
    assert summary["benchmarks"]["digits"]["native_reasoning"] == pytest.approx(found / len(records))
