"""Every shipped recipe: it composes, every value has a source, and it says what it must say."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cinema_verl import provenance
from cinema_verl.command_line import PROGRAMS, RL_TRAINER, program_of, shipped_recipes
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.settings import CinemaSettings

ROOT = Path(__file__).parents[1]
EXPECTED = {"cinema", "cinema_cpu", "cinema_cold_start", "cinema_cold_start_cpu"}


def composed(recipe: str, *overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}", *overrides])


def test_all_recipes_are_found():
    assert set(shipped_recipes()) >= EXPECTED
    on_disk = {path.stem for path in (ROOT / "recipes" / "recipe").glob("*.yaml")}
    assert set(shipped_recipes()) == on_disk


@pytest.mark.parametrize("recipe", sorted(EXPECTED))
def test_recipe_composes_and_its_values_win(recipe):
    config = composed(recipe)
    for value in provenance.values(ROOT / "recipes" / "recipe" / f"{recipe}.yaml"):
        missing = object()
        assert OmegaConf.select(config, value.key, default=missing) is not missing, value.key


@pytest.mark.parametrize("recipe", sorted(EXPECTED))
def test_the_header_says_how_to_run_it(recipe):
    text = (ROOT / "recipes" / "recipe" / f"{recipe}.yaml").read_text()
    header = text.split("\n\n")[0]
    assert text.startswith("# @package _global_\n")
    assert f"+recipe={recipe}" in header


@pytest.mark.parametrize("recipe", sorted(r for r in EXPECTED if program_of(r) == RL_TRAINER))
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


def test_the_two_stages_have_the_papers_lengths_and_the_small_one_their_ratio():
    paper = CinemaSettings.from_config(composed("cinema")).schedule
    small = CinemaSettings.from_config(composed("cinema_cpu")).schedule
    assert paper == AnnealingSchedule(0.1, 700, 300, "linear")
    assert small.exploration_steps / small.total_steps == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cinema.coefficient=1.5", r"\[0, 1\]"),
        ("cinema.exploration_steps=-1", "exploration_steps"),
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
    with pytest.raises(provenance.MissingSource, match=r"r.yaml:3: a\.c"):
        provenance.values(recipe)


def test_the_docs_have_the_tables_of_the_recipes():
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert page == provenance.with_tables(page), "run: python -m cinema_verl.provenance docs/paper.md"


def test_the_diversity_table_in_the_docs_is_what_the_script_prints():
    run = [sys.executable, str(ROOT / "benchmarks" / "diversity_share.py")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8").replace("−", "-")
    for line in printed.splitlines():
        _, values = line.split("common")
        common, _, rare, _, share = values.split()
        assert f"{common} / {rare}" in page
        assert f"{float(share):.1%}".replace("%", " %").replace("100.0", "100") in page
