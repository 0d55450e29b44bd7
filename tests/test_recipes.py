"""Every shipped recipe: it composes, every value has a source, and it says what it must say."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import recipe_tables
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.utils.config import omega_conf_to_dataclass

from cinema_verl.registration.command_line import PROGRAMS, RL_TRAINER, program_of, shipped_recipes
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.settings import CinemaSettings

ROOT = Path(__file__).parents[1]
COLD_START = {f"cinema_cold_start{variant}" for variant in ("", "_cpu", "_one", "_cot")}
TRAINING = {"cinema", "cinema_cpu", *COLD_START}
EVALUATIONS = {"cinema_evaluate", "cinema_evaluate_cpu"}
# What each ablation changes of recipe cinema: nothing else, but for the name.
ABLATIONS = {
    "cinema_dapo": {"cinema.coefficient": 0.0, "cinema.stages.exploration.filter": "acc"},
    "cinema_dps": {"cinema.annealing_shape": "constant", "cinema.stages.exploitation.filter": None},
    "cinema_no_term": {"cinema.coefficient": 0.0},
    "cinema_filter_always": {"cinema.stages.exploration.filter": "acc"},
    "cinema_strong_term": {"cinema.coefficient": 1.0, "cinema.stages.exploration.filter": "acc"},
    "cinema_novelty": {
        "algorithm.adv_estimator": "cinema_novelty",
        "cinema.coefficient": 1.0,
        "cinema.stages.exploration.filter": "acc",
    },
    "cinema_pass_at_4": {
        "algorithm.adv_estimator": "cinema_pass_at_4",
        "cinema.coefficient": 1.0,
        "cinema.stages.exploration.filter": "acc",
    },
    "cinema_cosine": {"cinema.annealing_shape": "cosine"},
    "cinema_exponential": {"cinema.annealing_shape": "exponential"},
    "cinema_pattern_collapsed": {"cinema.pattern_mode": "collapsed"},
    "cinema_pattern_set": {"cinema.pattern_mode": "set"},
    **{
        f"cinema_without_{a}": {"data.cinema_prompt_mode": f"cinema_without_{a}"}
        for a in ("global", "focus", "hint", "think")
    },
}
FOLLOWS = {  # what is made of the run's name, the prompt mode and the shorthands of the stages
    "trainer.experiment_name",
    "actor_rollout_ref.rollout.trace.experiment_name",
    "trainer.default_local_dir",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "reward.custom_reward_function.reward_kwargs.prompt_mode",
    "cinema.stages.exploration.coefficient",
    "cinema.stages.exploitation.coefficient",
    "cinema.stages.exploitation.shape",
}
ASYNCHRONOUS = {f"cinema_{mode}_async{where}" for mode in ("colocate", "separate") for where in ("", "_cpu")}
EXPECTED = {*TRAINING, *EVALUATIONS, "cinema_val_only", *ABLATIONS, *ASYNCHRONOUS}


def test_the_small_recipe_validates_whichever_stage_is_left_out():
    for shorthand, at in (("exploration", 36), ("annealing", 84)):
        assert composed("cinema_cpu", f"cinema.{shorthand}_steps=0").trainer.test_freq == at
    assert composed("cinema_cpu", "cinema.stages.exploration=null").trainer.test_freq == 36
    assert composed("cinema_cpu", "cinema.stages.exploration.steps=2").trainer.test_freq == 2
    assert composed("cinema_cpu", "cinema.stages=abc").trainer.test_freq == 0, "the verdict says what is wrong"


@cache
def composed(recipe: str, *overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}", *overrides])


def test_all_recipes_are_found():
    assert set(shipped_recipes()) >= EXPECTED
    on_disk = {path.stem for path in (ROOT / "recipes" / "recipe").glob("*.yaml")}
    assert set(shipped_recipes()) == on_disk


@pytest.mark.parametrize("recipe", sorted({*shipped_recipes()} - {"cinema_val_only"}))
def test_recipe_composes_and_its_values_win(recipe):
    with initialize_config_module("verl.trainer.config", version_base=None):  # with Hydra's own part
        config = compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}"], return_hydra_config=True)
    for value in recipe_tables.values(ROOT / "recipes" / "recipe" / f"{recipe}.yaml"):
        if value.key.startswith("hydra."):
            continue  # Hydra's own, which it keeps from the program (tests/training/test_before_start.py)
        missing = object()
        assert OmegaConf.select(config, value.key, default=missing) is not missing, value.key


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_the_header_says_how_to_run_it(recipe):
    text = (ROOT / "recipes" / "recipe" / f"{recipe}.yaml").read_text()
    header = text.split("\n\n")[0]
    assert text.startswith("# @package _global_\n")
    assert f"+recipe={recipe}" in header or recipe == "cinema_val_only"


@pytest.mark.parametrize("recipe", sorted(ABLATIONS))
def test_an_ablation_changes_one_thing(recipe):
    """Compared value by value with recipe cinema, both composed and resolved."""
    plain, config = dict(leaves(composed("cinema"))), dict(leaves(composed(recipe)))
    changed = {key: value for key, value in config.items() if plain.get(key) != value}
    assert config.keys() == plain.keys()
    assert {key: value for key, value in changed.items() if key not in FOLLOWS} == ABLATIONS[recipe]
    assert config["trainer.experiment_name"] == recipe
    CinemaSettings.from_config(composed(recipe))
    assert len(recipe_tables.values(ROOT / "recipes" / "recipe" / f"{recipe}.yaml")) <= 4  # a few lines over cinema


def leaves(config, prefix=""):
    """(dotted name, value) of everything that resolves; verl has values that wait for others."""
    for key in config:
        if OmegaConf.is_missing(config, key):
            continue
        value = config[key]
        if OmegaConf.is_dict(value):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    "overrides",
    [["+recipe=cinema_evaluate"], ["+recipe=cinema_evaluate_cpu"], ["+recipe=[cinema_without_hint,cinema_val_only]"]],
)
def test_an_evaluation_trains_nothing_and_asks_everything(overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(PROGRAMS[RL_TRAINER], overrides=[*overrides, "data.val_files=[a.parquet,b.parquet]"])
    settings = CinemaSettings.from_config(config)
    assert config.trainer.val_only
    assert config.trainer.val_before_train
    assert config.trainer.resume_mode == "disable"
    asked = overrides[0].removeprefix("+recipe=").strip("[]").split(",")[0]  # no two recipes write to one folder
    assert config.trainer.validation_data_dir == f"outputs/evaluation/{asked}"
    assert config.trainer.project_name != composed("cinema").trainer.project_name  # nor over a training's metrics
    assert settings.image_conditions == ("shuffled", "reordered", "blank")
    assert config.data.train_files == config.data.val_files == ["a.parquet", "b.parquet"]
    assert config.actor_rollout_ref.rollout.val_kwargs.n == 16
    assert not config.reward.reward_kwargs.overlong_buffer_cfg.enable


def test_what_makes_an_evaluation_is_known_to_verl_and_to_us():
    known = dict(leaves(composed("cinema")))
    for value in recipe_tables.values(ROOT / "recipes" / "recipe" / "cinema_val_only.yaml"):
        assert value.key in known, value.key


def test_the_reward_follows_the_prompt():
    config = composed("cinema", "data.cinema_prompt_mode=cot")
    assert config.reward.custom_reward_function.reward_kwargs.prompt_mode == "cot"
    assert composed("cinema").reward.custom_reward_function.reward_kwargs.prompt_mode is None


@pytest.mark.parametrize(
    "recipe", [name for name in shipped_recipes() if program_of(name) == RL_TRAINER and name != "cinema_val_only"]
)
def test_checkpoints_of_every_rl_recipe_can_be_cut_anew(recipe):
    """`cinema-verl reshard` knows FSDP2's. verl's engine gets its strategy from the actor's."""
    at = composed(recipe).actor_rollout_ref
    assert at.actor.strategy == at.ref.strategy == "fsdp2"
    assert omega_conf_to_dataclass(at.actor).engine.strategy == "fsdp2"


