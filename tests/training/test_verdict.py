"""What a run is refused for before it starts; each rule is what verl asserts, or does without a word."""

from functools import cache

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from cinema_verl.data.schema import RL_SCHEMA
from cinema_verl.registration.command_line import PROGRAMS, program_of, shipped_recipes
from cinema_verl.training.arithmetic import cpus_wanted
from cinema_verl.training.data_files import file_refusals
from cinema_verl.training.refusal import VERLS_OWN, Facts
from cinema_verl.training.verdict import refusals

GPUS = Facts(cpus=64, rows={"train": 58_000, "val": 2_000})
"""A machine for recipe cinema, and files of the paper's size."""


@cache
def composed(recipe):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(PROGRAMS[program_of(recipe)], overrides=[f"+recipe={recipe}"])


def judged(*overrides, recipe="cinema", facts=GPUS):
    """Key -> refusal, of a recipe with these overrides."""
    config = composed(recipe).copy()
    OmegaConf.set_struct(config, False)
    config.merge_with_dotlist(list(overrides))
    return {refusal.key: refusal for refusal in refusals(config, facts)}


SFT = ("data.val_files=[v.parquet]", "model.path=somebody/model")
ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"


@pytest.mark.parametrize(
    "key", ["actor_rollout_ref.model.path", "reward.reward_kwargs.x", "algorithm.adv_estimator", "cinema.coefficient"]
)
def test_fine_tuning_has_none_of_the_sections_of_reinforcement_learning(key):
    assert f"{key.partition('.')[0]}" in judged(*SFT, f"{key}=x", recipe="cinema_cold_start")


@pytest.mark.parametrize("recipe", sorted({*shipped_recipes()} - {"cinema_val_only"}))
def test_every_shipped_recipe_can_train_what_it_says(recipe):
    overrides = SFT if "cold_start" in recipe else ()
    assert judged(*overrides, recipe=recipe) == {}


def test_verls_own_configuration_is_none_of_our_business():
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["data.train_batch_size=7"])
    assert refusals(config, GPUS) == []


@pytest.mark.parametrize("recipe", ["cinema", "cinema_cpu", "cinema_evaluate"])
def test_an_unknown_declaration_of_the_policys_reasoning(recipe):
    key = "reward.custom_reward_function.reward_kwargs.native_reasoning"
    assert "none, strip, refuse" in judged(f"{key}=on", recipe=recipe)[key].what
    for known in ("none", "strip", "refuse"):
        assert judged(f"{key}={known}", recipe=recipe) == {}


# --- The schedule ---------------------------------------------------------------------------------------------


def test_too_few_steps_for_the_schedule_are_refused_with_the_stage_that_would_not_happen():
    found = judged("trainer.total_training_steps=6")["trainer.total_training_steps"]
    assert "stage 2 (exploitation, steps 701 to 1000) would not happen" in found.what
    # 6 x 700 / 1000 = 4.2: the same proportions.
    assert "cinema.exploration_steps=4 cinema.annealing_steps=2" in found.advice
    assert judged("trainer.total_training_steps=6", "cinema.exploration_steps=4", "cinema.annealing_steps=2") == {}
    assert judged("trainer.total_training_steps=1000") == {}
    assert judged("trainer.total_training_steps=1200") == {}


@pytest.mark.parametrize(
    ("overrides", "shorter"),
    [
        # 73 and 27 of 800 and 300 steps; the stage that has steps of its own does not read the shorthand.
        (["cinema.stages.exploration.steps=800"], ["cinema.stages.exploration.steps=73", "cinema.annealing_steps=27"]),
        # 67, 28 and 5 of 700, 300 and 50.
        (
            ["cinema.stages.polish.steps=50", "cinema.stages.polish.coefficient=0"],
            ["cinema.exploration_steps=67", "cinema.annealing_steps=28", "cinema.stages.polish.steps=5"],
        ),
    ],
)
def test_the_shorter_schedule_that_is_offered_is_taken(overrides, shorter):
    found = judged("trainer.total_training_steps=100", *overrides)["trainer.total_training_steps"]
    assert " ".join(shorter) in found.advice
    assert judged("trainer.total_training_steps=100", *overrides, *shorter) == {}


