"""The `cinema` section: each mistake is named before anything starts, with what to do about it."""

import math

import pytest
from omegaconf import OmegaConf

from cinema_verl import schedule
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training import estimators
from cinema_verl.training.settings import CinemaSettings, group_sizes

CONFIG = OmegaConf.create(
    {
        "cinema": {
            "coefficient": 0.1,
            "exploration_steps": 700,
            "annealing_steps": 300,
            "annealing_shape": "linear",
            "stages": {
                "exploration": {
                    "steps": "${cinema.exploration_steps}",
                    "coefficient": "${cinema.coefficient}",
                    "filter": None,
                },
                "exploitation": {
                    "steps": "${cinema.annealing_steps}",
                    "coefficient": "${cinema.coefficient}",
                    "shape": "${cinema.annealing_shape}",
                    "filter": "acc",
                },
            },
            "term_guard": "none",
            "pattern_mode": "exact",
            "when_exhausted": "continue",
            "poll_interval": 2.0,
            "image_conditions": ["shuffled", "blank"],
            "image_sample": 64,
            "other_sources": [],
        },
        "algorithm": {
            "adv_estimator": "cinema_dps",
            "norm_adv_by_std_in_grpo": True,
            "filter_groups": {"enable": True, "metric": "acc"},
        },
        "actor_rollout_ref": {"rollout": {"n": 8}},
    }
)


def changed(**changes):
    """The config with these keys changed; `__` stands for a dot."""
    config = CONFIG.copy()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def read(**changes):
    """The settings of the changed config."""
    return CinemaSettings.from_config(changed(**changes))


def test_the_section_becomes_the_papers_stages():
    settings = read(cinema__annealing_shape="cosine")
    assert settings.stages == AnnealingSchedule(0.1, 700, 300, "cosine").stages
    assert settings.when_exhausted == "continue"


def test_a_stage_may_be_changed_left_out_or_added():
    longer = read(cinema__stages__exploration__steps=800, cinema__stages__exploration__filter="acc")
    assert [(stage.steps, stage.filter) for stage in longer.stages.stages] == [(800, "acc"), (300, "acc")]
    assert [stage.name for stage in read(cinema__stages__exploitation=None).stages.stages] == ["exploration"]
    polished = read(cinema__stages__polish={"steps": 50, "coefficient": 0, "filter": "acc", "lr_factor": 0.1})
    assert [(stage.name, first, last) for stage, first, last in polished.stages.spans()][-1] == ("polish", 1001, 1050)


def test_a_stage_may_have_groups_of_another_size():
    assert group_sizes(changed()) == [8, 8]
    assert group_sizes(changed(cinema__stages__exploitation__n=16)) == [8, 16]
    assert group_sizes(changed(cinema__stages__exploitation__n=0)) == [8], "that it is impossible is said elsewhere"


def test_the_shorthand_may_leave_a_stage_out():
    assert read(cinema__annealing_steps=0).stages.total_steps == 700
    assert read(cinema__exploration_steps=0).stages.number(1) == 2


def test_verls_own_key_switches_the_filter_off_everywhere():
    assert not read(algorithm__filter_groups__enable=False).stages.filters


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    monkeypatch.setattr(estimators, "_SCHEMES", dict(estimators._SCHEMES))
    monkeypatch.setattr(schedule, "SHAPES", dict(schedule.SHAPES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cinema__coefficient": 1.5}, r"coefficient must lie in \[0, 1\].*got 1.5"),
        ({"cinema__coefficient": -0.1}, r"must lie in \[0, 1\]"),
        ({"cinema__exploration_steps": -1}, "steps of stage exploration must be an integer >= 0, got -1"),
        ({"cinema__annealing_steps": 0.5}, "steps of stage exploitation must be an integer >= 0, got 0.5"),
        ({"cinema__annealing_shape": ["linear"]}, r"unknown annealing shape \['linear'\]"),
        ({"cinema__stages__exploration": {1: 2}}, "exploration knows .* and not 1"),
        ({"cinema__annealing_steps": "???"}, r"lacks \['annealing_steps'\]"),
        ({"cinema": 5}, "needs the `cinema` section"),
        ({"cinema__annealing_shape": "zigzag"}, "unknown annealing shape 'zigzag': choose one of linear"),
        ({"cinema__stages": None}, "must be a section with a name for each stage"),
        ({"cinema__stages__exploration": 5}, r"cinema\.stages\.exploration must be a section"),
        ({"cinema__stages__exploration__steps": 0}, r"cinema\.stages\.exploration has no steps.*=null leaves it out"),
        ({"cinema__stages__warmup": {"coefficient": 0.1}}, r"cinema\.stages\.warmup lacks steps"),
        ({"cinema__stages__warmup": {"steps": 0, "coefficient": 0.1}}, r"cinema\.stages\.warmup has no steps"),
        ({"cinema__stages__exploration__filtre": "acc"}, "not filtre. Did you mean filter"),
        ({"cinema__stages__exploration__filter": "score"}, "filters groups by 'score'"),
        ({"cinema__stages__exploration__filter": True}, "filters groups by True"),
        ({"cinema__stages__exploration__lr_factor": 0}, "lr_factor of stage exploration must be > 0, got 0"),
        ({"cinema__stages__exploration__clip_ratio_high": -1}, "clip_ratio_high of stage exploration must be > 0"),
        ({"cinema__stages": {"exploration": None, "exploitation": None}}, "at least one stage"),
        ({"cinema__exploration_steps": 0, "cinema__annealing_steps": 0}, "no stage has a step"),
        ({"cinema__term_guard": "cap"}, r"cinema\.term_guard must be one of none, leave_out, floor, own_scale"),
        ({"cinema__pattern_mode": "fuzzy"}, r"cinema\.pattern_mode must be one of exact.*got 'fuzzy'"),
        ({"cinema__when_exhausted": "pray"}, r"cinema\.when_exhausted must be one of.*continue.*stop.*got 'pray'"),
        ({"cinema__poll_interval": 0}, r"cinema\.poll_interval must be > 0 seconds, got 0"),
        *(
            ({"cinema__poll_interval": value}, rf"cinema\.poll_interval must be > 0 seconds, got {value!r}")
            for value in ("2", None, True, math.inf, math.nan)
        ),
        ({"cinema__image_conditions": ["upside_down"]}, r"image_conditions must be a list of shuffled.*upside_down"),
        ({"cinema__image_conditions": "blank"}, r"image_conditions must be a list of shuffled"),
        ({"cinema__image_sample": 0}, r"cinema\.image_sample must be a number of questions or null, got 0"),
        ({"cinema__other_sources": "mine"}, r"cinema\.other_sources must be a list of names, got 'mine'"),
        (
            {"cinema__coeficient": 0.1},
            r"unknown keys in the cinema section: cinema\.coeficient \(did you mean cinema\.coefficient\?\); known are",
        ),
        ({"cinema__xyzzy": 0.1}, r"unknown keys in the cinema section: cinema\.xyzzy; known are .*'coefficient'"),
        *(
            ({"actor_rollout_ref__rollout__n": value}, rf"rollout\.n={value}: .*must have at least 2")
            for value in (None, "8", 2.5)
        ),
        ({"algorithm__filter_groups": None}, r"algorithm\.filter_groups must be a section"),
        ({"cinema__stages__exploration__n": 1}, r"cinema\.stages\.exploration\.n=1: .*must have at least 2"),
        ({"actor_rollout_ref__rollout__n": 1}, r"actor_rollout_ref\.rollout\.n=1: .*must have at least 2"),
        (
            {"algorithm__filter_groups__metric": "reward"},
            r"algorithm\.filter_groups\.metric=reward: groups are judged by acc alone \(paper\)",
        ),
    ],
)
def test_a_mistake_says_what_is_wrong_and_what_is_right(changes, message):
    with pytest.raises(ValueError, match=message):
        read(**changes)