@pytest.mark.parametrize("recipe", ["cinema", "cinema_cpu"])
def test_rl_recipes_are_the_papers(recipe):
    config = composed(recipe)
    settings = CinemaSettings.from_config(config)
    assert settings.coefficient == 0.1
    assert settings.pattern_mode == "exact"
    assert config.trainer.v1.trainer_mode == "cinema"
    assert config.algorithm.adv_estimator == "cinema_dps"
    assert config.algorithm.filter_groups.enable
    assert config.algorithm.filter_groups.metric == "acc"
    assert config.algorithm.filter_groups.max_num_gen_batches > 0
    assert not config.algorithm.use_kl_in_reward
    actor = config.actor_rollout_ref.actor
    assert not actor.use_kl_loss
    assert actor.entropy_coeff == 0
    assert actor.clip_ratio_high > actor.clip_ratio_low
    assert actor.loss_agg_mode == "token-mean"
    assert config.reward.reward_kwargs.overlong_buffer_cfg.enable


@pytest.mark.parametrize("recipe", sorted(ASYNCHRONOUS))
def test_asynchronous_recipes_train_the_same_method_and_correct_for_older_weights(recipe):
    config = composed(recipe)
    base = composed("cinema_cpu" if recipe.endswith("_cpu") else "cinema")
    assert config.trainer.v1.trainer_mode == recipe.removesuffix("_cpu")
    assert config.cinema == base.cinema
    assert config.algorithm.rollout_correction.rollout_is == "token"
    assert config.actor_rollout_ref.rollout.calculate_log_probs
    assert {key for key in config.algorithm if config.algorithm[key] != base.algorithm[key]} == {"rollout_correction"}
    assert config.trainer.experiment_name == recipe
    CinemaSettings.from_config(config)


