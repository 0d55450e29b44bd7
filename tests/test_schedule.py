"""The annealing schedule: the paper's two stages, by hand at their boundaries and by property everywhere else."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl import schedule
from cinema_verl.schedule import SHAPES, AnnealingSchedule, Stage, Stages, register_shape, shapes

PAPER = AnnealingSchedule()

schedules = st.builds(
    AnnealingSchedule,
    coefficient=st.floats(0, 1),
    exploration_steps=st.integers(0, 2000),
    annealing_steps=st.integers(0, 2000),
    shape=st.sampled_from(sorted(SHAPES)),
)
steps = st.integers(0, 10_000)


@pytest.mark.parametrize(
    ("step", "coefficient", "stage"),
    [
        (0, 0.1, 1),
        (1, 0.1, 1),
        (700, 0.1, 1),
        (701, 0.1 * 299 / 300, 2),
        (850, 0.05, 2),
        (999, 0.1 / 300, 2),
        (1000, 0.0, 2),
        (5000, 0.0, 2),
    ],
)
def test_the_papers_stages_are_700_and_300_steps(step, coefficient, stage):
    assert PAPER(step) == pytest.approx(coefficient, abs=1e-15)
    assert PAPER.stage(step) == stage
    assert PAPER.total_steps == 1000


@pytest.mark.parametrize(
    ("shape", "quarter", "half", "end"),
    [
        ("linear", 0.75, 0.5, 0.0),
        ("cosine", 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0.0),
        ("exponential", (math.exp(-1.25) - math.exp(-5)) / (1 - math.exp(-5)), 0.0758581800212435, 0.0),
        ("step", 0.0, 0.0, 0.0),
        ("constant", 1.0, 1.0, 1.0),
    ],
)
def test_each_shape_decays_as_it_says(shape, quarter, half, end):
    schedule = AnnealingSchedule(1.0, 100, 100, shape)
    assert schedule(100) == 1.0
    assert schedule(125) == pytest.approx(quarter)
    assert schedule(150) == pytest.approx(half)
    assert schedule(200) == end
    assert schedule(201) == end


def test_every_shape_is_tested():
    assert set(SHAPES) == {"linear", "cosine", "exponential", "step", "constant"}


def test_a_stage_may_be_absent():
    assert [AnnealingSchedule(0.1, 2, 0)(step) for step in (1, 2, 3)] == [0.1, 0.1, 0.0]
    assert [AnnealingSchedule(0.1, 0, 2)(step) for step in (1, 2, 3)] == [0.05, 0.0, 0.0]
    assert [AnnealingSchedule(0.1, 2, 0, "constant")(step) for step in (2, 3)] == [0.1, 0.1]


@given(schedules, steps, steps)
def test_the_coefficient_never_rises_and_stays_within_its_bounds(schedule, first, second):
    earlier, later = sorted((first, second))
    assert 0.0 <= schedule(later) <= schedule(earlier) <= schedule.coefficient


@given(schedules, st.lists(steps, max_size=5), steps)
def test_a_resumed_run_has_the_coefficient_of_one_that_was_never_interrupted(schedule, seen_before, step):
    for earlier in seen_before:
        schedule(earlier)
    anew = AnnealingSchedule(schedule.coefficient, schedule.exploration_steps, schedule.annealing_steps, schedule.shape)
    assert schedule(step) == anew(step)
    assert schedule == anew


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exploration_steps": -1}, r"exploration_steps must be an integer >= 0, got -1"),
        ({"exploration_steps": 1.5}, r"exploration_steps must be an integer >= 0, got 1.5"),
        ({"annealing_steps": -300}, r"annealing_steps must be an integer >= 0, got -300"),
        ({"annealing_steps": True}, r"annealing_steps must be an integer >= 0, got True"),
        ({"annealing_steps": None}, r"annealing_steps must be an integer >= 0, got None"),
        ({"coefficient": -0.1}, r"must lie in \[0, 1\] \(the paper's is 0.1\), got -0.1"),
        ({"coefficient": 1.01}, r"must lie in \[0, 1\]"),
        ({"coefficient": math.nan}, r"must lie in \[0, 1\]"),
        ({"coefficient": "0.1"}, r"must lie in \[0, 1\]"),
        ({"coefficient": True}, r"must lie in \[0, 1\]"),
        ({"shape": "zigzag"}, r"unknown annealing shape 'zigzag': choose one of linear, cosine, exponential"),
    ],
)
def test_an_impossible_schedule_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        AnnealingSchedule(**changes)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        PAPER(-1)


# ---- shapes of one's own ----------------------------------------------------------------------------------------


@pytest.fixture
def own_shapes(monkeypatch):
    monkeypatch.setattr(schedule, "SHAPES", dict(SHAPES))


def half_way(t):
    return float(t <= 0.5)


def test_one_function_is_a_shape(own_shapes):
    register_shape("half_way", half_way)
    register_shape("half_way", half_way)  # a module that is imported twice
    annealing = AnnealingSchedule(0.1, 10, 10, "half_way")
    assert [annealing(step) for step in (10, 15, 16, 20)] == [0.1, 0.1, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("linear", half_way, "'linear' exists already"),
        ("grows", lambda t: 2 * t, r"'grows' leaves \[0, 1\] at 51 %"),
        ("nowhere", lambda t: float("nan"), r"'nowhere' leaves \[0, 1\] at 1 %"),
    ],
)
def test_what_is_no_shape_is_refused(own_shapes, name, shape, says):
    with pytest.raises(ValueError, match=says):
        register_shape(name, shape)


def test_an_installed_package_adds_one_by_its_entry_point(own_shapes, install):
    install("mine", {schedule.GROUP: {"half_way": "mine:half_way"}}, "def half_way(t): return float(t <= 0.5)")
    assert AnnealingSchedule(0.1, 10, 10, "half_way")(15) == 0.1
    assert set(shapes()) == {*SHAPES, "half_way"}


# ---- stages -----------------------------------------------------------------------------------------------------

stage_lists = st.lists(
    st.tuples(st.integers(0, 40), st.floats(0, 1), st.sampled_from(sorted(SHAPES)), st.sampled_from([None, "acc"])),
    min_size=1,
    max_size=5,
).map(lambda rows: Stages(tuple(Stage(f"stage{i}", *row) for i, row in enumerate(rows))))


def test_the_papers_run_is_two_stages_with_one_filter():
    exploration, exploitation = PAPER.stages.stages
    assert (exploration.name, exploration.steps, exploration.filter) == ("exploration", 700, None)
    assert (exploitation.name, exploitation.steps, exploitation.filter) == ("exploitation", 300, "acc")
    assert [(stage.name, first, last) for stage, first, last in PAPER.stages.spans()] == [
        ("exploration", 1, 700),
        ("exploitation", 701, 1000),
    ]
    assert [PAPER.stages.at(step).filter for step in (0, 1, 700, 701, 1000, 9999)] == [None, None, None] + ["acc"] * 3


def test_three_stages_by_hand():
    stages = Stages.of(
        {
            "warm": {"steps": 2, "coefficient": 0.0},
            "explore": {"steps": 3, "coefficient": 0.2, "clip_ratio_high": 0.4},
            "exploit": {"steps": 4, "coefficient": 0.2, "shape": "linear", "filter": "acc", "lr_factor": 0.5, "n": 16},
        }
    )
    assert stages.total_steps == 9
    assert [stages.at(step).name for step in (1, 2, 3, 5, 6, 9, 10)] == [
        *("warm", "warm", "explore", "explore", "exploit", "exploit", "exploit")
    ]
    assert [stages.coefficient(step) for step in (2, 3, 5, 6, 7, 9, 10)] == pytest.approx(
        [0, 0.2, 0.2, 0.15, 0.1, 0, 0]
    )
    assert (stages.at(4).clip_ratio_high, stages.at(6).lr_factor) == (0.4, 0.5)
    assert str(stages.stages[2]) == (
        "exploit: 4 steps, coefficient 0.2 linear to 0, groups filtered by acc, learning rate x 0.5, "
        "16 rollouts a question"
    )


@given(stage_lists)
def test_every_step_has_one_stage_and_the_spans_say_which(stages):
    spans = stages.spans()
    steps = [step for _, first, last in spans for step in range(first, last + 1)]
    assert steps == list(range(1, stages.total_steps + 1))
    for stage, first, last in spans:
        assert {stages.at(step) for step in (first, last)} == {stage}
        assert stages.coefficient(last) == stage.coefficient_after(stage.steps)
    assert stages.at(stages.total_steps + 5) == stages.stages[-1]


@given(stage_lists)
def test_stages_are_written_as_they_are_read(stages):
    assert Stages.of(stages.as_dict()) == stages
    assert not stages.unfiltered().filters


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "at least one stage"),
        ({"a": None}, "at least one stage"),
        ({"a": {"steps": 1}}, r"cinema\.stages\.a lacks coefficient"),
        ({"a": {"steps": 1, "coefficient": 0.1, "temprature": 1}}, "and not temprature"),
        ({"a": {"steps": 1, "coefficient": 0.1, "name": "b"}}, "and not name"),
        ({"a": {"steps": 1.0, "coefficient": 0.1}}, "steps of stage a must be an integer"),
        ({"a": {"steps": 1, "coefficient": 0.1, "filter": "reward"}}, "by 'reward': groups are judged by acc alone"),
        ({"a": {"steps": 1, "coefficient": 0.1, "shape": None}}, "unknown annealing shape None"),
        ({"a": {"steps": 1, "coefficient": 0.1, "lr_factor": math.inf}}, "lr_factor of stage a must be > 0"),
        *(
            ({"a": {"steps": 1, "coefficient": 0.1, "temperature": value}}, "temperature of stage a must be > 0")
            for value in (0, -1, math.inf, math.nan, "1", True)
        ),
        *(
            ({"a": {"steps": 1, "coefficient": 0.1, "n": value}}, "n of stage a must be an integer >= 1")
            for value in (0, 2.0, "8", True)
        ),
    ],
)
def test_impossible_stages_say_what_is_wrong(stages, message):
    with pytest.raises(ValueError, match=message):
        Stages.of(stages)


def test_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match="the same name: a, a"):
        Stages((Stage("a", 1, 0.1), Stage("a", 2, 0.1)))
