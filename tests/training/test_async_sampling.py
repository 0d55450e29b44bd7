"""Bounded dynamic sampling without rounds, against verl's buffer and an in-memory stand-in for the transfer queue."""

import copy
import logging
from collections import Counter
from itertools import count

import pytest
import transfer_queue
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync

from cinema_verl.schedule import Stage, Stages
from cinema_verl.training.async_sampling import BoundedReplayBufferAsync, clear_what_was_trained
from cinema_verl.training.dynamic_sampling import PREFIX, DynamicSamplingExhausted

from .test_dynamic_sampling import BOTH, CORRECT, INCORRECT, FakeQueue, uids_of

EXPLORE = Stage("explore", 3, 0.1)
EXPLOIT = Stage("exploit", 99, 0.1, filter="acc")


class Engine:
    """Draws prompts in a fixed order, as the trainer does, and ends them when it is told to."""

    def __init__(self, queue, groups, step=1):
        self.queue, self.groups, self.step = queue, iter(groups), step
        self.uids = (f"{1000 - i}-x" for i in count())  # sort against the order in which they are drawn
        self.drawn, self.asked, self.open = [], [], {}

    def __call__(self, number):
        self.asked.append(number)
        for _ in range(number):
            uid = next(self.uids)
            self.drawn.append(uid)
            self.open[uid] = next(self.groups)
            self.queue.tags["train"][uid] = {"is_prompt": True, "status": "running", "global_steps": self.step}

    def end(self, *uids):
        for uid in uids or list(self.open):
            acc = self.open.pop(uid)
            begun = self.queue.tags["train"][uid]["global_steps"]
            acc, source = acc if isinstance(acc[0], tuple) else (acc, "digits/sum")
            self.queue.put(uid, acc, source)
            self.queue.tags["train"][uid]["global_steps"] = begun


def patched(patch):
    queue = FakeQueue()
    for name in ("kv_batch_get", "kv_clear"):
        patch.setattr(transfer_queue, name, getattr(queue, name))
    patch.setattr(transfer_queue, "kv_list", lambda *_: queue.kv_list())
    return queue


def build(queue, groups, *, stages=(EXPLOIT,), bound=3, batch=2, when="continue", threshold=None, ends_at_once=True):
    engine = Engine(queue, groups)
    buffer = BoundedReplayBufferAsync(
        trainer_mode="colocate_async",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=threshold,
        max_off_policy_strategy="drop",
        refill_fn=engine,
        sampler_kwargs=OmegaConf.create(
            {
                "poll_interval": 0.0,
                "stages": Stages(stages).as_dict(),
                "train_batch_size": batch,
                "max_inflight_gen_batches": 2,
                "sync_refill_failed_groups": True,
                "max_num_gen_batches": bound,
                "when_exhausted": when,
            }
        ),
    )
    if ends_at_once:
        waited = buffer._wait_for_next_poll

        def wait(partition_id, last):
            engine.end()
            return waited(partition_id, last)

        buffer._wait_for_next_poll = wait
    return buffer, engine


@pytest.fixture
def queue(monkeypatch):
    return patched(monkeypatch)


def of(metrics, *names):
    return [metrics[f"{PREFIX}/{name}"] for name in names]


def test_a_step_takes_what_has_ended_and_waits_for_nothing_else(queue):
    buffer, engine = build(queue, [BOTH] * 9, ends_at_once=False)
    engine(4)
    first, second, third, fourth = engine.drawn
    engine.end(fourth, second)
    batch, metrics = buffer.sample(1, "train", 2)
    assert uids_of(batch) == [second, fourth], "in the order in which they were drawn, not in which they ended"
    assert metrics == {}, "verl would combine them over the parts of a step by their names"
    assert {first, third} <= set(queue.tags["train"]), "in flight still"
    engine.end(third, first)
    assert uids_of(buffer.sample(2, "train", 2)[0]) == [first, third]
    assert engine.asked == [4]