def test_a_stage_for_which_no_step_is_left_is_left_out():
    polish = ["cinema.stages.polish.steps=50", "cinema.stages.polish.coefficient=0"]
    advice = judged("trainer.total_training_steps=1", *polish)["trainer.total_training_steps"].advice
    assert "cinema.exploration_steps=1 cinema.annealing_steps=0 cinema.stages.polish=null" in advice


def test_a_trainer_of_verls_has_no_stages_to_end():
    baseline = ["trainer.v1.trainer_mode=sync", "algorithm.adv_estimator=grpo", "trainer.total_training_steps=6"]
    assert judged(*baseline) == {}
    assert "trainer.total_training_steps" in judged(*baseline[1:])


@pytest.mark.parametrize("stages", ["cinema.stages=abc", "cinema.stages.exploration=5"])
def test_stages_that_cannot_be_read_are_said_with_any_engine(stages):
    assert "must be a section" in judged(stages, f"{ACTOR}.strategy=megatron")["cinema"].what
    assert (
        "fsdp2" in judged("cinema.stages.exploration.lr_factor=2", f"{ACTOR}.strategy=megatron")["cinema.stages"].what
    )


@pytest.mark.parametrize("value", ["n=16", "temperature=1.2"])
def test_a_stages_own_sampling_is_refused_where_it_would_not_be_kept(value):
    own = f"cinema.stages.exploration.{value}"
    assert judged(own) == {}
    assert "trainer_mode=cinema" in judged(own, recipe="cinema_colocate_async")["cinema.stages"].advice
    assert (
        "SharingAgentLoopManager" in judged(own, f"{ROLLOUT}.agent.agent_loop_manager_class=null")["cinema.stages"].what
    )


def test_a_stage_that_would_end_early_is_named_with_its_coefficient():
    found = judged("trainer.total_training_steps=850")["trainer.total_training_steps"]
    assert "would end early, at coefficient 0.05" in found.what  # halfway from 0.1 to 0


def test_epochs_end_a_run_as_steps_do():
    # 58,000 rows are 453 batches of 128.
    found = judged("trainer.total_epochs=1")["trainer.total_epochs"]
    assert "would end after 453 steps" in found.what
    assert judged("trainer.total_epochs=3") == {}
    assert judged("trainer.total_epochs=1", facts=GPUS._replace(rows={})) == {}  # nothing is known of the files


def test_without_reward_workers_this_packages_agent_loops_must_be_there_to_score():
    key, manager = "reward.num_workers", f"{ROLLOUT}.agent.agent_loop_manager_class"
    assert judged(f"{key}=0") == judged(f"{key}=0", recipe="cinema_evaluate") == {}
    assert "nobody to score" in judged(f"{key}=0", f"{manager}=null")[key].what
    assert "reward model" in judged(f"{key}=0", "reward.reward_model.enable=true")[key].what
    assert judged(f"{key}=1", f"{manager}=null") == {}


# --- Settings and selection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key", "says"),
    [
        (["cinema.coeficient=0.05"], "cinema", "coeficient"),
        (["cinema.annealing_shape=cosin"], "cinema", "cosin"),
        (["cinema.pattern_mode=fuzzy"], "cinema", "fuzzy"),
        (["algorithm.filter_groups.metric=score"], "cinema", "judged by acc alone"),
        (["trainer.v1.trainer_mode=sync"], "trainer.v1.trainer_mode", "cinema_dps needs the patterns"),
        (["trainer.use_v1=false"], "trainer.use_v1", "legacy"),
        (["data.cinema_checks=quick"], "data.cinema_checks", "Use one of full, header, off"),
        (["data.filter_overlong_prompts=true"], "data.filter_overlong_prompts", "drop broken rows"),
        (["data.max_response_length=256"], "reward.reward_kwargs.overlong_buffer_cfg.len", "512 tokens of 256"),
    ],
)
def test_what_is_selected(overrides, key, says):
    found = judged(*overrides)
    assert says in found[key].what


def test_a_trainer_that_is_set_by_hand_lacks_its_section():
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["trainer.v1.trainer_mode=cinema"])
    assert "+recipe=cinema" in next(iter(refusals(config, GPUS))).what


