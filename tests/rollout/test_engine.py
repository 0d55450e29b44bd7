"""The transformers rollout server, in this process and with the config objects that verl gives it."""

import asyncio
import re
import threading
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, get_rollout_class
from verl.workers.rollout.replica import get_rollout_replica_class

from cinema_verl.rollout import engine
from cinema_verl.rollout.batching import Batcher
from cinema_verl.rollout.engine import ServerAdapter, TransformersReplica, TransformersServer


def configs(model, *overrides):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer", overrides=["+recipe=cinema_cpu", f"actor_rollout_ref.model.path={model}", *overrides]
        )
    actor = config.actor_rollout_ref
    return omega_conf_to_dataclass(actor.rollout), actor.model


@pytest.fixture(scope="module")
def loaded(tiny_model):
    server = TransformersServer(*configs(tiny_model))
    torch.set_num_threads(1)
    return server


@pytest.fixture
def server(loaded):
    """The one server, idle and with nothing received."""
    loaded.received = set()
    loaded._paused = loaded._rejects = loaded._updating = False
    renew(loaded)
    return loaded


def renew(server):
    """A queue and a gate of this test's event loop."""
    server._admission = asyncio.Condition()
    server.batcher = Batcher(server.batcher.decode, server.batcher.largest, server.batcher.window)


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches that reach the model."""
    sizes = []
    generate = engine.generate

    def counting(policy, requests, *options):
        sizes.append(len(requests))
        return generate(policy, requests, *options)

    monkeypatch.setattr(engine, "generate", counting)
    return sizes


PROMPT = [260, 261, 262]


def ask(server, *requests, prompt=PROMPT, **shared):
    """Send all requests at once; their outputs, or what they raised."""

    async def all_of_them():
        renew(server)
        calls = [
            server.generate(prompt, {"max_tokens": 4, "seed": i} | request, f"request-{i}", **shared)
            for i, request in enumerate(requests)
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        server.batcher.close()
        return results

    return asyncio.run(all_of_them())


def test_requests_that_arrive_together_are_one_batch(server, batches):
    outputs = ask(server, *[{}] * 20)
    assert batches == [20]
    assert all(len(output.token_ids) == len(output.log_probs) <= 4 for output in outputs)
    assert len({tuple(output.token_ids) for output in outputs}) > 10, "each has its own seed"


def test_a_batch_is_never_larger_than_max_num_seqs(server, batches, monkeypatch):
    monkeypatch.setattr(server.batcher, "largest", 8)
    ask(server, *[{}] * 20)
    assert batches == [8, 8, 4]


def test_requests_that_come_during_a_batch_wait_for_the_next(server, batches):
    async def two_waves():
        first = asyncio.create_task(server.generate(PROMPT, {"max_tokens": 60}, "first"))
        while not batches:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(server.generate(PROMPT, {"max_tokens": 1}, "second"))
        await asyncio.gather(first, second)
        server.batcher.close()

    asyncio.run(two_waves())
    assert batches == [1, 1]


def test_outputs_carry_the_weights_version(server):
    server.global_steps = 5
    (output,) = ask(server, {})
    assert output.extra_fields["global_steps"] == 5


def test_prompt_and_response_share_the_room_that_verl_gives_them(server):
    room = server.config.prompt_length + server.config.response_length
    (output,) = ask(server, {"max_tokens": 10_000}, prompt=[260] * (room - 3))
    assert len(output.token_ids) <= 3
    (error,) = ask(server, {}, prompt=[260] * room)
    assert "room for at least one token, got 224 prompt tokens" in str(error)


def test_stop_may_be_one_text_or_several(server):
    same = {"seed": 1, "max_tokens": 30}
    letters = [{**same, "stop": "e"}, {**same, "stop": ["e"]}]
    as_text, as_list = ask(server, *letters)
    assert as_text.token_ids == as_list.token_ids
    (never,) = ask(server, {**same, "stop": "never written by this model"})
    assert never.token_ids == ask(server, same)[0].token_ids, "its letters are not stop texts"


def test_a_bad_request_fails_alone(server):
    fine, bad, also_fine = ask(server, {}, {"max_tokens": 0}, {})
    assert isinstance(bad, ValueError)
    assert fine.token_ids
    assert also_fine.token_ids


def test_a_failing_batch_reaches_its_callers_and_the_server_goes_on(server, monkeypatch):
    def broken(policy, requests, watch, interrupted):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "generate", broken)
        assert [str(error) for error in ask(server, {}, {})] == ["out of memory"] * 2
    assert ask(server, {})[0].token_ids


@pytest.mark.parametrize("what", ["video_data", "audio_data", "mm_processor_kwargs"])
def test_what_it_cannot_take_is_refused(server, what):
    (error,) = ask(server, {}, **{what: ["x"]})
    assert isinstance(error, ValueError)
    assert "takes images only (store video frames as images)" in str(error)


# ---- weights ----------------------------------------------------------------------------------------------------


def load(server, *bucket, **options):
    renew(server)
    asyncio.run(server.load_weights(*bucket, **options))


def finish(server, global_steps):
    asyncio.run(server.finish_weights(global_steps))


def test_new_weights_are_what_is_generated_with(server):
    before = server.named_weights()
    greedy = {"temperature": 0.0, "max_tokens": 8}
    said = ask(server, greedy)[0]
    torch.manual_seed(0)
    new = {name: torch.randn_like(tensor) * 0.1 for name, tensor in before.items()}
    try:
        half = len(new) // 2
        load(server, list(new.items())[:half])
        load(server, list(new.items())[half:], first=False)
        finish(server, 9)
        assert server.global_steps == 9
        # Tied weights have two names and one tensor, in the actor as here.
        shared = server.parameters["lm_head.weight"].data_ptr()
        for name, tensor in server.named_weights().items():
            assert server.parameters[name].data_ptr() == shared or torch.equal(tensor, new[name])
        assert ask(server, greedy)[0].log_probs != said.log_probs
    finally:
        load(server, list(before.items()))
        finish(server, None)
    again = ask(server, greedy)[0]
    assert (again.token_ids, again.log_probs) == (said.token_ids, said.log_probs)
    assert server.global_steps == 9, "an update without a step keeps the last one"


def test_an_incomplete_update_names_what_is_missing_and_the_next_starts_afresh(server):
    weights = list(server.named_weights().items())
    missing, _ = weights[0]
    load(server, weights[1:])
    with pytest.raises(RuntimeError, match="1 weights of the rollout model stale") as stale:
        finish(server, 1)
    assert missing in str(stale.value)
    load(server, weights[:1])
    with pytest.raises(RuntimeError, match=f"{len(weights) - 1} weights"):
        finish(server, 1)


def test_an_update_that_broke_off_does_not_vouch_for_the_next(server):
    weights = list(server.named_weights().items())
    load(server, weights[:1])  # and the actor dies here
    load(server, weights[1:])
    with pytest.raises(RuntimeError, match=re.escape(weights[0][0])):
        finish(server, 1)


def test_a_weight_of_another_shape_or_name_is_refused(server):
    name, tensor = next(iter(server.named_weights().items()))
    with pytest.raises(ValueError, match=r"the actor sent \(1, 2\), expected"):
        load(server, [(name, torch.zeros(1, 2))])
    with pytest.raises(KeyError, match=r"does not have: model\.nowhere"):
        load(server, [("model.nowhere", tensor)])


def test_weights_are_named_as_the_actors(server):
    """What verl's engine sends: `convert_weight_keys` of the same model's state dict."""
    assert "lm_head.weight" in server.parameters
    assert any(name.startswith("visual.") or ".visual." in name for name in server.parameters)


# ---- interrupted, held back, and gone on with --------------------------------------------------------------------

LONG = {"max_tokens": 60, "seed": 7}


@pytest.fixture
def stepwise(monkeypatch):
    """Decoding that stands still after some tokens until it is told to go on."""
    reached, go_on, generate = threading.Event(), threading.Event(), engine.generate

    def slowly(policy, requests, watch, interrupted):
        def watch_and_wait(place, completion):
            watch(place, completion)
            if len(completion.token_ids) == 5:
                reached.set()
                assert go_on.wait(10)

        return generate(policy, requests, watch_and_wait, interrupted)

    monkeypatch.setattr(engine, "generate", slowly)
    return SimpleNamespace(reached=reached, go_on=go_on)


def scenario(server, play):
    async def run():
        renew(server)
        try:
            return await asyncio.wait_for(play(), 20)
        finally:
            server.batcher.close()

    return asyncio.run(run())


async def until(event):
    await asyncio.to_thread(event.wait, 10)


def test_an_abort_gives_back_what_there_is_and_the_rest_is_what_it_would_have_been(server, stepwise):
    """Its continuation is token for token the response of a request that nobody interrupted."""
    stepwise.go_on.set()
    (whole,) = ask(server, LONG)
    assert len(whole.token_ids) > 5
    stepwise.go_on.clear()
    stepwise.reached.clear()

    async def play():
        asked = asyncio.create_task(server.generate(PROMPT, LONG, "one"))
        await until(stepwise.reached)
        waiting = asyncio.create_task(server.generate(PROMPT, LONG, "queued"))
        await asyncio.sleep(0.05)
        aborted = asyncio.create_task(server.abort_all_requests())
        await asyncio.sleep(0.05)
        stepwise.go_on.set()
        await aborted
        part, queued = await asked, await waiting
        later = asyncio.create_task(
            server.generate([*PROMPT, *part.token_ids], {**LONG, "max_tokens": 60 - 5, "begun": 5}, "two")
        )
        await asyncio.sleep(0.05)
        assert not later.done(), "held until generation goes on"
        await server.resume_generation()
        return part, queued, await later

    part, queued, rest = scenario(server, play)
    assert (part.stop_reason, len(part.token_ids), len(part.log_probs)) == ("aborted", 5, 5)
    assert (queued.stop_reason, queued.token_ids) == ("aborted", []), "what waits in the queue comes back, too"
    assert part.token_ids + rest.token_ids == whole.token_ids
    assert part.log_probs + rest.log_probs == pytest.approx(whole.log_probs, abs=1e-4)
    assert rest.stop_reason == whole.stop_reason


def test_a_server_that_will_not_go_on_turns_away_what_comes_and_what_waits(server):
    async def play():
        await server.abort_all_requests()
        waiting = asyncio.create_task(server.generate(PROMPT, LONG, "waiting"))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await server.abort_all_requests(reject_request=True)
        turned_away = [await waiting, await server.generate(PROMPT, LONG, "late")]
        await server.abort_all_requests()  # of an update of the weights: it will go on after all
        held = asyncio.create_task(server.generate(PROMPT, LONG, "held"))
        await asyncio.sleep(0.02)
        assert not held.done()
        await server.resume_generation()
        return turned_away, await held

    turned_away, held = scenario(server, play)
    assert [(output.stop_reason, output.token_ids) for output in turned_away] == [("aborted", [])] * 2
    assert held.token_ids


def test_weights_never_change_beside_decoding(server, stepwise):
    weights = list(server.named_weights().items())

    async def play():
        asked = asyncio.create_task(server.generate(PROMPT, LONG, "one"))
        await until(stepwise.reached)
        loading = asyncio.create_task(server.load_weights(weights[:3]))
        await asyncio.sleep(0.05)
        assert (loading.done(), server.received) == (False, set())
        stepwise.go_on.set()
        await loading
        assert asked.done(), "what was being decoded has ended first"
        between = asyncio.create_task(server.generate(PROMPT, LONG, "two"))
        await asyncio.sleep(0.05)
        assert not between.done(), "the update is open"
        await server.load_weights(weights[3:], first=False)
        await server.finish_weights(3)
        return await between

    assert scenario(server, play).extra_fields["global_steps"] == 3


# ---- verl's side ------------------------------------------------------------------------------------------------


def test_verl_finds_both_halves_by_name():
    assert get_rollout_replica_class("transformers") is TransformersReplica
    assert ("transformers", "async") in _ROLLOUT_REGISTRY
    assert get_rollout_class("transformers", "async") is ServerAdapter


def test_an_unknown_engine_option_is_named(tiny_model):
    overrides = ["+actor_rollout_ref.rollout.engine_kwargs.transformers.batch_windw=1"]
    with pytest.raises(ValueError, match=r"unknown .*transformers options: \['batch_windw'\]; known: batch_window"):
        TransformersServer(*configs(tiny_model, *overrides))


def test_the_window_is_an_engine_option(tiny_model):
    overrides = ["+actor_rollout_ref.rollout.engine_kwargs.transformers.batch_window=0.5"]
    assert TransformersServer(*configs(tiny_model, *overrides)).batcher.window == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"wire_format": "delta"}, "full tensors"), ({"peft_config": {"r": 8}}, "model.lora.merge=true")],
)
def test_updates_that_it_cannot_apply_are_refused(tiny_model, arguments, message):
    adapter = ServerAdapter(*configs(tiny_model), device_mesh=None, replica_rank=0)
    with pytest.raises(NotImplementedError, match=message):
        asyncio.run(adapter.update_weights(iter([]), **arguments))


class RemoteServer:
    """Records what the adapter sends to its actor."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        class Method:
            async def remote(_, *args):
                self.calls.append((name, *args))

        return Method()


