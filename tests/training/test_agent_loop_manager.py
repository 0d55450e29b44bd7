"""The agent-loop worker: what it adds to each score, and what must not be stored."""

import asyncio
from types import SimpleNamespace

import pytest
import ray
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from transformers import AutoProcessor, AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils.dataset.rl_dataset import RLHFDataset

from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.training.agent_loop import MetaActionAgentLoop
from cinema_verl.training.agent_loop_manager import SharingAgentLoopManager, SharingAgentLoopWorker
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


def test_a_loop_is_made_as_verl_makes_it(monkeypatch):
    """Without tracing it is made without Hydra; with it, and for loops of other names, by verl."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu"])
    worker = object.__new__(SharingAgentLoopWorker)
    worker.config, worker.llm_client, worker.hf_model_type, worker.tools = config, "the client", "qwen2_5_vl", []
    worker.processor = AutoProcessor.from_pretrained(digits_cold_start())
    worker.tokenizer, worker.dataset_cls = worker.processor.tokenizer, RLHFDataset
    made = []

    async def run(self, sampling_params, **row):
        made.append(vars(self) | {"asked": (sampling_params, row)})
        return "an output"

    async def postprocess(self, *args, **kwargs):
        return args, kwargs

    monkeypatch.setattr(MetaActionAgentLoop, "run", run)
    monkeypatch.setattr(SharingAgentLoopWorker, "_agent_loop_postprocess", postprocess)
    trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": True}
    ours, verls = [
        asyncio.run(
            worker._run_agent_loop(
                {"top_p": 1.0}, trajectory=trajectory, agent_name="cinema", trace=trace, uid="q", session_id=3
            )
        )
        for trace in (False, True)
    ]
    assert ours == verls == (("an output", True), {"uid": "q", "session_id": 3})
    by_us, by_verl = made
    assert by_us.keys() == by_verl.keys()
    for name in ("server_manager", "tokenizer", "processor", "dataset_cls", "asked", "rollout_config", "eos", "tools"):
        assert by_us.get(name) == by_verl.get(name), name


def test_the_manager_starts_these_workers(monkeypatch):
    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", lambda self: None)
    monkeypatch.setattr(ray, "remote", lambda cls: ("remote", cls))
    assert SharingAgentLoopManager().agent_loop_workers_class == ("remote", SharingAgentLoopWorker)
