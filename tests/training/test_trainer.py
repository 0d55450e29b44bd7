"""The trainer without Ray: what its constructor settles, and a step of the paper's reward over a stand-in queue."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transfer_queue
from hydra import compose, initialize_config_module
from transfer_queue import KVBatchMeta
from transfer_queue.controller import PartitionIndexManager, TransferQueueController
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from cinema_verl.reward import compute_score
from cinema_verl.training import advantage, estimators
from cinema_verl.training.async_sampling import BoundedReplayBufferAsync
from cinema_verl.training.dynamic_sampling import BoundedReplayBuffer, GroupKind
from cinema_verl.training.log_probs import EnginesDisagree
from cinema_verl.training.trainer import CinemaTrainer


def configured(*overrides):
    recipe = [] if any(override.startswith("+recipe=") for override in overrides) else ["+recipe=cinema_cpu"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*recipe, *overrides])


def make(*overrides, name="cinema"):
    return get_trainer_cls(name)(configured(*overrides))


# ---- the constructor --------------------------------------------------------------------------------------------


def test_it_runs_as_long_as_the_schedule():
    trainer = make("cinema.exploration_steps=7", "cinema.annealing_steps=3", "trainer.total_training_steps=null")
    assert trainer.config.trainer.total_training_steps == 10


def test_each_step_has_the_temperature_and_the_group_size_of_its_stage():
    trainer = make("cinema.stages.exploitation.n=16", "cinema.stages.exploration.temperature=1.2")
    rollout, seen = trainer.config.actor_rollout_ref.rollout, []
    first = trainer.stages.stages[0].steps
    for trainer.global_steps in (1, first, first + 1, 1):
        trainer.on_step_begin()
        seen.append((rollout.n, rollout.temperature))
    assert seen == [(8, 1.2), (8, 1.2), (16, 1.0), (8, 1.2)]


def test_a_longer_run_than_the_schedule_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        make("cinema.exploration_steps=7", "cinema.annealing_steps=3", "trainer.total_training_steps=12")
    assert "total_training_steps=12, but the stages have 10 steps: the rest trains as stage exploitation" in caplog.text


@pytest.mark.parametrize(
    ("logger", "left", "to_file"), [("[console,file]", ["console"], True), ("console", ["console"], False)]
)
def test_the_file_logger_is_taken_from_verl(logger, left, to_file):
    trainer = make(f"trainer.logger={logger}")
    assert (list(trainer.config.trainer.logger), trainer._logs_to_file) == (left, to_file)


def test_verl_builds_the_bounded_buffer_and_its_validations_are_kept():
    trainer = make()
    assert type(trainer.replay_buffer) is BoundedReplayBuffer
    assert trainer.replay_buffer.on_validated == trainer.validations.keep_answers
    assert trainer.replay_buffer.refill_fn == trainer._add_prompts_to_generate
    assert trainer.trainer_mode == "sync"


@pytest.mark.parametrize(("mode", "updates"), [("colocate_async", 1), ("separate_async", 2)])
def test_the_same_additions_stand_before_verls_asynchronous_trainers(mode, updates):
    trainer = make(f"+recipe=cinema_{mode}_cpu", name=f"cinema_{mode}")
    assert (trainer.trainer_mode, trainer.parameter_sync_step) == (mode, updates)
    assert isinstance(trainer, get_trainer_cls(mode))
    assert isinstance(trainer, CinemaTrainer)
    assert type(trainer.replay_buffer) is BoundedReplayBufferAsync
    assert trainer.replay_buffer.on_validated == trainer.validations.keep_answers
    assert trainer.replay_buffer.max_off_policy_threshold == 4
    names = ("init", "step", "fit", "on_step_end", "on_train_begin", "on_init_end", "_compute_advantage")
    assert all(getattr(type(trainer), name) is getattr(CinemaTrainer, name) for name in names)


def test_a_step_in_parts_is_measured_as_one(monkeypatch):
    """Two updates of two trajectories: verl would add, and take the largest of, what a name of a source asks for."""
    trainer = make("+recipe=cinema_separate_async_cpu", name="cinema_separate_async")
    trainer.global_steps, seen = 3, []
    trainer.watch = SimpleNamespace(look=lambda step, metrics: seen.append((step, metrics["cinema/acc"])) or [])

    def update(metrics, timing, size):
        part = trainer.local_trigger_step
        acc = [(1.0, 1.0, 0.0), (0.0,)][part]
        infos = [{"acc": a, "format": 1.0, "answer_type": "sum"} for a in acc]
        trainer._trained.add(infos, ["a"] * len(acc), [f"g{part}"] * len(acc), ["answer"] * len(acc), {"share": part})
        trainer._scored[f"g{part}_0_0"] = {"acc": acc[0]}
        return KVBatchMeta(keys=[f"g{part}_0_0"], tags=[{}], partition_id="train")

    monkeypatch.setattr(trainer, "_step_once", update)
    monkeypatch.setattr(trainer, "prepare_step", dict)
    trainer.replay_buffer._tally.add("digits/sum", GroupKind.SOLVE_ALL)
    trainer.replay_buffer._tally.add("digits/sum", GroupKind.MIXED)
    trainer._scored["of the step before"] = {}
    metrics = {}
    batch = trainer.step(metrics, {})
    assert metrics["cinema/acc"] == metrics["cinema/acc/sum"] == 0.5
    assert metrics["cinema/share"] == 0.25
    assert metrics["cinema/stop/answer"] == 1.0
    assert metrics["cinema/dynamic_sampling/solve_all/digits/sum"] == 0.5
    assert metrics["cinema/dynamic_sampling/generated_groups"] == 2
    assert seen == [(3, 0.5)], "the stage is watched once a step"
    assert set(trainer._scored) == set(batch.keys) == {"g0_0_0", "g1_0_0"}, "of all parts, and of this step alone"


@pytest.mark.parametrize(("step", "compared"), [(1, True), (2, False)])
def test_the_rollouts_log_probabilities_are_compared_and_the_entropy_is_the_updates(monkeypatch, step, compared):
    trainer = make()
    trainer.global_steps, seen = step, []
    trainer.watch = SimpleNamespace(look=lambda step, metrics: [])

    def update(metrics, timing, size):
        seen.append(trainer.config.algorithm.rollout_correction.bypass_mode)
        metrics |= {"actor/entropy_loss": 0.7} | ({"training/rollout_probs_diff_max": 0.5} if compared else {})
        return KVBatchMeta(keys=[], tags=[], partition_id="train")

    monkeypatch.setattr(trainer, "_step_once", update)
    monkeypatch.setattr(trainer, "prepare_step", dict)
    monkeypatch.setattr(trainer._trained, "metrics", dict)
    metrics = {}
    if compared:
        with pytest.raises(EnginesDisagree):
            trainer.step(metrics, {})
    else:
        trainer.step(metrics, {})
        assert metrics["actor/entropy"] == 0.7
    assert seen == [not compared]


def test_the_learning_rate_that_is_logged_is_the_one_that_the_stage_trains_with(monkeypatch):
    trainer = make("cinema.stages.exploitation.lr_factor=0.5")
    trainer.watch = SimpleNamespace(look=lambda step, metrics: [])

    def update(metrics, timing, size):
        metrics["actor/lr"] = 0.2
        return KVBatchMeta(keys=[], tags=[], partition_id="train")

    monkeypatch.setattr(trainer, "_step_once", update)
    monkeypatch.setattr(trainer, "prepare_step", dict)
    monkeypatch.setattr("cinema_verl.training.metrics.StepMetrics.metrics", lambda self: {})
    for trainer.global_steps, rate in ((84, 0.2), (85, 0.1)):
        metrics = {}
        trainer.step(metrics, {})
        assert metrics["actor/lr"] == rate


@pytest.mark.parametrize("name", ["cinema_dsp", "no_such_thing"])
def test_an_estimator_that_nobody_has_is_refused_before_anything_starts(name):
    with pytest.raises(ValueError, match=f"adv_estimator={name} is not registered; known are"):
        make(f"algorithm.adv_estimator={name}")


def test_verls_grpo_has_no_diversity_coefficient():
    trainer = make("algorithm.adv_estimator=grpo")
    trainer.global_steps = 1
    assert trainer._coefficient() == 0.0
    assert trainer.watch.share is None


# ---- a step -----------------------------------------------------------------------------------------------------


class Queue:
    """`transfer_queue` over one dictionary of rows."""

    def __init__(self, rows):
        self.rows, self.written = rows, None

    def kv_batch_get(self, keys, partition_id, select_fields):
        names = [name for name in select_fields if name in self.rows[keys[0]]]
        return list_of_dict_to_tensordict([{name: self.rows[key][name] for name in names} for key in keys])

    def kv_batch_put(self, keys, partition_id, fields):
        self.written = fields
        return KVBatchMeta(keys=keys, tags=[{} for _ in keys], partition_id=partition_id)


def row(acc, pattern, length=2, uid="q"):
    scores = torch.zeros(length)
    scores[-1] = 0.5 + 0.5 * acc
    info = {"acc": acc, "format": 1.0, "pattern": pattern, "score": 9.0}
    return {
        "uid": uid,
        "extra_fields": {"reward_extra_info": info, "stop_reason": "answer"},
        "data_source": "digits/sum",
        "response_mask": torch.ones(length, dtype=torch.int64),
        "rm_scores": scores,
    }


@pytest.fixture
def step(monkeypatch):
    """Compute the advantages of a group in step 1; first advantage of each row, metrics, and the trainer."""
    monkeypatch.setattr(core_algos, "ADV_ESTIMATOR_REGISTRY", dict(core_algos.ADV_ESTIMATOR_REGISTRY))
    monkeypatch.setattr(advantage, "ADV_ESTIMATOR_REGISTRY", core_algos.ADV_ESTIMATOR_REGISTRY)
    monkeypatch.setattr(estimators, "_SCHEMES", dict(estimators._SCHEMES))

    def step(rows, *overrides, padding=()):
        trainer = make("algorithm.norm_adv_by_std_in_grpo=false", *overrides)
        trainer.global_steps = 1
        queue = Queue({f"q_{i}_0": row for i, row in enumerate(rows)})
        for name in ("kv_batch_get", "kv_batch_put"):
            monkeypatch.setattr(transfer_queue, name, getattr(queue, name))
        tags = [{"is_padding": i in padding, "response_len": 2} for i in range(len(rows))]
        trainer._compute_advantage(KVBatchMeta(keys=list(queue.rows), tags=tags, partition_id="train"), {})
        return [float(values[0]) for values in queue.written["advantages"]], trainer._step_metrics(), trainer

    return step


@pytest.mark.parametrize("missing", ["acc", "format", "pattern"])
def test_a_reward_of_ones_own_that_lacks_something_is_said(step, missing):
    rows = [row(1.0, "focus>answer"), row(0.0, "answer")]
    del rows[1]["extra_fields"]["reward_extra_info"][missing]
    with pytest.raises(KeyError, match=f"lacks {missing}: .* a reward of your own must, too"):
        step(rows)


GROUP = [row(1.0, "focus>answer"), row(1.0, "focus>answer", length=3), row(1.0, "think>answer"), row(0.0, "answer")]


def test_the_papers_reward_by_hand(step):
    """Two of four correct trajectories share a pattern: 0.05 / 3 is taken from each (coefficient 0.1)."""
    advantages, metrics, trainer = step(GROUP, "cinema.coefficient=0.1")
    rewards = np.array([1 - 0.05 / 3, 1 - 0.05 / 3, 1.0, 0.5])
    assert advantages == pytest.approx((rewards - rewards.mean()).tolist(), abs=1e-6)
    assert metrics["cinema/diversity_coefficient"] == 0.1
    assert metrics["cinema/acc"] == 0.75
    assert metrics["cinema/unique_patterns"] == 3
    assert metrics["cinema/stage"] == 1
    assert metrics["cinema/stop/answer"] == 1.0
    assert metrics["cinema/diversity_penalty"] == pytest.approx(0.1 / 3 / 4)
    assert trainer._scored["q_3_0"] == {
        "acc": 0.0,
        "format": 1.0,
        "pattern": "answer",
        "data_source": "digits/sum",
        "stop_reason": "answer",
        "response_tokens": 2,
        "diversity_coefficient": 0.1,
    }


def test_padding_is_in_no_metric(step):
    _, metrics, trainer = step(GROUP, padding={3})
    assert metrics["cinema/acc"] == 1.0
    assert "q_3_0" not in trainer._scored


def test_an_installed_scheme_works_in_the_trainer(step, install):
    """A package's one function and its entry point are enough; it gets the annealed coefficient of the step."""
    install(
        "mine",
        {estimators.GROUP: {"rarely_thinks": "mine:credit"}},
        "def credit(rewards, acc, patterns, groups, coefficient):\n"
        "    assert set(groups) == {'q'}\n"
        "    return rewards - coefficient * acc * ['think' in pattern for pattern in patterns]\n",
    )
    advantages, metrics, _ = step(GROUP, "algorithm.adv_estimator=rarely_thinks", "cinema.coefficient=0.2")
    rewards = np.array([1.0, 1.0, 0.8, 0.5])
    assert advantages == pytest.approx((rewards - rewards.mean()).tolist(), abs=1e-6)
    assert metrics["cinema/diversity_coefficient"] == 0.2
    assert metrics["cinema/rarely_thinks_penalty"] == pytest.approx(0.05)