# --- Asynchronous ---------------------------------------------------------------------------------------------


SYNC_STEP = "trainer.v1.separate_async.parameter_sync_step"


@pytest.mark.parametrize("recipe", ["cinema_colocate_async", "cinema_separate_async"])
def test_a_correction_without_what_it_is_computed_from_is_refused(recipe):
    found = judged(f"{ROLLOUT}.calculate_log_probs=false", recipe=recipe)
    assert "rollout_is=token corrects nothing" in found[f"{ROLLOUT}.calculate_log_probs"].what
    overrides = [f"{ROLLOUT}.calculate_log_probs=false", "algorithm.rollout_correction.rollout_is=null"]
    assert judged(*overrides, recipe=recipe) == {}
    assert judged(f"{ROLLOUT}.calculate_log_probs=false") == {}


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("cinema", 8),
        ("cinema_cpu", 1),
        ("cinema_colocate_async", 8),
        ("cinema_separate_async", 4 + 4),
        ("cinema_separate_async_cpu", 1 + 1),
    ],
)
def test_a_ray_that_is_told_of_fewer_gpus_than_the_run_needs_is_refused(recipe, wanted):
    key = "ray_kwargs.ray_init.num_gpus"
    found = judged(f"{key}={wanted - 1}", recipe=recipe)["trainer.n_gpus_per_node"]
    assert f"this Ray has {wanted - 1} GPUs, and the run needs {wanted}" in found.what
    assert key in found.advice
    assert judged(f"{key}={wanted}", recipe=recipe) == {}


def test_a_cluster_of_others_is_not_judged_by_what_its_recipe_declares():
    two = ["trainer.n_gpus_per_node=2"]
    assert "trainer.n_gpus_per_node" in judged(*two, recipe="cinema_cpu")
    joined = judged(*two, "ray_kwargs.ray_init.address=10.0.0.1:6379", recipe="cinema_cpu")
    assert "trainer.n_gpus_per_node" not in joined


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([f"{SYNC_STEP}=2"], SYNC_STEP),  # 128 questions in two updates of 32
        ([f"{ROLLOUT}.nnodes=0"], f"{ROLLOUT}.n_gpus_per_node"),
        ([f"{ROLLOUT}.n_gpus_per_node=null"], f"{ROLLOUT}.n_gpus_per_node"),
        ([f"{ROLLOUT}.n_gpus_per_node=3", f"{ROLLOUT}.tensor_model_parallel_size=2"], f"{ROLLOUT}.n_gpus_per_node"),
        ([f"{ROLLOUT}.checkpoint_engine.backend=naive"], f"{ROLLOUT}.checkpoint_engine.backend"),
    ],
)
def test_what_verl_asserts_of_gpus_of_their_own(overrides, key):
    assert key in judged(*overrides, recipe="cinema_separate_async")


def test_each_update_of_separate_async_has_a_batch_of_its_own():
    """4 questions x 8 rollouts: 32 rows to compute log-probabilities of, and not the step's 64."""
    key = f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu"
    assert "64 does not divide the 32 rows" in judged(f"{key}=64", recipe="cinema_separate_async_cpu")[key].what


# --- Batches --------------------------------------------------------------------------------------------------

