"""The demo's table: pairing, and what it says about files that are not what it reads."""

import math

import pytest

from cinema_verl.evaluate.validations import change, read_validation, table

from .conftest import rollout


def test_a_validation_is_read_by_question_over_its_true_images(dump):
    path = dump(
        [
            rollout("b", 0, 1.0),
            rollout("b", 1, 0.0, pattern="focus>answer"),
            rollout("a", 0, 1.0, pattern="x", format=0.0),
            rollout("a", 0, 0.0, data_source="digits/sum@blank"),
        ],
        "84.jsonl",
    )
    found = read_validation(path)
    assert found.step == 84
    assert found.questions == ("a", "b")  # in the order of their names, not of the file
    assert found.acc == (0.5, 0.5)  # the second rollout of "a" is missing: it failed
    assert found.fmt == (0.0, 1.0)
    assert found.pattern_entropy == pytest.approx((0.0, math.log(2)))
    assert found.rollouts == 2


def test_change_is_paired_and_can_be_a_loss(dump):
    before = read_validation(dump([rollout(f"q{i}") for i in range(30)], "0.jsonl"))
    after = read_validation(dump([rollout(f"q{i}", acc=float(i % 3 > 0)) for i in range(30)], "1.jsonl"))
    lost = change(before, after)
    assert lost.mean == pytest.approx(-1 / 3)
    assert lost.high < 0
    assert "| before | 0 | 1.000 [0.8" in table([("before", before), ("after", after)])


def test_other_data_before_and_after_is_refused(dump):
    before = read_validation(dump([rollout("a")], "0.jsonl"))
    after = read_validation(dump([rollout("a"), rollout("b")], "1.jsonl"))
    with pytest.raises(ValueError, match="not the same data"):
        change(before, after)


@pytest.mark.parametrize("text", ["", "{}\n", "nonsense\n", "[1]\n", '{"uid": "a_0_0", "question_uid": "a"}\n'])
def test_a_file_that_is_no_validation_is_named(tmp_path, text):
    path = tmp_path / "7.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"7\.jsonl"):
        read_validation(path)