def test_a_column_that_is_not_in_the_queue_is_named(step):
    rows = [{name: value for name, value in one.items() if name != "data_source"} for one in GROUP]
    with pytest.raises(KeyError, match="no column data_source in partition train"):
        step(rows)


# ---- the policy's own reasoning ---------------------------------------------------------------------------------

OWN = "Two are red.</think>"
RESPONSES = (f"{OWN}<focus>Image 1.</focus><answer>1</answer>", "<focus>Image 2.</focus><answer>2</answer>")


@pytest.fixture
def scored():
    """The responses as the reward scores them where reasoning is declared; and the values of each key."""
    info = {"answer_type": "number", "num_images": 2, "uid": "sum/1"}
    infos = [compute_score("digits/sum", text, "1", info, native_reasoning="strip") for text in RESPONSES]
    return infos, {key: [info[key] for info in infos] for key in infos[0]}


def dumped(trainer, folder, columns):
    trainer._dump_executor, trainer._dump_futures = ThreadPoolExecutor(1), []  # as verl's `init` makes them
    trainer._dump_generations(
        inputs=["Which?"] * 2,
        outputs=list(RESPONSES),
        gts=["1"] * 2,
        scores=[1.0, 0.5],
        reward_extra_infos_dict=columns | {"uid": ["q_0_0", "q_1_0"]},
        dump_path=str(folder),
    )
    trainer._shutdown_dump_executor()
    return [json.loads(line) for line in (folder / "1.jsonl").read_text().splitlines()]


