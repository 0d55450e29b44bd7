"""The agent-loop worker: what it adds to each score, and what must not be stored."""

import asyncio
from types import SimpleNamespace

import pytest
import ray
import torch
import verl  # noqa: F401  registers the plugin, which makes torchvision importable
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch.utils._pytree import tree_map_only
from transformers import AutoProcessor, AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import RLHFDataset

from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.training.agent_loop import MetaActionAgentLoop
from cinema_verl.training.agent_loop_manager import (
    GROUP_SIZE,
    TEMPERATURE,
    SharingAgentLoopManager,
    SharingAgentLoopWorker,
)
from cinema_verl.training.shared_vision import SharedImages


@pytest.fixture
def worker(monkeypatch):
    """A worker whose parent scores 1 and counts how often it runs the processor."""
    verls = SharingAgentLoopWorker.__bases__[0]
    calls = []

    async def compute_score(self, outputs, kwargs):
        assert "answers" not in kwargs
        outputs[-1].extra_fields["reward_extra_info"] = {"acc": 1.0}

    def compute_multi_modal_inputs(self, output, input_ids):
        calls.append(output)
        return {"pixel_values": len(calls)}

    monkeypatch.setattr(verls, "_compute_score", compute_score)
    monkeypatch.setattr(verls, "_compute_multi_modal_inputs", compute_multi_modal_inputs)
    worker = object.__new__(SharingAgentLoopWorker)
    worker.calls = calls
    worker.config = OmegaConf.create({"trainer": {"v1": {"trainer_mode": "cinema"}}})
    worker.reward_loop_worker_handles = ["a handle"]
    return worker


def test_a_score_says_where_it_is_from_how_long_and_how_it_ended(worker):
    output = SimpleNamespace(extra_fields={"stop_reason": "answer"}, response_mask=[1, 1, 0], multi_modal_data=None)
    row = {"data_source": "digits/sum", "answers": {0: "known"}}
    asyncio.run(worker._compute_score([output], kwargs=row))
    assert output.extra_fields["reward_extra_info"] == {
        "acc": 1.0,
        "data_source": "digits/sum",
        "ability": "unknown",
        "response_tokens": 2.0,
        "stop_reason": "answer",
    }
    assert row == {"data_source": "digits/sum"}, "verl stores what is left as columns"


def test_shared_images_are_processed_once(worker):
    images = SharedImages(["a"])
    shared = [SimpleNamespace(multi_modal_data={"images": images}) for _ in range(3)]
    features = [worker._compute_multi_modal_inputs(output, None) for output in shared]
    assert features == [{"pixel_values": 1}] * 3
    assert features[0] is not features[1], "verl takes keys out of it"
    for media in ({"images": ["plain"]}, {"images": images, "videos": ["v"]}, None):
        worker._compute_multi_modal_inputs(SimpleNamespace(multi_modal_data=media), None)
    assert len(worker.calls) == 1 + 3


@pytest.mark.parametrize(("mode", "holders"), [("cinema", [True, False, False]), ("sync", [True, True, True])])
def test_pixels_are_stored_once_where_the_training_workers_put_them_back(worker, mode, holders):
    """The three calls that verl makes for each of three sessions, all of them scored before the first is stored."""
    worker.config.trainer.v1.trainer_mode = mode
    images = SharedImages(["a"])
    outputs = [
        SimpleNamespace(extra_fields={}, response_mask=[1], multi_modal_data={"images": images}) for _ in range(3)
    ]
    for session, output in enumerate(outputs):
        assert "pixel_values" in worker._compute_multi_modal_inputs(output, None), "for the score"
        asyncio.run(worker._compute_score([output], kwargs={"uid": "q", "session_id": session}))
    stored = [worker._compute_multi_modal_inputs(output, None) for output in outputs]
    assert ["pixel_values" in row for row in stored] == holders
    if mode == "cinema":
        assert {row["pixel_values_of"] for row in stored} == {"q_0_0"}