def test_a_missing_section_says_which_recipe_to_compose_with():
    config = CONFIG.copy()
    del config["cinema"]
    with pytest.raises(ValueError, match=r"\+recipe=cinema .*cinema-verl doctor"):
        CinemaSettings.from_config(config)


def test_a_missing_key_is_named():
    config = CONFIG.copy()
    del config.cinema["coefficient"]
    with pytest.raises(ValueError, match=r"lacks \['coefficient'\]: compose with \+recipe=cinema"):
        CinemaSettings.from_config(config)


def test_the_ablation_without_diversity_may_have_any_group_size():
    read(algorithm__adv_estimator="grpo", actor_rollout_ref__rollout__n=1)


def test_without_dynamic_sampling_its_metric_does_not_matter():
    read(algorithm__filter_groups={"enable": False, "metric": "reward"})


def test_an_installed_estimator_needs_groups_too(install):
    install("mine", {estimators.GROUP: {"mine": "math:sqrt"}})
    with pytest.raises(ValueError, match=r"rollout\.n=1: algorithm\.adv_estimator=mine compares"):
        read(algorithm__adv_estimator="mine", actor_rollout_ref__rollout__n=1)


def test_an_installed_annealing_shape_can_be_chosen(install):
    install("mine", {schedule.GROUP: {"square_root": "mine:left"}}, "def left(progress): return 1 - progress**0.5")
    assert read(cinema__annealing_shape="square_root").stages.coefficient(700 + 75) == pytest.approx(0.05)


def test_whoever_checks_a_config_needs_neither_torch_nor_verl(run):
    done = run("-c", "import sys, cinema_verl.training.settings; print(*sys.modules)")
    assert not {"torch", "verl", "ray", "transformers", "hydra"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"algorithm__adv_estimator": "grpo"}, "adv_estimator=grpo adds no term"),
        ({"algorithm__adv_estimator": "cinema_pass_at_4"}, "adv_estimator=cinema_pass_at_4 adds no term"),
        ({"algorithm__norm_adv_by_std_in_grpo": False}, "divides by no deviation"),
    ],
)
def test_a_guard_that_would_do_nothing_is_refused(changes, why):
    with pytest.raises(ValueError, match=f"term_guard=floor would change nothing: .*{why}"):
        read(cinema__term_guard="floor", **changes)
    assert read(**changes).term_guard == "none"


def test_leaving_groups_out_needs_no_deviation():
    assert read(cinema__term_guard="leave_out", algorithm__norm_adv_by_std_in_grpo=False).term_guard == "leave_out"


def test_a_normalisation_that_would_not_happen_is_refused():
    with pytest.raises(ValueError, match=r"in_grpo=false would change nothing: .*cinema_pass_at_4"):
        read(algorithm__adv_estimator="cinema_pass_at_4", algorithm__norm_adv_by_std_in_grpo=False)
    read(algorithm__adv_estimator="cinema_dps", algorithm__norm_adv_by_std_in_grpo=False)
    read(algorithm__adv_estimator="cinema_pass_at_4")