def test_what_a_step_does_not_need_waits_for_the_next_and_is_counted_once(queue):
    buffer, engine = build(queue, [BOTH] * 9)
    engine(4)
    engine.end()
    assert uids_of(buffer.sample(1, "train", 2)[0]) == engine.drawn[:2]
    assert of(buffer.step_metrics(), "generated_groups", "kept_groups", "waiting_groups") == [4, 2, 2]
    assert uids_of(buffer.sample(2, "train", 2)[0]) == engine.drawn[2:4]
    assert of(buffer.step_metrics(), "generated_groups", "kept_groups", "waiting_groups") == [0, 2, 0]


def test_each_group_that_teaches_nothing_is_replaced_by_one(queue):
    buffer, engine = build(queue, [CORRECT, BOTH, INCORRECT, BOTH, BOTH, BOTH], bound=9)
    engine(3)
    engine.end()
    batch, _ = buffer.sample(1, "train", 2)
    assert engine.asked == [3, 2]
    assert uids_of(batch) == [engine.drawn[1], engine.drawn[3]]
    evicted = {engine.drawn[0], engine.drawn[2]}
    assert not any(key.split("_")[0] in evicted for key in queue.tags["train"])
    metrics = buffer.step_metrics()
    assert of(metrics, "generated_groups", "evicted_groups", "refilled_groups", "owed_groups") == [5, 2, 2, 0]
    assert of(metrics, "solve_all", "solve_none", "solve_all/digits/sum") == [0.2, 0.2, 0.2]


def test_the_stage_of_the_step_that_trains_a_group_judges_it(queue):
    """Generated while exploring, where every group counts; left over for exploitation, where two of them do not."""
    buffer, engine = build(queue, [CORRECT, INCORRECT, CORRECT, INCORRECT, BOTH, BOTH], stages=(EXPLORE, EXPLOIT))
    engine(4)
    engine.end()
    assert uids_of(buffer.sample(3, "train", 2)[0]) == engine.drawn[:2]
    assert buffer.get_sampleable_count(3, "train") == 2
    assert buffer.get_sampleable_count(4, "train") == 0
    assert len([uid for uid in engine.drawn if uid in queue.tags["train"]]) == 2, "counting takes nothing away"
    assert uids_of(buffer.sample(4, "train", 2)[0]) == engine.drawn[4:6]
    assert engine.asked == [4, 2]


def test_a_group_without_a_baseline_is_replaced_in_every_stage(queue):
    buffer, engine = build(queue, [(1, None, None), (1, None, 0), CORRECT], stages=(EXPLORE, EXPLOIT))
    engine(2)
    engine.end()
    batch, _ = buffer.sample(1, "train", 2)
    assert uids_of(batch) == engine.drawn[1:3]
    assert len(batch.keys) == 2 + 3


def test_the_bound_is_of_the_step_and_what_it_holds_back_is_replaced_later(queue):
    """Twice a batch of 2 may be generated: of 5 that teach nothing, 2 are replaced in this step, 3 in later ones."""
    buffer, engine = build(queue, [CORRECT] * 5 + [BOTH] * 9, bound=2)
    engine(5)
    engine.end()
    assert len(uids_of(buffer.sample(1, "train", 1)[0])) == 1
    assert len(uids_of(buffer.sample(1, "train", 1)[0])) == 1, "the second part of the step has no bound of its own"
    assert engine.asked == [5, 2]
    assert of(buffer.step_metrics(), "evicted_groups", "refilled_groups", "owed_groups") == [5, 2, 3]
    engine(2)  # the next step's own batch
    engine.end()
    buffer.sample(2, "train", 2)
    assert engine.asked == [5, 2, 2, 2]
    assert of(buffer.step_metrics(), "refilled_groups", "owed_groups") == [2, 1]


@pytest.mark.parametrize("when", ["continue", "stop"])
def test_at_the_bound_with_nothing_in_flight_it_ends_as_it_was_told(queue, when, caplog):
    buffer, engine = build(queue, [(BOTH, "muir")] + [(CORRECT, "emma")] * 20, bound=2, when=when)
    engine(2)
    if when == "stop":
        with pytest.raises(DynamicSamplingExhausted, match="generated 4 groups, the bound"):
            buffer.sample(7, "train", 2)
        return
    with caplog.at_level(logging.WARNING):
        assert len(uids_of(buffer.sample(7, "train", 2)[0])) == 1
    assert "emma: 100% all correct" in caplog.text


