"""The rollout's log-probabilities in place of the actor's: when they are compared, and what the comparison refuses."""

import math

import pytest
from hydra import compose, initialize_config_module

from cinema_verl.training import log_probs
from cinema_verl.training.refusal import Facts
from cinema_verl.training.verdict import refusals

BYPASS = "algorithm.rollout_correction.bypass_mode"


def configured(*overrides, recipe="cinema_cpu"):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"+recipe={recipe}", *overrides])


def test_the_cpu_recipe_trains_with_the_rollouts_and_no_other():
    assert log_probs.bypassed(configured())
    assert not log_probs.bypassed(configured(recipe="cinema"))
    assert not log_probs.bypassed(configured(recipe="cinema_colocate_async_cpu"))


@pytest.mark.parametrize(("step", "compared"), [(1, True), (2, False), (20, True), (33, True), (34, False), (40, True)])
def test_first_steps_and_every_twentieth_are_compared(step, compared):
    config, first = configured(), 33 if step > 20 else 1
    with log_probs.checked(config, step, first):
        assert log_probs.bypassed(config) is not compared
    assert log_probs.bypassed(config)


def test_a_step_that_fails_leaves_the_configuration_as_it_was():
    config = configured()
    with pytest.raises(RuntimeError), log_probs.checked(config, 1, 1):
        raise RuntimeError
    assert log_probs.bypassed(config)


def test_a_run_without_the_bypass_is_left_alone():
    config = configured(f"{BYPASS}=false")
    with log_probs.checked(config, 1, 1):
        assert not log_probs.bypassed(config)
    assert not log_probs.bypassed(config)
    log_probs.check_gap({log_probs.GAP: 0.5}, 1, config)


def test_a_gap_that_is_no_rounding_ends_the_run():
    log_probs.check_gap({log_probs.GAP: 1e-5}, 20, configured())
    log_probs.check_gap({}, 21, configured())
    log_probs.check_gap({log_probs.GAP: math.nan}, 21, configured())  # verl's word for no token
    with pytest.raises(log_probs.EnginesDisagree, match=r"step 20.*0\.02.*bypass_mode"):
        log_probs.check_gap({log_probs.GAP: 0.02}, 20, configured())


@pytest.mark.parametrize("override", ["actor_rollout_ref.rollout.dtype=bfloat16"])
def test_where_rounding_is_coarse_the_gap_is_logged_only(override):
    log_probs.check_gap({log_probs.GAP: 0.02}, 20, configured(override))


@pytest.mark.parametrize("key", ["rollout.calculate_log_probs", "actor.calculate_entropy"])
def test_what_the_bypass_needs_is_asked_for_before_the_run(key):
    key = f"actor_rollout_ref.{key}"
    assert [refusal.key for refusal in refusals(configured(f"{key}=false"), Facts())] == [key]
    assert not refusals(configured(f"{key}=false", f"{BYPASS}=false"), Facts())