def test_without_reward_workers_trajectories_are_scored_where_they_are():
    """The recipe's own reward, by verl's reward manager, in this process alone."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu", "reward.num_workers=0"])
    worker = object.__new__(SharingAgentLoopWorker)
    worker.config, worker.processor, worker.mm_processor_kwargs, worker.reward_loop_worker_handles = (
        config,
        None,
        {},
        [],
    )
    tokenizer = AutoTokenizer.from_pretrained(digits_cold_start())

    async def scored(answer: str) -> AgentLoopOutput:
        ids = tokenizer.encode(f"<think>it is so</think><answer>{answer}</answer>", add_special_tokens=False)
        output = AgentLoopOutput(
            prompt_ids=[1, 2], response_ids=ids, response_mask=[1] * len(ids), num_turns=2, metrics={}
        )
        row = {
            "data_source": "digits/sum",
            "reward_model": {"ground_truth": "7"},
            "extra_info": {"answer_type": "number", "num_images": 2},
            "uid": "q",
            "session_id": 0,
        }
        await worker._compute_score([output], kwargs=row)
        return output

    async def both() -> list[AgentLoopOutput]:
        return [await scored("7"), await scored("4")]

    right, wrong = asyncio.run(both())
    assert [right.reward_score, wrong.reward_score] == [1.0, 0.5], "half for the answer, half for the format"
    assert [one.extra_fields["reward_extra_info"]["acc"] for one in (right, wrong)] == [1.0, 0.0]
    assert len(worker.reward_loop_worker_handles) == 1, "made once"


@pytest.fixture
def stored(monkeypatch):
    """What a worker's transfer queue is given: (partition, keys, tensordict, tags) of each put."""
    puts = []

    async def put(keys, fields, tags, partition_id):
        puts.append((partition_id, keys, fields, tags))

    monkeypatch.setattr("transfer_queue.async_kv_batch_put", put)
    return puts


@pytest.fixture
def whole_worker(monkeypatch):
    """A worker with the tiny model's processor that scores by the recipe's reward; its loops answer from a list."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu", "reward.num_workers=0"])
    worker = object.__new__(SharingAgentLoopWorker)
    worker.config, worker.llm_client, worker.hf_model_type, worker.tools = config, "the client", "qwen2_5_vl", []
    worker.processor = AutoProcessor.from_pretrained(digits_cold_start())
    worker.tokenizer, worker.dataset_cls = worker.processor.tokenizer, RLHFDataset
    worker.mm_processor_kwargs, worker.distillation_enabled, worker.reward_loop_worker_handles = {}, False, []
    worker.answers, worker.made = {}, []

    async def run(self, sampling_params, session_id, **row):
        worker.made.append(vars(self) | {"asked": (sampling_params, row)})
        for _ in range(session_id):
            await asyncio.sleep(0)
        response, log_probs = worker.answers[session_id]
        if response is None:
            raise RuntimeError("the engine is gone")
        ids = self.tokenizer.encode(response, add_special_tokens=False)
        return AgentLoopOutput(
            prompt_ids=[5, 6, 7],
            response_ids=ids,
            response_mask=[1] * len(ids),
            response_logprobs=[-0.5] * len(ids) if log_probs else None,
            multi_modal_data={},
            num_turns=2,
            metrics={},
            extra_fields={"stop_reason": "answer", "min_global_steps": 3, "max_global_steps": 4},
        )

    monkeypatch.setattr(MetaActionAgentLoop, "run", run)
    return worker


ROW = {
    "uid": "q",
    "data_source": "digits/sum",
    "reward_model": {"ground_truth": "7"},
    "extra_info": {"answer_type": "number", "num_images": 2},
    "global_steps": 4,
}


def sessions(worker, *, validate=False, trace=False, **more):
    """Run a question's sessions; returns what each raised, or None."""
    trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": validate}
    worker.reward_loop_worker_handles = []  # verl's reward manager keeps to the event loop that it was made in

    async def run():
        made = [
            worker._run_agent_loop(
                {"top_p": 1.0},
                trajectory=trajectory,
                agent_name="cinema",
                trace=trace,
                session_id=session,
                **ROW,
                **more,
            )
            for session in worker.answers
        ]
        return await asyncio.gather(*made, return_exceptions=True)

    return asyncio.run(run())


def rows_of(puts):
    """Key -> (partition, tag, columns) of everything that was put; times are left out."""
    rows = {}
    for partition, keys, fields, tags in puts:
        for i, key in enumerate(keys):
            columns = {name: getattr(value, "data", value) for name, value in fields[i].items() if name != "metrics"}
            rows[key] = partition, tags[i], tree_map_only(torch.Tensor, lambda tensor: tensor.tolist(), columns)
    return rows


