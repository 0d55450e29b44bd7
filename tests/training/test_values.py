"""Values of another kind than their key's, and keys that nobody reads: refused before anything starts."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.utils.tracking import Tracking

from cinema_verl.registration.command_line import PROGRAMS, program_of, shipped_recipes
from cinema_verl.training.refusal import Facts
from cinema_verl.training.values import LOGGERS, misspelt, unread, wrong_values

RL, SFT = "cinema_cpu", "cinema_cold_start_cpu"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def composed(recipe, *overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}", *overrides])


@pytest.fixture(scope="module")
def configurations():
    return {recipe: composed(recipe) for recipe in (RL, SFT)}


def keys(config, key, value):
    config = config.copy()
    OmegaConf.update(config, key, value, force_add=True)
    return [refusal.key for refusal in wrong_values(config, Facts())]


WRONG = {
    (RL, SFT): {
        "trainer.total_epochs": (0, -1, "2", True, 1.5),
        "trainer.total_training_steps": (0, "6"),
        "trainer.n_gpus_per_node": (0, -8, 1.0, "8"),
        "trainer.nnodes": (0, "two"),
        "trainer.resume_mode": ("Auto", "resume", True),
        "trainer.logger": ("wandbb", ["console", "fiel"], 3, [["file"]]),
        "trainer.default_local_dir": ("", "   ", None),
        "trainer.save_freq": ("each_epoch", 0.5, True),
    },
    (SFT,): {
        "trainer.max_ckpt_to_keep": ("3", 2.5),
        "data.max_length": (0, -1, "long"),
        "data.num_workers": (-1, "4"),
        "data.truncation": ("none", "middle", False),
        "data.pad_mode": ("left", "max_length"),
        "model.lora_rank": (-3, "eight", 0.5),
        "checkpoint.save_contents": (["weights"], [], ["model", "optim"], "everything"),
        "engine.strategy": ("fsdp3", "ddp"),
        "optim.lr": (-1, "1e-5x", float("nan"), float("inf"), True),
        "optim.lr_scheduler_type": ("cosin", "linear"),
        "optim.lr_warmup_steps_ratio": (1.5, -0.1),
        "optim.clip_grad": (0, -1),
    },
    (RL,): {
        "trainer.save_freq": ("after_each_epoch",),
        "trainer.max_actor_ckpt_to_keep": (1.5,),
        "trainer.val_only": ("yes", 1),
        "data.max_response_length": (0, "long"),
        "data.seed": ("abc", 0.5),
        f"{ACTOR}.strategy": ("fsdp3",),
        f"{ACTOR}.checkpoint.save_contents": (["everything"],),
        f"{ACTOR}.optim.lr": (-1e-6, "abc"),
        f"{ACTOR}.optim.lr_scheduler_type": ("Cosine",),
        f"{ACTOR}.clip_ratio_low": (-1,),
        f"{ACTOR}.ppo_epochs": (0, 1.5),
        "data.shuffle": ("maybe",),
        f"{ROLLOUT}.temperature": (0, -1, "warm"),
        f"{ROLLOUT}.top_p": (0, 1.5),
        f"{ROLLOUT}.val_kwargs.n": (0, 2.5),
        "algorithm.filter_groups.enable": ("maybe", 1),
        "algorithm.filter_groups.max_inflight_gen_batches": (0, 1.5, "two"),
    },
}


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        (recipe, key, value)
        for recipes, wrong in WRONG.items()
        for recipe in recipes
        for key, values in wrong.items()
        for value in values
        if (recipe, key, value) != (SFT, "trainer.save_freq", "after_each_epoch")
    ],
)
def test_a_value_of_another_kind_is_refused(configurations, recipe, key, value):
    assert keys(configurations[recipe], key, value)[:1] == [key]  # verl loads what it saves, unless told otherwise


@pytest.mark.parametrize(
    ("recipe", "key", "value"),
    [
        (SFT, "trainer.save_freq", "after_each_epoch"),
        (SFT, "trainer.logger", "console"),
        (SFT, "optim.lr", 0),
        (SFT, "model.lora_rank", 8),
        (RL, "trainer.logger", []),
        (RL, "trainer.max_actor_ckpt_to_keep", -1),
        (RL, "data.seed", None),
        (RL, f"{ROLLOUT}.top_k", -1),
    ],
)
def test_what_verl_takes_is_not_refused(configurations, recipe, key, value):
    assert keys(configurations[recipe], key, value) == []


def test_the_schedules_of_other_engines_are_theirs(configurations):
    config = configurations[SFT].copy()
    config.engine.strategy, config.optim.lr_scheduler_type = "megatron", "linear"
    assert list(wrong_values(config, Facts())) == []


def test_the_loggers_are_verls():
    assert set(LOGGERS) == {*Tracking.supported_backend, "tracking"}


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_the_recipes_own_values_are_of_their_kinds(recipe):
    assert list(wrong_values(composed(recipe), Facts())) == []


# --- Keys that nobody reads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "override", "meant"),
    [
        (RL, "+data.train_batch_sise=8", "data.train_batch_size"),
        (RL, "+trainer.total_epoch=1", "trainer.total_epochs"),
        (RL, "+rewards.custom_reward_function.reward_kwargs.native_reasoning=strip", "reward"),
        (RL, "+reward.custom_reward_function.reward_kwargs.native_reasonings=strip", "native_reasoning"),
        (RL, "+algorithm.filter_group.enable=false", "algorithm.filter_groups"),
        (RL, "+actor_rollout_ref.actor.optims.lr=1", "actor_rollout_ref.actor.optim"),
        (SFT, "+data.train_batchsize=8", "data.train_batch_size"),
        (SFT, "+trainer.max_actor_ckpt_to_keep=2", "trainer.max_ckpt_to_keep"),
        (SFT, "+model.lora_ranks=8", "model.lora_rank"),
    ],
)
def test_a_key_that_is_added_beside_one_of_nearly_its_name_is_refused(recipe, override, meant):
    (refusal,) = misspelt(composed(recipe, override), [override])
    assert f"beside {meant}" in refusal.what or refusal.what.endswith(f".{meant}")
    meant_so = f"+{override}"
    assert list(misspelt(composed(recipe, meant_so), [meant_so])) == []


@pytest.mark.parametrize(
    "override",
    [
        "+data.apply_chat_template_kwargs.enable_thinking=false",
        "+ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY=x",
        "+ray_kwargs.ray_init.address=10.0.0.1:6379",
        "+ray_kwargs.ray_init.num_gpu=8",  # beside num_cpus, num_gpus: Ray itself refuses what it does not know
        "+actor_rollout_ref.rollout.engine_kwargs.transformers.batch_window=0.1",
        "+actor_rollout_ref.rollout.enable_sleep_mode=false",
        "+trainer.note=x",
        "+mine.learning.rate=3",
        "cinema.coefficient=0.2",
    ],
)
def test_keys_of_one_s_own_are_left_alone(override):
    overrides = [f"+recipe={RL}", override]
    assert list(misspelt(composed(RL, override), overrides)) == []


def test_two_new_keys_of_nearly_the_same_name_are_each_other_s_business():
    overrides = ["+mine.first_step=1", "+mine.first_steps=2"]
    assert list(misspelt(composed(RL, *overrides), overrides)) == []


def test_a_stage_of_nearly_the_name_of_another_is_asked_about():
    for name, said in (("exploration2", ["is one more stage, beside cinema.stages.exploration"]), ("polish", [])):
        override = f"+cinema.stages.{name}={{steps: 5, coefficient: 0}}"
        assert [refusal.what for refusal in misspelt(composed(RL, override), [override])] == said


# --- Shorthands of stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["cinema.exploration_steps=5", "cinema.stages.exploration.steps=7"], ["cinema.exploration_steps"]),
        (["cinema.annealing_steps=5", "cinema.stages.exploitation=null"], ["cinema.annealing_steps"]),
        (["cinema.annealing_shape=cosine", "~cinema.stages.exploitation"], ["cinema.annealing_shape"]),
        (["++cinema.coefficient=0.3", "cinema.stages.exploration.coefficient=0.2"], []),  # stage 2 takes it
        (["cinema.exploration_steps=7", "cinema.stages.exploration.steps=7"], []),
        (["cinema.stages.exploration.steps=7", "cinema.annealing_steps=0"], []),
        (["cinema.exploration_steps=5", "cinema.stages=abc"], []),  # said by the verdict
    ],
)
def test_a_shorthand_that_no_stage_takes_is_refused(overrides, keys):
    assert [refusal.key for refusal in unread(composed(RL, *overrides), overrides)] == keys


def test_a_recipe_may_set_a_shorthand_that_its_user_has_no_stage_for():
    overrides = ["cinema.stages.exploitation=null"]
    assert list(unread(composed("cinema_dps", *overrides), ["+recipe=cinema_dps", *overrides])) == []
    assert list(unread(composed(SFT), [f"+recipe={SFT}"])) == []