def test_weights_travel_in_buckets_and_the_update_is_closed(tiny_model):
    overrides = ["actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=1"]
    adapter = ServerAdapter(*configs(tiny_model, *overrides), device_mesh=None, replica_rank=0)
    adapter._server = remote = RemoteServer()
    megabyte = torch.zeros(1 << 18)
    weights = [("a", megabyte), ("b", megabyte[:9]), ("c", megabyte), ("d", megabyte[:9])]
    asyncio.run(adapter.update_weights(iter(weights), global_steps=4))
    names = [[name for name, _ in call[1]] for call in remote.calls[:-1]]
    assert names == [["a"], ["b", "c"], ["d"]]
    assert remote.calls[-1] == ("finish_weights", 4)


def test_weights_may_come_as_a_stream_that_is_waited_for(tiny_model):
    """From a checkpoint engine, in asynchronous training."""
    adapter = ServerAdapter(*configs(tiny_model), device_mesh=None, replica_rank=0)
    adapter._server = remote = RemoteServer()

    async def stream():
        for name in "ab":
            await asyncio.sleep(0)
            yield name, torch.zeros(3)

    asyncio.run(adapter.update_weights(stream(), global_steps=4))
    assert [[name for name, _ in call[1]] for call in remote.calls[:-1]] == [["a", "b"]]
    assert adapter.is_leader_rank
