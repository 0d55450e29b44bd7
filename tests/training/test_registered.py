"""Names that verl would look up in its workers are looked up before anything starts."""

import pytest
from hydra import compose, initialize_config_module

from cinema_verl.training.registered import choices, recipes_own, unregistered

LOOP = "actor_rollout_ref.rollout.agent.default_agent_loop"


def found(*overrides, recipe="cinema_cpu"):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return unregistered(compose("ppo_trainer", overrides=[f"+recipe={recipe}", *overrides]))


def test_what_is_taken_for_registered_is():
    known = {choice.key: choice.known for choice in choices()}
    assert known.keys() == recipes_own().keys()
    for key, names in recipes_own().items():
        assert {*names} <= {*known[key]}, key


@pytest.mark.parametrize(
    "recipe", ["cinema", "cinema_cpu", "cinema_dapo", "cinema_colocate_async", "cinema_novelty", "cinema_pass_at_4"]
)
def test_what_recipes_choose_is_there(recipe):
    assert found(recipe=recipe) == []


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("trainer.v1.trainer_mode", "cinemas"),
        ("algorithm.adv_estimator", "grpoo"),
        (LOOP, "cinem"),
        ("actor_rollout_ref.rollout.name", "transformer"),
    ],
)
def test_what_is_not_there_is_refused(key, name):
    (refusal,) = found(f"{key}={name}")
    assert refusal.key == key
    assert name in refusal.what


def test_what_workers_register_is_not_known_here():
    assert found(f"{LOOP}=mine", "actor_rollout_ref.rollout.agent.agent_loop_config_path=loops.yaml") == []
    theirs = (f"{LOOP}=mine", "actor_rollout_ref.rollout.name=mine", "actor_rollout_ref.model.external_lib=mine")
    assert found(*theirs) == []
