"""The rollout: where a response ends, what may not be in it, and whose random numbers it uses."""

import asyncio
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from verl.experimental.agent_loop import agent_loop as verl_agent_loop
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient

from cinema_verl.training.agent_loop import STOP, MetaActionAgentLoop, cut, first_stop, trajectory_seed
from cinema_verl.training.continuing import ContinuingClient

# A toy tokenizer: the id is the place in this list. The stop text is one token, or split, or with more behind it.
PIECES = [
    "a",
    "b ",
    "<answer>",
    "</answer>",
    "</",
    "answer",
    ">",
    "er>\n",
    "</answ",
    "<image_pad>",
    "<eos>",
    ".</answer>.",
]
A, B, OPEN, CLOSE, LT, ANSWER, GT, ER_GT, LT_ANSW, IMAGE, EOS, DOTTED = range(len(PIECES))
SPECIAL = {IMAGE, EOS}


def decode(ids):
    return "".join(PIECES[i] for i in ids if i not in SPECIAL)


def end(ids):
    return cut(ids, decode, placeholders={IMAGE}, eos={EOS})


@pytest.mark.parametrize(
    ("ids", "kept", "reason"),
    [
        ([OPEN, A, CLOSE], 3, "answer"),
        ([OPEN, A, CLOSE, B, B], 3, "answer"),  # an engine without stop texts generated on
        ([OPEN, A, CLOSE, OPEN, B, CLOSE], 3, "answer"),  # the first one counts
        ([OPEN, A, LT, ANSWER, GT, B], 5, "answer"),  # split over tokens
        ([OPEN, A, LT_ANSW, ER_GT, B], 4, "answer"),  # split, with white space behind it in its last token
        ([OPEN, A, DOTTED, B], 3, "answer"),  # inside a token
        ([OPEN, A, CLOSE, IMAGE], 3, "answer"),  # a placeholder behind the answer is nobody's
        ([OPEN, A, IMAGE, CLOSE], 2, "placeholder"),
        ([OPEN, LT, ANSWER, IMAGE, GT], 3, "placeholder"),  # the stop text must not be glued over one
        ([IMAGE, A], 0, "placeholder"),
        ([OPEN, A, EOS], 3, "eos"),
        ([OPEN, A, CLOSE, EOS], 3, "answer"),
        ([OPEN, A], 2, "length"),
        ([EOS, A], 2, "length"),  # an end token in the middle ends nothing
        ([OPEN, LT, ANSWER], 3, "length"),  # unfinished
        ([], 0, "length"),
    ],
)
def test_where_a_response_ends_and_why(ids, kept, reason):
    assert end(ids) == (kept, reason)


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=40))
def test_the_kept_part_is_the_shortest_that_holds_the_answer_and_has_no_placeholder(ids):
    kept, reason = end(ids)
    assert IMAGE not in ids[:kept]
    assert STOP not in decode(ids[: kept - 1]) or kept == 0
    assert (reason == "answer") == (STOP in decode(ids[:kept]))
    if reason in ("eos", "length"):
        assert kept == len(ids)


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=60))
def test_first_stop_agrees_with_looking_at_every_prefix(ids):
    every = next((n for n in range(len(ids) + 1) if STOP in decode(ids[:n])), None)
    assert first_stop(ids, decode) == every


def test_first_stop_looks_at_few_prefixes():
    looks = []

    def counting(ids):
        looks.append(len(ids))
        return decode(ids)

    assert first_stop([A] * 1000 + [CLOSE] + [B] * 1000, counting) == 1001
    assert len(looks) <= 13


def test_a_trajectorys_seed_is_the_same_in_every_process_and_its_own():
    assert trajectory_seed(42, 7, 13, 0) == 6080962068252659667
    seeds = {trajectory_seed(42, *parts) for parts in itertools.product(range(8), repeat=3)}
    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_verl_finds_it_under_its_name():
    target = verl_agent_loop._agent_loop_registry["cinema"]["_target_"]
    assert target == "cinema_verl.training.agent_loop.MetaActionAgentLoop"


class Tokenizer:
    eos_token_id, pad_token_id = EOS, None

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return decode(ids)


@pytest.fixture
def roll_out(monkeypatch):
    """Run the loop on what an engine of this name answers; verl's output, and the parameters it was asked with."""

    def roll_out(answer, engine="vllm", log_probs=True, client=None, **row):
        asked = {}

        async def generate(self, sampling_params, **kwargs):
            asked.update(sampling_params)
            return verl_agent_loop.AgentLoopOutput(
                prompt_ids=[A],
                response_ids=list(answer),
                response_mask=[1] * len(answer),
                response_logprobs=[-0.5] * len(answer) if log_probs else None,
                metrics={},
            )

        monkeypatch.setattr(SingleTurnAgentLoop, "run", generate)
        loop = object.__new__(MetaActionAgentLoop)
        loop.rollout_config, loop.server_manager = SimpleNamespace(name=engine, seed=42), client
        loop.tokenizer, loop.placeholders, loop.eos = Tokenizer(), frozenset({IMAGE}), frozenset({EOS})
        return asyncio.run(loop.run({"temperature": 0.7}, **row)), asked

    return roll_out