def test_what_is_stripped_is_counted_and_kept_in_the_rollouts_of_a_step(step, scored, tmp_path):
    infos, _ = scored
    rows = [{**row(1.0, "", 2 + i), "extra_fields": {"reward_extra_info": info}} for i, info in enumerate(infos)]
    _, metrics, trainer = step(rows, f"trainer.rollout_data_dir={tmp_path}")
    assert metrics["cinema/native_reasoning"] == 0.5
    first, second = dumped(trainer, tmp_path, {})
    assert (first["stripped"], second["stripped"]) == (OWN, "")
    assert (first["native_reasoning"], second["native_reasoning"]) == (1.0, 0.0)
    assert first["output"] == RESPONSES[0]
    assert (first["pattern"], first["format"]) == ("focus>answer", 1.0)


def test_what_is_stripped_is_counted_and_kept_in_a_validation(scored, tmp_path):
    _, columns = scored
    trainer = make(f"trainer.validation_data_dir={tmp_path}", "cinema.image_conditions=[]")
    trainer.global_steps = 1
    assert [record["stripped"] for record in dumped(trainer, tmp_path, columns)] == [OWN, ""]
    metrics = trainer._val_metrics_update(["digits/sum"] * 2, ["a", "b"], columns, [2, 2])
    assert metrics["val-aux/digits/sum/native_reasoning/mean@1"] == 0.5


