"""The client of asynchronous training: what a server is told of a response that it goes on with."""

import asyncio
from types import SimpleNamespace

import pytest
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from cinema_verl.training import continuing
from cinema_verl.training.continuing import ContinuingClient

PROMPT = [7, 8, 9]


@pytest.fixture
def play(monkeypatch):
    """Ask for one response of a server that answers as given, each (ids, reason, version); what it was asked."""
    monkeypatch.setattr(continuing, "PAUSE", 0)
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))

    def play(*answers, engine="transformers", **params):
        asked, left = [], iter(answers)

        async def generate(self, request_id, *, prompt_ids, sampling_params, **request):
            asked.append((list(prompt_ids), dict(sampling_params)))
            ids, reason, version = next(left)
            extra = {"global_steps": version}
            return TokenOutput(token_ids=list(ids), log_probs=[-1.0] * len(ids), stop_reason=reason, extra_fields=extra)

        monkeypatch.setattr(LLMServerClient, "generate", generate)
        rollout = SimpleNamespace(name=engine, response_length=20)
        client = ContinuingClient(config=SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout)))
        output = asyncio.run(client.generate("q", prompt_ids=PROMPT, sampling_params={"seed": 5, **params}))
        return output, asked

    return play


def test_a_response_that_nothing_interrupts_is_asked_for_as_ever(play):
    output, asked = play(([1, 2], "completed", 3))
    assert output.token_ids == [1, 2]
    assert asked == [(PROMPT, {"seed": 5, "max_tokens": 20})]


def test_a_continuation_says_how_much_of_its_prompt_is_response(play):
    output, asked = play(([1, 2], "aborted", 3), ([4], "aborted", 4), ([6], "completed", 6))
    assert output.token_ids == [1, 2, 4, 6]
    assert [request for request, _ in asked] == [PROMPT, [*PROMPT, 1, 2], [*PROMPT, 1, 2, 4]]
    assert [params.get("begun", 0) for _, params in asked] == [0, 2, 3]
    assert [params["max_tokens"] for _, params in asked] == [20, 18, 17]
    assert {params["seed"] for _, params in asked} == {5}, "the same stream, from where it was"
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (3, 6)


def test_an_engine_that_cannot_go_on_in_a_stream_gets_another_one(play):
    _, asked = play(([1], "aborted", 3), ([2], "aborted", 3), ([4], "completed", 4), engine="vllm")
    seeds = [params["seed"] for _, params in asked]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert not any("begun" in params for _, params in asked), "vLLM refuses what it does not know"
    assert [params["seed"] for _, params in play(([1], "aborted", 3), ([2], "completed", 3), engine="vllm")[1]] == (
        seeds[:2]
    ), "repeatable"


def test_weights_under_which_nothing_was_generated_have_no_part_in_it(play):
    """A server that is about to train turns the request away."""
    output, asked = play(([], "aborted", 3), ([], "abort", 4), ([1], "completed", 5))
    assert output.token_ids == [1]
    assert [request for request, _ in asked] == [PROMPT] * 3
    assert output.extra_fields["min_global_steps"] == 5


def test_a_response_that_is_full_ends(play):
    output, asked = play((range(20), "aborted", 3))
    assert (len(output.token_ids), output.stop_reason, len(asked)) == (20, "length", 1)
