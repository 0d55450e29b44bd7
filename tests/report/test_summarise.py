"""The statistics of the report, by hand and by property."""

import itertools
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.meta_action import ViolationCode
from cinema_verl.report.groups import GroupPlace, in_turn, spread
from cinema_verl.report.page import MEANINGS
from cinema_verl.report.summarise import (
    MAX_PATTERNS,
    PANELS,
    RARER,
    VALIDATION_ACCURACY,
    Cell,
    RolloutCounts,
    Vocabulary,
    bins,
    complete,
    stages,
    thin,
    trend,
)
from cinema_verl.runs.metrics import Metrics
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.estimators import schemes
from cinema_verl.utils.native_reasoning import VIOLATION


def cell(pattern="focus>answer", correct=1, violations=(), source="squares", answer_type="mcq"):
    return Cell(source, answer_type, pattern, correct, violations)


@given(st.integers(0, 3000), st.integers(1, 600))
def test_bins_hold_every_step_once_and_are_few(count, limit):
    groups = bins(range(count), limit)
    assert [i for group in groups for i in group] == list(range(count))
    assert len(groups) <= limit


def test_thin_by_hand():
    assert thin([1.0, None, 3.0, None], [[0, 1], [2, 3], [1, 3]]) == [1.0, 3.0, None]
    assert thin([1.0, 2.0], [[0, 1]]) == [1.5]


@given(st.integers(0, 400))
def test_spread_takes_each_once(count):
    assert sorted(spread(count)) == list(range(count))


def test_every_beginning_of_spread_is_spread_out():
    for taken in (3, 5, 9, 33):
        first = sorted(spread(300)[:taken])
        assert max(b - a for a, b in itertools.pairwise(first)) <= math.ceil(299 / (taken - 1) * 2)


def test_groups_take_turns():
    places = [[GroupPlace(step, None, f"{step}{i}", ()) for i in range(n)] for step, n in ((1, 2), (2, 1), (3, 3))]
    assert [place.question_uid for place in in_turn(places)] == ["30", "10", "20", "31", "11", "32"]


def test_mix_by_hand():
    mix = RolloutCounts.of(
        {
            2: Counter({cell(): 3, cell("", 0, ("no_answer",)): 1}),
            1: Counter({cell(correct=0): 2, cell("think>answer", 2): 5}),
        }
    ).as_json()
    assert mix["from"] == mix["to"] == [1, 2]
    assert mix["patterns"] == ("focus>answer", "think>answer", ""), "the most frequent first"
    assert mix["violations"] == ("no_answer",)
    assert mix["sets"] == [(), (0,)]
    assert mix["cells"] == [[0, 0, 0, 0, 0, 2, 0, 0, 1, 2, 0, 5], [0, 0, 0, 1, 0, 3, 0, 0, 2, 0, 1, 1]]


def test_thousands_of_patterns_become_one_class():
    vocabulary = Vocabulary.of(Counter({f"p{i}": 1 for i in range(5000)} | {"often": 10}))
    assert len(vocabulary.words) == MAX_PATTERNS
    assert vocabulary.words[0] == "often"
    assert vocabulary.words[-1] == RARER
    assert {vocabulary.words[i] for i in vocabulary.index.values()} == set(vocabulary.words)


def test_stages_from_metrics_then_from_the_configuration():
    steps = (0, 1, 2, 3)
    logged = Metrics(steps, {"cinema/stage": [None, 1.0, 1.0, 2.0]})
    assert stages(logged, None) == [{"stage": 1, "from": 1, "to": 2}, {"stage": 2, "from": 3, "to": 3}]
    assert stages(Metrics(steps, {}), AnnealingSchedule(0.1, 1, 2).stages) == [
        {"stage": 1, "from": 1, "to": 1},
        {"stage": 2, "from": 2, "to": 3},
    ]
    assert stages(Metrics(steps, {}), None) == []


def test_complete_adds_only_what_is_missing():
    metrics = Metrics((1, 2), {"cinema/acc": [0.25, 0.5]})
    completed, added = complete(metrics, {2: {"cinema/acc": 0.9, "cinema/format": 1.0}})
    assert added == ["cinema/format"]
    assert completed.series == {"cinema/acc": [0.25, 0.5], "cinema/format": [None, 1.0]}


def test_a_run_in_its_first_step_has_no_curves_without_values():
    """Step 0, before training, is logged; the rollouts of step 1 are written, its metrics not yet."""
    completed, added = complete(Metrics((0,), {"val-core/a/acc/mean@4": [0.5]}), {1: {"cinema/acc": 0.9}})
    assert added == []
    assert "cinema/acc" not in completed.series


def test_validation_accuracy_is_the_mean_over_sources():
    series = {
        "val-core/a/acc/mean@4": [0.5, None],
        "val-core/b/c/acc/mean@4": [1.0, None],
        "val-core/a/acc/std@4": [9.0],
    }
    series["val-core/a@blank/acc/mean@4"] = [0.0, None]  # an evaluation logs these, too
    completed, _ = complete(Metrics((0, 1), series), {})
    assert completed.series[VALIDATION_ACCURACY] == [0.75, None]


def test_trend_by_hand():
    assert trend([None, *range(20), None]) == (0.5, 18.5)
    assert trend([0.25]) == (0.25, 0.25)
    assert trend([None]) is None


def test_every_violation_has_a_meaning():
    assert set(MEANINGS) == {*ViolationCode, VIOLATION}


def test_the_share_of_each_of_our_estimators_has_the_chart():
    drawn = {name for panel in PANELS for line in panel.lines for name in line.metrics}
    ours = [scheme.term for name, scheme in schemes().items() if name.startswith("cinema_")]
    assert len(ours) >= 3
    assert {f"cinema/{term}_advantage_share" for term in ours} <= drawn
