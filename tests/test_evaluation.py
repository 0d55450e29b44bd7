"""The table of a run: intervals, pairing, and what it says about files that are not what it reads."""

import json
import math

import numpy as np
import pytest

from cinema_verl.evaluation import bootstrap, change, read_validation, table


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rollout(question, session, acc, pattern, fmt=1.0):
    return {"uid": f"{question}{hash(question) % 97}_{session}_0", "question_uid": question, "acc": acc, "format": fmt,
            "pattern": pattern}  # fmt: skip


def test_a_validation_is_read_by_question(tmp_path):
    path = tmp_path / "84.jsonl"
    write(
        path,
        [rollout("b", 0, 1.0, "think>answer"), rollout("b", 1, 0.0, "focus>answer"), rollout("a", 0, 1.0, "x", 0.0)],
    )
    found = read_validation(path)
    assert found.step == 84
    assert found.acc == (1.0, 0.5)  # in the order of the questions' names, not of the file
    assert found.fmt == (0.0, 1.0)
    assert found.pattern_entropy == pytest.approx((0.0, math.log(2)))
    assert found.rollouts == 2


def test_intervals_cover_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        estimate = bootstrap(rng.binomial(1, 0.6, 100).tolist(), seed)
        hits += estimate.low <= 0.6 <= estimate.high
    assert 180 <= hits <= 199


def test_change_is_paired_and_can_be_a_loss(tmp_path):
    before, after = tmp_path / "0.jsonl", tmp_path / "1.jsonl"
    write(before, [rollout(f"q{i}", 0, 1.0, "p") for i in range(30)])
    write(after, [rollout(f"q{i}", 0, float(i % 3 > 0), "p") for i in range(30)])
    lost = change(read_validation(before), read_validation(after))
    assert lost.mean == pytest.approx(-1 / 3)
    assert lost.high < 0
    text = table([("before", read_validation(before)), ("after", read_validation(after))])
    assert "| before | 0 | 1.000 [1.000, 1.000] |" in text


def test_other_data_before_and_after_is_refused(tmp_path):
    write(tmp_path / "0.jsonl", [rollout("a", 0, 1.0, "p")])
    write(tmp_path / "1.jsonl", [rollout("a", 0, 1.0, "p"), rollout("b", 0, 1.0, "p")])
    with pytest.raises(ValueError, match="not the same data"):
        change(read_validation(tmp_path / "0.jsonl"), read_validation(tmp_path / "1.jsonl"))


@pytest.mark.parametrize("text", ["", "{}\n", "nonsense\n"])
def test_a_file_that_is_no_validation_is_named(tmp_path, text):
    path = tmp_path / "7.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"7\.jsonl"):
        read_validation(path)