def test_without_a_single_useful_group_it_stops_either_way(queue):
    buffer, engine = build(queue, [CORRECT] * 20)
    engine(2)
    with pytest.raises(DynamicSamplingExhausted, match="found 0 of the 2 wanted"):
        buffer.sample(1, "train", 2)


def test_weights_that_are_too_old_are_replaced_and_counted(queue):
    """A threshold of 2: in step 3 a prompt of step 1 spans three weights, one of step 2 two."""
    buffer, engine = build(queue, [BOTH, CORRECT, BOTH, BOTH, BOTH, BOTH], threshold=2)
    engine(2)
    engine.step = 2
    engine(2)
    engine.end()
    engine.step = 3
    batch, _ = buffer.sample(3, "train", 2)
    assert uids_of(batch) == engine.drawn[2:4]
    metrics = buffer.step_metrics()
    assert of(metrics, "stale_groups", "evicted_groups", "refilled_groups") == [2, 2, 2]
    assert of(metrics, "generated_groups") == [2], "what is not looked at is not judged"


def test_a_failed_group_that_is_too_old_is_replaced_too(queue):
    buffer, engine = build(queue, [(1, None, 0), BOTH, BOTH], threshold=1)
    engine(1)
    engine.end()
    engine.step = 2
    engine(1)
    assert uids_of(buffer.sample(2, "train", 2)[0]) == engine.drawn[1:3]


def test_a_validation_takes_every_group_and_is_seen(queue):
    buffer, _ = build(queue, [])
    seen = []
    buffer.on_validated = seen.append
    for uid in ("v1", "v2"):
        queue.put(uid, CORRECT, partition="val")
    batch, metrics = buffer.sample(1, "val", 2)
    assert (set(uids_of(batch)), metrics, seen) == ({"v1", "v2"}, {}, [batch])


def test_verl_can_lend_its_trainers_to_generation_with_it():
    """What `PPOTrainerSeparateAsync` asks of a custom sampler."""
    assert issubclass(BoundedReplayBufferAsync, ReplayBufferAsync)
    assert all(hasattr(BoundedReplayBufferAsync, name) for name in ("wait_for_sampleable", "get_sampleable_count"))


GROUPS = st.sampled_from([CORRECT, INCORRECT, BOTH, (1, None, None), (None, None, None), (1, None, 0)])


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(GROUPS, min_size=40, max_size=40),
    ends=st.lists(st.integers(0, 5), min_size=400, max_size=400),
    warm=st.integers(0, 4),
    bound=st.integers(1, 4),
    threshold=st.sampled_from([None, 1, 2]),
)
def test_no_group_is_lost_or_trained_twice(groups, ends, warm, bound, threshold):
    """Whatever ends when: each prompt that was drawn is trained once, evicted once, or there still."""
    with pytest.MonkeyPatch.context() as patch:
        queue = patched(patch)
        buffer, engine = build(queue, groups, bound=bound, threshold=threshold, ends_at_once=False)
        when = iter(ends)

        def some_end(*_):
            for uid in [uid for uid in list(engine.open) if next(when, 0) == 0]:
                engine.end(uid)
            return 0.0

        buffer._wait_for_next_poll = some_end
        trained, totals = [], Counter()
        engine(warm) if warm else None
        for step in range(1, 5):
            engine.step = step
            engine(2)
            try:
                batch, _ = buffer.sample(step, "train", 2)
            except (DynamicSamplingExhausted, StopIteration):
                break
            finally:
                metrics = buffer.step_metrics()
                totals.update({name: metrics[f"{PREFIX}/{name}"] for name in ("evicted_groups", "refilled_groups")})
            assert metrics[f"{PREFIX}/refilled_groups"] <= (bound - 1) * 2
            trained += uids_of(batch)
            queue.kv_clear(batch.keys, "train")  # verl: when the step has been logged
            there = [uid for uid in engine.drawn if uid in queue.tags["train"]]
            assert len(trained) == len(set(trained))
            assert not set(trained) & set(there)
            assert len(trained) + len(there) + totals["evicted_groups"] == len(engine.drawn)
            assert totals["evicted_groups"] == totals["refilled_groups"] + metrics[f"{PREFIX}/owed_groups"]