DYNAMIC_OFF = (
    f"{ACTOR}.use_dynamic_bsz=false",
    f"{ROLLOUT}.log_prob_use_dynamic_bsz=false",
    f"{ACTOR}.ppo_micro_batch_size_per_gpu=4",
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=8",
)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        # 30 questions x 1 rollout are no multiple of 8 ranks.
        ([f"{ACTOR}.ppo_mini_batch_size=30", f"{ROLLOUT}.n=2"], f"{ACTOR}.ppo_mini_batch_size"),
        ([f"{ACTOR}.ppo_mini_batch_size=30", "cinema.stages.exploitation.n=2"], f"{ACTOR}.ppo_mini_batch_size"),
        ([f"{ROLLOUT}.tensor_model_parallel_size=3"], f"{ROLLOUT}.tensor_model_parallel_size"),
        (
            [f"{ROLLOUT}.name=transformers", f"{ROLLOUT}.tensor_model_parallel_size=2"],
            f"{ROLLOUT}.tensor_model_parallel_size",
        ),
        ([f"{ACTOR}.ulysses_sequence_parallel_size=2"], f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"),
        ([f"{ACTOR}.use_dynamic_bsz=false"], f"{ROLLOUT}.log_prob_use_dynamic_bsz"),
        # Sequences may have 8,192 + 2,048 tokens.
        ([f"{ACTOR}.ppo_max_token_len_per_gpu=10239"], f"{ACTOR}.ppo_max_token_len_per_gpu"),
        ([f"{ROLLOUT}.log_prob_max_token_len_per_gpu=10000"], f"{ROLLOUT}.log_prob_max_token_len_per_gpu"),
        # 32 questions x 8 rollouts over 8 ranks are 32 rows a rank; the whole batch has 128.
        ([*DYNAMIC_OFF, f"{ACTOR}.ppo_micro_batch_size_per_gpu=5"], f"{ACTOR}.ppo_micro_batch_size_per_gpu"),
        (
            [*DYNAMIC_OFF, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=12"],
            f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu",
        ),
        ([f"{ROLLOUT}.n=0"], f"{ROLLOUT}.n"),
        (["data.train_batch_size=60000"], "data.train_batch_size"),
    ],
)
def test_arithmetic_that_verl_would_stop_at_after_the_first_rollout(overrides, key):
    assert key in judged(*overrides)


def test_arithmetic_that_works_out():
    assert judged(*DYNAMIC_OFF) == {}
    assert judged(f"{ACTOR}.ppo_max_token_len_per_gpu=10240", f"{ROLLOUT}.log_prob_max_token_len_per_gpu=10240") == {}
    packed = ("actor_rollout_ref.model.use_remove_padding=true", f"{ACTOR}.ulysses_sequence_parallel_size=2")
    assert judged(*packed, f"{ACTOR}.ppo_max_token_len_per_gpu=5120") == {}
    # Mini-batches of 48 do not divide 128: verl pads to 144 questions, 144 rows a rank, and 8 divides those.
    assert judged(*DYNAMIC_OFF, f"{ACTOR}.ppo_mini_batch_size=48") == {}


def test_the_advice_names_a_size_that_divides():
    found = judged(*DYNAMIC_OFF, f"{ACTOR}.ppo_micro_batch_size_per_gpu=5")
    advice = found[f"{ACTOR}.ppo_micro_batch_size_per_gpu"].advice
    assert advice == f"set {ACTOR}.ppo_micro_batch_size_per_gpu=4"
    assert judged(*DYNAMIC_OFF, advice.removeprefix("set ")) == {}


# --- Ray ------------------------------------------------------------------------------------------------------


def test_cpus_that_ray_must_have():
    config = composed("cinema_cpu")
    assert cpus_wanted(config) == 1 + 1 + 3 * 1  # a storage unit, the controller, three beside the one GPU
    assert cpus_wanted(composed("cinema")) == 8 + 1 + 3 * 8
    assert cpus_wanted(composed("cinema_separate_async")) == 8 + 1 + 3 * 4 + 2 * 4
    key = "ray_kwargs.ray_init.num_cpus"
    assert judged(f"{key}=4", recipe="cinema_cpu")[key].what.startswith("this Ray has 4 CPUs")
    assert judged(f"{key}=5", recipe="cinema_cpu") == {}
    assert judged(facts=GPUS._replace(cpus=16))[key].what.startswith("this machine has 16 CPUs")
    assert judged(facts=GPUS._replace(cpus=None)) == {}


def test_facts_of_this_process():
    assert Facts.here({"WORLD_SIZE": "4", "RAY_ADDRESS": "auto"}) == Facts(4, None)
    assert Facts.here({}).cpus > 0
    assert Facts.here({}).processes is None


