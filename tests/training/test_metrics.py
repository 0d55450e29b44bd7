"""The `cinema/` metrics of a batch, worked out by hand."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.training.metrics import StepMetrics, batch_metrics


def info(acc, fmt, answer_type="mcq", violations="", abstained=0.0, timed_out=0.0):
    return {
        "acc": acc,
        "format": fmt,
        "answer_type": answer_type,
        "violations": violations,
        "abstained": abstained,
        "timed_out": timed_out,
        "native_reasoning": float("native_reasoning" in violations),
    }


def test_one_batch_by_hand():
    metrics = batch_metrics(
        infos=[
            info(1.0, 1.0),
            info(0.0, 0.0, violations="no_answer,text_outside"),
            info(1.0, 0.0, "number", violations="text_outside,text_outside,native_reasoning"),
            info(0.0, 1.0, "number", abstained=1.0, timed_out=1.0),
        ],
        patterns=["focus>answer", "", "think>answer", "think>answer"],
        groups=["p", "p", "q", "q"],
        stop_reasons=["answer", "length", "answer", "asked_a_tool"],
    )
    assert metrics == pytest.approx(
        {
            "cinema/acc": 0.5,
            "cinema/format": 0.5,
            "cinema/verifier_abstained": 0.25,
            "cinema/verifier_timed_out": 0.25,
            "cinema/native_reasoning": 0.25,
            "cinema/violation/native_reasoning": 0.25,
            "cinema/pattern_entropy": math.log(2) / 2,
            "cinema/unique_patterns": 1.5,
            "cinema/pattern/none": 0.25,
            "cinema/pattern/focus-answer": 0.25,
            "cinema/pattern/think-answer": 0.5,
            "cinema/acc/mcq": 0.5,
            "cinema/acc/number": 0.5,
            "cinema/violation/no_answer": 0.25,
            "cinema/violation/text_outside": 0.5,  # of trajectories: twice in one counts once
            "cinema/stop/answer": 0.5,
            "cinema/stop/length": 0.25,
            "cinema/stop/unknown": 0.25,  # a word of another agent loop
        }
    )


def test_a_batch_of_nothing_has_no_numbers():
    assert all(math.isnan(value) for value in batch_metrics([], [], [], []).values())


def mix_of(patterns):
    n = len(patterns)
    metrics = batch_metrics([info(1.0, 1.0)] * n, patterns, ["g"] * n, ["answer"] * n)
    return {name.removeprefix("cinema/pattern/"): value for name, value in metrics.items() if "/pattern/" in name}


def test_rare_and_endless_patterns_share_a_name():
    endless = ">".join(["think"] * 40) + ">answer"
    mix = mix_of(["think>answer"] * 55 + [endless] * 40 + ["hint>answer"] * 4 + [""])
    assert mix == pytest.approx({"think-answer": 0.55, "other": 0.44, "none": 0.01})


@given(st.lists(st.sampled_from(["", *(">".join(["hint"] * n + ["answer"]) for n in range(1, 60))]), min_size=1))
def test_the_mix_is_whole_and_has_few_names_that_trackers_take(patterns):
    mix = mix_of(patterns)
    assert sum(mix.values()) == pytest.approx(1.0)
    assert len(mix) <= 22
    assert all(re.fullmatch(r"[-\w]+", name) for name in mix)


def test_a_step_in_parts_has_the_metrics_of_its_whole_batch():
    """Three trajectories and one; what the estimator said counts by trajectory: (3 x 0.2 + 1 x 0.6) / 4."""
    infos = [info(1.0, 1.0), info(0.0, 1.0), info(1.0, 0.0), info(0.0, 0.0, "number")]
    patterns, groups, reasons = ["a", "b", "a", "c"], ["g", "g", "g", "h"], ["answer"] * 3 + ["length"]
    step = StepMetrics()
    step.add(infos[:3], patterns[:3], groups[:3], reasons[:3], {"share": 0.2})
    step.add(infos[3:], patterns[3:], groups[3:], reasons[3:], {"share": 0.6})
    whole = batch_metrics(infos, patterns, groups, reasons)
    assert step.metrics() == pytest.approx(whole | {"cinema/share": 0.3})


def test_a_part_of_padding_alone_changes_nothing():
    step = StepMetrics()
    step.add([info(1.0, 1.0)], ["a"], ["g"], ["answer"], {"share": 0.2})
    before = step.metrics()
    step.add([], [], [], [], {"share": float("nan")})
    assert step.metrics() == pytest.approx(before)