class Killed(BaseException):
    """In the place of kill -9."""


class Loader(Engine):
    """An engine whose prompts are the rows of a data set, in their order; a row that is drawn anew has another uid."""

    def __init__(self, queue, groups, rows, life):
        super().__init__(queue, ())
        self.rows, self.uids = rows, (f"{5000 - row}-{life}" for row in count(rows))
        self.groups = (groups[row % len(groups)] for row in count(rows))

    def __call__(self, number):
        super().__call__(number)
        self.rows += number

    def reissue(self, groups):
        """What was in flight begins anew, and what it had ended goes (verl: `_reissue_inflight_prompts`)."""
        tags = self.queue.tags["train"]
        for uid in [uid for uid, tag in tags.items() if tag.get("status") == "running"]:
            self.queue.kv_clear([key for key in tags if key.startswith(f"{uid}_")], "train")
            tags[uid]["global_steps"] = self.step
            self.open[uid] = groups[row_of(uid) % len(groups)]


def row_of(uid):
    return 5000 - int(uid.split("-")[0])


@settings(deadline=None, max_examples=80)
@given(
    groups=st.lists(GROUPS, min_size=20, max_size=20),
    ends=st.lists(st.integers(0, 3), min_size=400, max_size=400),
    kills=st.lists(st.integers(1, 25), max_size=10),
    threshold=st.sampled_from([None, 2]),
)
def test_no_kill_loses_a_group_or_has_it_trained_twice(groups, ends, kills, threshold):
    """Killed at any moment, it goes on from its last checkpoint: each row that was drawn is accounted for, once."""
    when, lives = iter(ends), iter(kills)
    saved = (
        Counter(),
        {},
        0,
        [],
        0,
        0,
    )  # the queue's tags and fields, rows drawn, rows trained, groups evicted, the step
    for life in count():
        left = next(lives, None)

        def moment():
            nonlocal left
            left = left and left - 1
            if left == 0:
                raise Killed

        tags, fields, rows, trained, evicted, step = copy.deepcopy(saved)
        with pytest.MonkeyPatch.context() as patch:
            queue = patched(patch)
            queue.tags["train"], queue.fields["train"] = dict(tags), fields
            engine = Loader(queue, groups, rows, life)
            buffer, _ = build(queue, (), threshold=threshold, ends_at_once=False)
            buffer.refill_fn = engine

            def some_end(*_, engine=engine):
                moment()
                for uid in [uid for uid in list(engine.open) if next(when, 0) == 0]:
                    engine.end(uid)
                return 0.0

            buffer._wait_for_next_poll = some_end
            engine.step = step + 1
            clear_what_was_trained()
            engine.reissue(groups)
            engine(max(0, 2 - sum("_" not in key for key in queue.tags["train"])))  # verl's batches to warm up
            try:
                for number in range(step + 1, 7):
                    engine.step = number
                    engine(2)
                    batch, _ = buffer.sample(number, "train", 2)
                    moment()
                    trained += map(row_of, uids_of(batch))
                    evicted += buffer.step_metrics()[f"{PREFIX}/evicted_groups"]
                    there = [row_of(key) for key in queue.tags["train"] if "_" not in key]
                    assert len({*trained, *there}) == len(trained) + len(there), "trained twice"
                    assert len(trained) + len(there) + evicted == engine.rows, "lost"
                    state = queue.tags["train"], queue.fields["train"], engine.rows, trained, evicted, number
                    saved = copy.deepcopy(state)
                    moment()
                    queue.kv_clear(batch.keys, "train")
                    moment()
                return
            except DynamicSamplingExhausted:
                return
            except Killed:
                continue


def test_what_a_restored_queue_has_of_the_step_that_was_saved_is_cleared(queue):
    """verl saves while a batch is in training: its rows are in the queue, and its prompts are not."""
    queue.put("trained", BOTH)
    del queue.tags["train"]["trained"]
    queue.put("ended", BOTH)
    queue.tags["train"]["waiting"] = {"is_prompt": True, "status": "pending", "global_steps": 1}
    clear_what_was_trained()
    assert {key.split("_")[0] for key in queue.tags["train"]} == {"ended", "waiting"}