# --- Supervised fine-tuning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data.train_batch_size=100"], "data.train_batch_size"),  # 12 a rank: 96 a step
        (["data.micro_batch_size_per_gpu=3"], "data.micro_batch_size_per_gpu"),  # 16 a rank
        (["data.use_dynamic_bsz=true", "data.max_token_len_per_gpu=8192"], "data.max_token_len_per_gpu"),
        (["engine.ulysses_sequence_parallel_size=3"], "engine.ulysses_sequence_parallel_size"),
        (["data.val_files=null"], "data.val_files"),
        (["trainer.test_freq=0"], "trainer.test_freq"),
        (["trainer.save_freq=0"], "trainer.save_freq"),
        (["data.train_batch_size=58008"], "data.train_batch_size"),
        (["model.path=~/model"], "model.path"),
    ],
)
def test_fine_tuning_that_would_fail_or_shrink(overrides, key):
    assert key in judged(*SFT, *overrides, recipe="cinema_cold_start")


def test_fine_tuning_that_works_out():
    assert judged(*SFT, recipe="cinema_cold_start") == {}
    assert judged(*SFT, "data.val_files=null", "trainer.test_freq=-1", recipe="cinema_cold_start") == {}
    # The SFT trainer validates over every row, however few there are.
    few, none = (GPUS._replace(rows={"train": 58_000, "val": rows}) for rows in (1, 0))
    assert judged(*SFT, recipe="cinema_cold_start", facts=few) == {}
    assert set(judged(*SFT, recipe="cinema_cold_start", facts=none)) == {"data.val_files"}
    # torchrun knows better than the recipe how many there are.
    six = judged(*SFT, recipe="cinema_cold_start", facts=GPUS._replace(processes=6))
    assert set(six) == {"data.train_batch_size"}


# --- The model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["smolvlm", "idefics3", "internvl", "gemma3", "llama"])
def test_a_family_that_verl_cannot_train_is_refused_with_those_that_it_can(tmp_path, model_type):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    found = judged(f"actor_rollout_ref.model.path={tmp_path}")["actor_rollout_ref.model.path"]
    assert model_type in found.what
    assert "Qwen2.5-VL, Qwen3-VL" in found.advice
    assert "cinema_checks" not in str(found), "switching checks off only moves the failure"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "not a Hugging Face model"),
        ({"adapter_config.json": "{}"}, "LoRA adapter without the model"),
        ({"config.json": "{"}, "cannot be read"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path, files, says):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = judged(f"actor_rollout_ref.model.path={tmp_path}")
    assert says in found["actor_rollout_ref.model.path"].what


