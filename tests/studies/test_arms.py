"""The study's arms that are named after recipes train what those recipes say, with what recipe cinema_cpu says."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cinema_verl.schedule import Stages
from cinema_verl.training import estimators
from studies.dps import loop
from studies.dps.arms import ARMS, RECIPES
from studies.dps.confirm import overrides


def composed(recipe: str, *overrides: str):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"+recipe={recipe}", *overrides])


@pytest.mark.parametrize("arm", RECIPES)
def test_an_arm_has_the_stages_of_its_recipe(arm):
    small = composed("cinema_cpu").cinema
    config = composed(
        RECIPES[arm],
        f"cinema.exploration_steps={small.exploration_steps}",
        f"cinema.annealing_steps={small.annealing_steps}",
    )
    stages = Stages.of(OmegaConf.to_container(config.cinema.stages, resolve=True))
    settings = ARMS[arm]
    assert settings.stages.total_steps == stages.total_steps
    for step in range(1, stages.total_steps + 1):
        assert settings.stages.coefficient(step) == stages.coefficient(step)
        assert settings.stages.at(step).filter == stages.at(step).filter
    scheme = estimators.schemes()[config.algorithm.adv_estimator]
    assert (scheme.credit, scheme.normalise) == (settings.credit, settings.normalise)
    assert settings.guard == config.cinema.term_guard
    assert settings.prompt_mode == config.data.cinema_prompt_mode


def test_the_loop_has_the_values_of_the_recipe():
    config = composed("cinema_cpu")
    actor, filters = config.actor_rollout_ref.actor, config.algorithm.filter_groups
    overlong = config.reward.reward_kwargs.overlong_buffer_cfg
    assert config.actor_rollout_ref.rollout.n == loop.GROUP
    assert loop.PROMPTS == config.data.train_batch_size == actor.ppo_mini_batch_size
    assert actor.optim.lr == loop.LR
    assert actor.optim.lr_warmup_steps == loop.WARMUP
    assert actor.optim.weight_decay == 0.0
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == loop.CLIP
    assert actor.grad_clip == loop.GRAD_CLIP
    assert filters.max_num_gen_batches == loop.MOST_BATCHES
    assert filters.max_inflight_gen_batches == loop.MOST_AT_ONCE
    assert overlong.penalty_factor == loop.OVERLONG_FACTOR
    assert overlong.len / config.data.max_response_length == loop.OVERLONG_SHARE
    assert config.algorithm.norm_adv_by_std_in_grpo
    assert actor.loss_agg_mode == "token-mean"


@pytest.mark.parametrize("arm", ["two_stages", "no_term", "dps", "dapo", "filter_always", "novelty", "pass_at_4"])
def test_an_arm_through_verl_has_its_stages(arm):
    config = composed("cinema_cpu", *overrides(RECIPES[arm]))
    assert Stages.of(OmegaConf.to_container(config.cinema.stages, resolve=True)).spans() == ARMS[arm].stages.spans()
    assert estimators.schemes()[config.algorithm.adv_estimator].credit is ARMS[arm].credit