def test_ids_mask_and_log_probs_are_cut_together(roll_out):
    output, _ = roll_out([OPEN, A, CLOSE, B, IMAGE])
    assert output.response_ids == [OPEN, A, CLOSE]
    assert output.response_mask == [1, 1, 1]
    assert output.response_logprobs == [-0.5] * 3
    assert output.extra_fields["stop_reason"] == "answer"


@pytest.mark.parametrize("log_probs", [True, False])
def test_an_empty_response_becomes_one_token_that_trains_nothing(roll_out, log_probs):
    output, _ = roll_out([IMAGE, A], log_probs=log_probs)
    assert (output.response_ids, output.response_mask) == ([EOS], [0])
    assert output.response_logprobs == ([0.0] if log_probs else None)
    assert output.extra_fields["stop_reason"] == "placeholder"


def test_engines_are_asked_to_stop_at_the_answer_and_to_keep_it(roll_out):
    _, asked = roll_out([CLOSE], engine="vllm")
    del asked["seed"]
    assert asked == {"temperature": 0.7, "stop": ["</answer>"], "include_stop_str_in_output": True}
    _, asked = roll_out([CLOSE], engine="sglang")
    assert asked == {"temperature": 0.7}, "an engine that knows no stop text is not asked"


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_each_session_of_each_step_draws_from_its_own_seed(roll_out, engine):
    def seed(**row):
        return roll_out([CLOSE], engine=engine, **row)[1]["seed"]

    first = {"global_steps": 3, "index": 5, "session_id": 0}
    assert seed(**first) == seed(**first, uid="drawn anew in every run")
    assert len({seed(**first), seed(**(first | {"session_id": 1})), seed(**(first | {"global_steps": 4}))}) == 3


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_there_is_no_seed_where_an_engine_is_asked_anew_and_does_not_know(roll_out, engine):
    """It would begin the stream again, and draw for the rest what it drew for the beginning."""
    assert "seed" not in roll_out([CLOSE], engine=engine, client=FullyAsyncLLMServerClient(config=None))[1]
    assert "seed" in roll_out([CLOSE], engine=engine, client=ContinuingClient(config=None))[1]


def test_a_known_response_is_not_generated_again(monkeypatch):
    """An evaluation that goes on (`cinema_verl.evaluate.unfinished`): the engine is not asked, the reason is kept."""

    async def run(self, sampling_params, **kwargs):
        assert set(kwargs) == {"index", "session_id"}
        given = await self.server_manager.generate(request_id="1", prompt_ids=[A], sampling_params=sampling_params)
        return verl_agent_loop.AgentLoopOutput(
            prompt_ids=[A], response_ids=given.token_ids, response_mask=[1] * len(given.token_ids), metrics={}
        )

    monkeypatch.setattr(SingleTurnAgentLoop, "run", run)

    def roll_out(*ids, reason):
        loop = object.__new__(MetaActionAgentLoop)
        loop.rollout_config, loop.server_manager = SimpleNamespace(name="vllm", seed=42), None
        loop.tokenizer, loop.placeholders, loop.eos = Tokenizer(), frozenset({IMAGE}), frozenset({EOS})
        answers = {1: (np.array(ids, dtype=np.int32), reason), 0: "of another session"}
        output = asyncio.run(loop.run({}, answers, index=5, session_id=1))
        assert all(type(token) is int for token in output.response_ids)
        return output.response_ids, output.response_mask, output.extra_fields["stop_reason"]

    assert roll_out(OPEN, A, CLOSE, reason="answer") == ([OPEN, A, CLOSE], [1, 1, 1], "answer")
    assert roll_out(A, B, reason="placeholder") == ([A, B], [1, 1], "placeholder")  # which is not in it any more
    assert roll_out(reason="placeholder") == ([EOS], [0], "placeholder")


def test_a_session_without_a_known_response_generates(roll_out):
    output, asked = roll_out([OPEN, A, CLOSE], answers={1: (np.array([B]), "length")}, session_id=0)
    assert (output.response_ids, asked["stop"]) == ([OPEN, A, CLOSE], ["</answer>"])


def test_stop_reasons_leave_the_loop_as_plain_words(roll_out):
    """They travel between processes and into JSON of libraries that know no enums."""
    assert type(roll_out([OPEN, A])[0].extra_fields["stop_reason"]) is str
