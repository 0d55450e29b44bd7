"""What is said while a run trains, on curves made by hand."""

from cinema_verl.schedule import AnnealingSchedule, Stages
from cinema_verl.training.stage_watch import FIRST, WINDOW, StageWatch

SHARE = "cinema/diversity_advantage_share"
STAGES = AnnealingSchedule(0.1, 100, 50).stages


def said(watch, steps, share=0.3, entropy=1.5, without=0.0):
    metrics = {SHARE: share, "cinema/pattern_entropy": entropy, "cinema/groups_without_advantage": without}
    return [warning for step in steps for warning in watch.look(step, metrics)]


def test_a_run_that_does_what_its_stages_are_for_is_left_alone():
    watch = StageWatch(STAGES, SHARE)
    assert said(watch, range(1, 101), share=0.3, entropy=1.4) == []
    assert said(watch, range(101, 151), share=0.01, entropy=0.2) == []  # stage 2 is to exploit


def test_a_term_that_does_not_act_is_said_once_with_the_filter_as_the_cause():
    filtered = Stages.of(STAGES.as_dict() | {"exploration": STAGES.as_dict()["exploration"] | {"filter": "acc"}})
    for stages, hint in ((STAGES, False), (filtered, True)):
        (warning,) = said(StageWatch(stages, SHARE), range(1, 60), share=0.02)
        assert "step 10, stage exploration" in warning
        assert "2.0%" in warning
        assert ("cinema.stages.exploration.filter=null" in warning) is hint


def test_one_small_share_among_larger_ones_is_nothing():
    watch = StageWatch(STAGES, SHARE)
    assert said(watch, range(1, 10), share=0.3) + said(watch, [10], share=0.0) + said(watch, [11], share=0.3) == []


def test_entropy_that_falls_below_half_of_its_start_is_said_once():
    watch = StageWatch(STAGES, SHARE)
    assert said(watch, range(1, FIRST + 1), entropy=1.6) == []
    (warning,) = said(watch, range(FIRST + 1, 60), entropy=0.7)
    assert "fell from 1.60 to 0.7" in warning


def test_each_exploration_stage_is_judged_by_its_own_beginning():
    one = {"steps": 50, "coefficient": 0.1}
    watch = StageWatch(Stages.of({"first": one, "second": one}), SHARE)
    assert said(watch, range(1, 51), entropy=1.6) + said(watch, range(51, 101), entropy=0.7) == []


def test_a_step_that_trains_nothing_is_said_each_time_in_any_stage():
    watch = StageWatch(STAGES, SHARE)
    assert len(said(watch, [1, 2, 120], without=1.0)) == 3


def test_a_resumed_run_is_judged_by_how_it_began():
    """The metrics of the steps before are shown to it again; what was said then is not said twice."""
    watch = StageWatch(STAGES, SHARE)
    said(watch, range(1, 30), entropy=1.6)
    assert len(said(watch, range(30, 60), entropy=0.5)) == 1


def test_steps_without_the_metrics_are_not_judged():
    watch = StageWatch(STAGES, SHARE)
    assert [watch.look(step, {}) for step in range(1, 3 * WINDOW)] == [[]] * (3 * WINDOW - 1)


def test_without_a_coefficient_there_is_nothing_to_watch_for():
    watch = StageWatch(AnnealingSchedule(0.0, 100, 50).stages, SHARE)
    assert said(watch, range(1, 60), share=0.0, entropy=0.1) == []


def test_an_estimator_without_a_term_explores_in_no_stage():
    watch = StageWatch(STAGES, None)
    assert said(watch, range(1, 20), entropy=1.6) + said(watch, range(20, 60), entropy=0.1) == []