# ---- what is relied on ------------------------------------------------------------------------------------------


def test_the_transfer_queue_lists_prompts_in_the_order_in_which_they_came():
    """`BoundedReplayBuffer` takes it for the order in which prompts were drawn: batches must not depend on uids."""
    controller = object.__new__(TransferQueueController.__ray_metadata__.modified_class)
    controller.partitions, controller.index_manager, controller.controller_id = {}, PartitionIndexManager(), "c"
    controller._make_response = lambda message, kind, body: body
    uids = [f"{1000 - i}-x" for i in range(20)]
    for refill in (uids[:8], uids[8:]):
        controller.kv_retrieve_meta(refill, "train", create=True)
        controller.kv_retrieve_meta([f"{uid}_0_0" for uid in reversed(refill)], "train", create=True)
        controller.kv_retrieve_meta(refill[3:5], "train", create=True)  # their status changes
    message = SimpleNamespace(body={"partition_id": "train"})
    listed = controller._handle_kv_list_request(message)["partition_info"]["train"]
    assert [key for key in listed if "_" not in key] == uids
    # Asynchronous training takes some of them, and draws others: places are used anew, and the order stays.
    partition = controller.partitions["train"]
    taken = [uids[0], uids[7]]
    controller.clear_meta([partition.keys_mapping[uid] for uid in taken], ["train"] * len(taken))
    later = ["z", "a"]
    controller.kv_retrieve_meta(later, "train", create=True)
    listed = controller._handle_kv_list_request(message)["partition_info"]["train"]
    assert [key for key in listed if "_" not in key] == [uid for uid in uids if uid not in taken] + later