def test_a_folder_of_a_family_that_is_known(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    assert judged(f"actor_rollout_ref.model.path={tmp_path}") == {}


@pytest.mark.parametrize("model_type", ["glm4v", "glm46v"])
@pytest.mark.parametrize("recipe", ["cinema", "cinema_cpu", "cinema_cold_start"])
def test_a_family_whose_forward_pass_reads_what_is_sharded(tmp_path, model_type, recipe):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    path, key = "actor_rollout_ref.model.path", "actor_rollout_ref.actor.strategy"
    if recipe == "cinema_cold_start":
        path, key = "model.path", "engine.strategy"
    assert "FSDP2" in judged(f"{path}={tmp_path}", recipe=recipe)[key].what
    assert key not in judged(f"{path}={tmp_path}", f"{key}=fsdp", recipe=recipe)


def test_a_folder_that_is_not_there(tmp_path):
    assert "does not exist" in judged(f"actor_rollout_ref.model.path={tmp_path}/x")["actor_rollout_ref.model.path"].what


def test_rows_are_read_from_the_footers(tmp_path):
    import pyarrow.parquet as pq

    pq.write_table(RL_SCHEMA.empty_table(), tmp_path / "a.parquet")
    found = judged(f"data.train_files={tmp_path}/a.parquet", facts=GPUS._replace(rows=None))
    assert found["data.train_batch_size"].what == "0 training rows, fewer than data.train_batch_size=128: not one step"


def test_it_needs_neither_torch_nor_verl(run):
    code = "import sys, cinema_verl.training.verdict; print(*sys.modules)"
    assert not {"torch", "verl", "ray", "transformers"} & set(run("-c", code).stdout.split())


# --- The rollout engine's context -----------------------------------------------------------------------------


def test_a_context_that_holds_no_whole_trajectory_is_refused(tmp_path):
    """verl's server cuts the response to what the prompt leaves of `max_model_len`, and says nothing."""
    key = f"{ROLLOUT}.max_model_len"
    assert composed("cinema").actor_rollout_ref.rollout.max_model_len == 8192 + 2048
    assert composed("cinema_cpu").actor_rollout_ref.rollout.max_model_len == 160 + 64
    assert judged("data.max_prompt_length=9000") == {}, "it follows the limits"
    assert "10240" in judged(f"{key}=10239")[key].what
    assert judged(f"{key}=10239", f"{ROLLOUT}.name=transformers") == {}
    assert judged(f"{key}=null") == {}
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl", "max_position_embeddings": 10000}')
    assert "10000" in judged(f"actor_rollout_ref.model.path={tmp_path}")[key].what


@pytest.mark.parametrize("recipe", ["cinema_cpu", "cinema_colocate_async_cpu", "cinema_evaluate_cpu"])
@pytest.mark.parametrize("adapters", ["lora_rank=8", "lora.rank=8", "lora_adapter_path=/adapter"])
def test_adapters_need_an_engine_that_can_take_them(adapters, recipe):
    key = "actor_rollout_ref.model.lora.merge"
    assert key not in judged(f"actor_rollout_ref.model.{adapters}", recipe=recipe), "it merges"
    found = judged(f"actor_rollout_ref.model.{adapters}", f"{key}=false", recipe=recipe)
    assert found["actor_rollout_ref.model.lora.merge"].advice == "set actor_rollout_ref.model.lora.merge=true"


# --- Values that are met late ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        ("cinema", "trainer.save_freq=after_each_epoch"),  # of the other program: compared with 0 after the first step
        ("cinema", "trainer.test_freq=often"),
        ("cinema", "trainer.total_epochs=1.5"),
        ("cinema", "trainer.max_actor_ckpt_to_keep=two"),
        ("cinema", "trainer.resume_mode=autoo"),
        ("cinema", "trainer.val_before_train=flase"),
        ("cinema", "trainer.n_gpus_per_node=eight"),
        ("cinema_evaluate", "trainer.resume_mode=no"),
        ("cinema_cold_start", "trainer.save_freq=after_every_epoch"),
        ("cinema_cold_start", "trainer.test_freq=after_every_epoch"),
        ("cinema_cold_start", "trainer.max_ckpt_to_keep=all"),
        ("cinema_cold_start", "trainer.resume_mode=always"),
        ("cinema", "trainer.default_local_dir="),
        ("cinema_cold_start", "trainer.default_local_dir="),
    ],
)
def test_a_value_that_the_program_does_not_know_is_refused(recipe, override):
    more = SFT if "cold_start" in recipe else ()
    assert set(judged(*more, override, recipe=recipe)) == {override.partition("=")[0]}


@pytest.mark.parametrize("value", ["null", "2", "-1"])
def test_how_many_to_keep_may_be_left_open(value):
    assert judged(f"trainer.max_actor_ckpt_to_keep={value}") == {}
    assert judged(*SFT, f"trainer.max_ckpt_to_keep={value}", recipe="cinema_cold_start") == {}


def test_fine_tuning_has_no_section_of_ours():
    assert "cinema" in judged(*SFT, "cinema.coefficient=0.05", recipe="cinema_cold_start")


def test_what_nobody_named_is_said_so_and_is_verls_default():
    """verl's own paths are no files of anybody's: "does not exist" would send people to look for them."""
    found = judged("data.val_files=[v.parquet]", recipe="cinema_cold_start_cpu")
    assert "no model is named" in found["model.path"].what
    with initialize_config_module("verl.trainer.config", version_base=None):
        rl, sft = (compose(name) for name in ("ppo_trainer", "sft_trainer_engine"))
    named = [rl.data.train_files, rl.data.val_files, rl.actor_rollout_ref.model.path]
    assert {*named, sft.data.train_files, sft.model.path} == VERLS_OWN
    for config, keys in ((rl, {"data.train_files", "data.val_files"}), (sft, {"data.train_files"})):
        refused = file_refusals(config)
        assert {refusal.key for refusal in refused} == keys
        assert all("no file is named" in refusal.what for refusal in refused)