RIGHT, WRONG = (f"<think>it is so</think><answer>{answer}</answer>" for answer in (7, 41))


@pytest.mark.parametrize("validate", [False, True])
def test_a_group_is_stored_at_once_as_verl_stores_each(whole_worker, stored, validate):
    whole_worker.answers = {0: (RIGHT, True), 1: (WRONG, True), 2: (RIGHT, True)}
    assert sessions(whole_worker, validate=validate) == [None] * 3
    assert len(stored) == 1
    ours = rows_of(stored)
    stored.clear()
    assert sessions(whole_worker, validate=validate, trace=True) == [None] * 3  # with tracing all of it is verl's
    assert len(stored) == 3
    assert ours == rows_of(stored)
    partition, tag, columns = ours["q_1_0"]
    assert partition == ("val" if validate else "train")
    assert (tag["status"], tag["prompt_len"], tag["seq_len"]) == ("success", 3, len(columns["input_ids"]))
    assert columns["rm_scores"] == [0.0] * (len(columns["responses"]) - 1) + [0.5], "half for the format"


def test_a_session_that_fails_takes_no_other_with_it(whole_worker, stored):
    whole_worker.answers = {0: (RIGHT, True), 1: (WRONG, True), 2: (None, True)}
    *_, error = sessions(whole_worker)
    assert str(error) == "the engine is gone"
    assert rows_of(stored).keys() == {"q_0_0", "q_1_0"}


def test_a_known_response_and_a_new_one_keep_their_own_columns(whole_worker, stored):
    whole_worker.answers = {0: (RIGHT, False), 1: (WRONG, True), 2: (RIGHT, False)}
    sessions(whole_worker)
    rows = rows_of(stored)
    assert len(stored) == 2
    assert ["rollout_log_probs" in rows[f"q_{session}_0"][2] for session in range(3)] == [False, True, False]


def test_sessions_one_after_another_are_stored_once_each(whole_worker, stored):
    whole_worker.answers = {0: (RIGHT, True)}
    for _ in range(2):
        sessions(whole_worker)
    assert [keys for _, keys, _, _ in stored] == [["q_0_0"], ["q_0_0"]]


def test_a_loop_is_made_as_verl_makes_it(whole_worker, stored):
    """Without tracing it is made without Hydra; with it, and for loops of other names, by verl."""
    whole_worker.answers = {0: (RIGHT, True)}
    for trace in (False, True):
        sessions(whole_worker, trace=trace)
    by_us, by_verl = whole_worker.made
    assert by_us.keys() == by_verl.keys()
    for name in ("server_manager", "tokenizer", "processor", "dataset_cls", "asked", "rollout_config", "eos", "tools"):
        assert by_us.get(name) == by_verl.get(name), name


def test_a_session_is_sampled_at_the_temperature_of_its_stage(whole_worker, stored):
    whole_worker.answers = {0: (RIGHT, True)}
    for trace in (False, True):
        sessions(whole_worker, trace=trace, **{TEMPERATURE: 0.7})
    assert [made["asked"][0] for made in whole_worker.made] == [{"top_p": 1.0, "temperature": 0.7}] * 2
    assert all(TEMPERATURE not in columns for _, _, columns in rows_of(stored).values())


@pytest.mark.parametrize(
    ("given", "passed"),
    [({}, (4, 0.7)), ({GROUP_SIZE: 2}, (2, 0.7)), ({"validate": True}, (None, None))],
)
def test_training_questions_carry_what_the_trainer_has_set_for_the_step(monkeypatch, given, passed):
    asked = []
    monkeypatch.setattr(AgentLoopManagerTQ, "generate_sequences", lambda self, prompts: asked.append(prompts))
    manager = object.__new__(SharingAgentLoopManager)
    manager.rollout_config = OmegaConf.create({"n": 8, "temperature": 1.0})
    manager.rollout_config.n, manager.rollout_config.temperature = 4, 0.7
    prompts = tu.get_tensordict({"index": torch.arange(3)}, given)
    manager.generate_sequences(prompts)
    assert tuple(tu.get(asked[0], name) for name in (GROUP_SIZE, TEMPERATURE)) == passed


def test_the_manager_starts_these_workers(monkeypatch):
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda self: None)
    monkeypatch.setattr(ray, "remote", lambda cls: ("remote", cls))
    assert SharingAgentLoopManager().agent_loop_workers_class == ("remote", SharingAgentLoopWorker)