def test_the_two_stages_have_the_papers_lengths_and_the_small_one_their_ratio():
    paper = CinemaSettings.from_config(composed("cinema")).stages
    small = CinemaSettings.from_config(composed("cinema_cpu")).stages
    assert paper == AnnealingSchedule(0.1, 700, 300, "linear").stages
    assert small.stages[0].steps / small.total_steps == pytest.approx(0.7)


def test_exploration_takes_every_group_and_exploitation_is_dapo():
    """What the paper's words allow; under the filter the term is 2 % of the advantage (docs/paper.md)."""
    exploration, exploitation = CinemaSettings.from_config(composed("cinema")).stages.stages
    assert (exploration.filter, exploitation.filter) == (None, "acc")
    assert exploitation.coefficient_after(exploitation.steps) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cinema.coefficient=1.5", r"\[0, 1\]"),
        ("cinema.exploration_steps=-1", "steps of stage exploration"),
        ("cinema.annealing_shape=zigzag", "linear"),
        ("cinema.pattern_mode=fuzzy", "exact"),
        ("actor_rollout_ref.rollout.n=1", "at least 2"),
        ("algorithm.filter_groups.metric=score", "acc alone"),
        ("+cinema.coeficient=0.1", "coeficient"),
    ],
)
def test_impossible_settings_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        CinemaSettings.from_config(composed("cinema", override))


def test_a_value_without_a_source_is_refused(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("a:\n  b: 1  # paper: yes\n  c: 2  # because\n")
    with pytest.raises(recipe_tables.MissingSource, match=r"r.yaml:3: a\.c"):
        recipe_tables.values(recipe)


def test_the_docs_have_the_tables_of_the_recipes():
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert page == recipe_tables.with_tables(page), "run: python tools/recipe_tables.py docs/paper.md"


def test_the_diversity_table_in_the_docs_is_what_the_script_prints():
    run = [sys.executable, str(ROOT / "benchmarks" / "diversity_share.py")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").replace("−", "-")
    for line in printed.splitlines():
        _, values = line.split("common")
        common, _, rare, _, share = values.split()
        assert f"{common} / {rare}" in page
        assert f"{float(share):.1%}".replace("%", " %").replace("100.0", "100") in page


def test_the_guards_table_in_the_docs_is_what_the_script_prints():
    run = [sys.executable, str(ROOT / "benchmarks" / "term_guards.py")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 * 2  # 0, 30, 60 and 90 % all-correct groups at two coefficients
    assert "\n".join(rows) in (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
