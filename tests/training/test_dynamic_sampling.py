"""Bounded dynamic sampling, against verl's replay buffer and an in-memory stand-in for the transfer queue."""

import logging
from collections import defaultdict
from itertools import count

import pytest
import transfer_queue
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from cinema_verl.training.dynamic_sampling import (
    ALL_RIGHT,
    ALL_WRONG,
    MIXED,
    TOO_FEW,
    BoundedReplayBuffer,
    DynamicSamplingExhausted,
    Tally,
    classify,
)


class FakeQueue:
    """The three functions of `transfer_queue` that a replay buffer calls, over one dictionary."""

    def __init__(self):
        self.tags = defaultdict(dict)
        self.fields = defaultdict(dict)

    def put(self, uid, acc, source="digits/sum", partition="train"):
        """A finished group; a None in `acc` is a rollout that failed."""
        failed = any(a is None for a in acc)
        self.tags[partition][uid] = {
            "is_prompt": True,
            "status": "failure" if failed else "finished",
            "global_steps": 1,
        }
        for session in range(len(acc)):
            if acc[session] is not None:
                key = f"{uid}_{session}_0"
                self.tags[partition][key] = {"status": "success", "seq_len": 10}
                info = {"acc": float(acc[session]), "score": 0.123}
                self.fields[partition][key] = {"extra_fields": {"reward_extra_info": info}, "data_source": source}

    def kv_list(self):
        return {partition: {key: dict(tag) for key, tag in tags.items()} for partition, tags in self.tags.items()}

    def kv_batch_get(self, keys, partition_id, select_fields):
        rows = [{name: self.fields[partition_id][key][name] for name in select_fields} for key in keys]
        return list_of_dict_to_tensordict(rows)

    def kv_clear(self, keys, partition_id):
        for key in keys:
            self.tags[partition_id].pop(key, None)
            self.fields[partition_id].pop(key, None)


class Rollouts:
    """Draws groups in a fixed order, as the trainer does: notes the uids, and the rollouts are there at once."""

    def __init__(self, queue, groups):
        self.queue, self.groups, self.rounds = queue, iter(groups), []
        # uids that sort against the order in which they are drawn
        self.uids = (f"{1000 - i}-x" for i in count())
        self.drawn = []
        self.buffer = None

    def __call__(self, number):
        self.rounds.append(number)
        for _ in range(number):
            uid, group = next(self.uids), next(self.groups)
            self.drawn.append(uid)
            self.buffer.note_drawn([uid])
            acc, source = group if isinstance(group[0], tuple) else (group, "digits/sum")
            self.queue.put(uid, acc, source)


@pytest.fixture
def queue(monkeypatch):
    fake = FakeQueue()
    for name in ("kv_list", "kv_batch_get", "kv_clear"):
        monkeypatch.setattr(transfer_queue, name, getattr(fake, name))
    return fake


@pytest.fixture
def make(queue):
    def make(groups, *, batch_size=2, bound=3, when_exhausted="continue", metric="acc", inflight=2):
        rollouts = Rollouts(queue, groups)
        rollouts.buffer = BoundedReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs=OmegaConf.create({}),
            poll_interval=0.001,
            refill_fn=rollouts,
            filter_groups_metric=metric,
            train_batch_size=batch_size,
            gen_batch_size=1,
            max_inflight_gen_batches=inflight,
            max_num_gen_batches=bound,
            when_exhausted=when_exhausted,
        )
        rollouts(batch_size)  # the trainer submits the first batch itself (`prepare_step`)
        return rollouts

    return make


def uids_of(batch):
    return list(dict.fromkeys(key.split("_")[0] for key in batch.keys))


RIGHT, WRONG, BOTH = (1, 1, 1), (0, 0, 0), (1, 0, 1)


def test_a_first_round_of_mixed_groups_is_the_batch(make, queue):
    rollouts = make([BOTH, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn
    assert len(batch.keys) == len(batch.tags) == 6
    assert rollouts.rounds == [2]
    assert metrics["cinema/dynamic_sampling/mixed"] == 1.0
    assert not any(tag.get("is_prompt") for tag in queue.tags["train"].values()), "only the batch's rows are left"


def test_groups_that_teach_nothing_are_replaced_twice_over_and_cleared(make, queue):
    rollouts = make([RIGHT, BOTH, WRONG, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert rollouts.rounds == [2, 2], "two prompts for the one that is missing"
    assert uids_of(batch) == [rollouts.drawn[1], rollouts.drawn[3]]
    assert set(queue.tags["train"]) == set(batch.keys)
    assert metrics["cinema/dynamic_sampling/generated_groups"] == 4
    assert metrics["cinema/dynamic_sampling/all_right"] == 0.25
    assert metrics["cinema/dynamic_sampling/all_wrong"] == 0.25
    assert metrics["cinema/dynamic_sampling/kept_groups"] == 2


def test_surplus_groups_are_dropped_in_the_order_in_which_they_were_drawn_not_of_their_uids(make, queue):
    rollouts = make([RIGHT, RIGHT, BOTH, BOTH, BOTH, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn[2:4]
    assert uids_of(batch) != sorted(uids_of(batch))
    assert metrics["cinema/dynamic_sampling/surplus_groups"] == 2
    assert set(queue.tags["train"]) == set(batch.keys)


def test_rows_do_not_depend_on_which_rollout_was_faster(make, queue):
    rollouts = make([BOTH, BOTH])
    rows = list(reversed(queue.tags["train"].items()))
    queue.tags["train"] = dict(rows)
    batch, _ = rollouts.buffer.sample(1, "train", 2)
    first, second = rollouts.drawn
    assert batch.keys == [f"{uid}_{session}_0" for uid in (first, second) for session in range(3)]


def test_sessions_are_in_numerical_order(make, queue):
    rollouts = make([(1, 0) * 6], batch_size=1)
    batch, _ = rollouts.buffer.sample(1, "train", 1)
    assert [int(key.split("_")[1]) for key in batch.keys] == list(range(12))


def test_a_refill_is_never_larger_than_what_may_be_in_flight(make):
    rollouts = make([RIGHT] * 4 + [BOTH] * 8, batch_size=4, inflight=1, bound=3)
    rollouts.buffer.sample(1, "train", 4)
    assert rollouts.rounds == [4, 4]


def test_at_the_bound_training_goes_on_with_a_smaller_batch(make, caplog):
    rollouts = make([BOTH] + [RIGHT] * 20, batch_size=2, bound=3, when_exhausted="continue")
    with caplog.at_level(logging.WARNING):
        batch, metrics = rollouts.buffer.sample(7, "train", 2)
    assert sum(rollouts.rounds) == 6, "three times the batch, the first one included"
    assert uids_of(batch) == rollouts.drawn[:1]
    assert metrics["cinema/dynamic_sampling/kept_groups"] == 1
    assert "step 7: dynamic sampling generated 6 groups" in caplog.text
    assert "83% all right" in caplog.text


def test_at_the_bound_the_run_stops_and_says_which_share_was_useless_by_source(make):
    groups = [(RIGHT, "muir"), (BOTH, "muir"), (WRONG, "emma"), (WRONG, "emma"), (RIGHT, "emma"), ((1, None), "emma")]
    rollouts = make(groups, batch_size=2, bound=3, when_exhausted="stop")
    with pytest.raises(DynamicSamplingExhausted) as stopped:
        rollouts.buffer.sample(7, "train", 2)
    message = str(stopped.value)
    assert "step 7: dynamic sampling generated 6 groups" in message
    assert "algorithm.filter_groups.max_num_gen_batches=3" in message
    assert "found 1 of the 2 wanted groups" in message
    assert "  emma: 25% all right, 50% all wrong, 25% with fewer than two trajectories" in message
    assert "  muir: 50% all right, 0% all wrong, 0% with fewer than two trajectories" in message
    assert "cinema.when_exhausted=continue" in message


@pytest.mark.parametrize("when_exhausted", ["continue", "stop"])
def test_without_a_single_useful_group_the_run_stops_either_way(make, when_exhausted):
    rollouts = make([RIGHT] * 20, when_exhausted=when_exhausted)
    with pytest.raises(DynamicSamplingExhausted, match="found 0 of the 2 wanted"):
        rollouts.buffer.sample(1, "train", 2)
    assert sum(rollouts.rounds) == 6


def test_without_a_bound_it_searches_on(make):
    rollouts = make([RIGHT] * 50 + [BOTH] * 20, bound=0)
    batch, _ = rollouts.buffer.sample(1, "train", 2)
    assert len(uids_of(batch)) == 2
    assert sum(rollouts.rounds) > 50


def test_failed_groups_count_with_what_is_left_of_them(make):
    """Two of three rollouts are left and differ: useful. One is left: no baseline. None is left: nothing."""
    rollouts = make([(1, None, 0), (1, None, None), (None, None, None), BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == [rollouts.drawn[0], rollouts.drawn[3]]
    assert len(batch.keys) == 2 + 3
    assert metrics["cinema/dynamic_sampling/too_few"] == 0.5


def test_it_waits_for_every_rollout_that_is_still_running(make, queue, monkeypatch):
    rollouts = make([BOTH, BOTH])
    running = rollouts.drawn[0]
    queue.tags["train"][running]["status"] = "running"
    polls = []

    def finish(*_):
        polls.append(1)
        if len(polls) == 3:
            queue.tags["train"][running]["status"] = "finished"
        return 0.0

    monkeypatch.setattr(rollouts.buffer, "_wait_for_next_poll", finish)
    batch, _ = rollouts.buffer.sample(1, "train", 2)
    assert len(polls) == 3
    assert uids_of(batch) == rollouts.drawn


def test_groups_are_judged_by_the_named_metric_and_a_missing_one_is_named(make):
    rollouts = make([BOTH, BOTH], metric="seq_reward")
    with pytest.raises(KeyError, match=r"seq_reward is not among .*\['acc', 'score'\]"):
        rollouts.buffer.sample(1, "train", 2)


def test_validation_takes_every_group_as_it_is(make, queue):
    rollouts = make([BOTH, BOTH])
    for uid in ("v1", "v2"):
        queue.put(uid, RIGHT, partition="val")
    batch, metrics = rollouts.buffer.sample(1, "val", 2)
    assert set(uids_of(batch)) == {"v1", "v2"}
    assert metrics == {}
    assert len(uids_of(rollouts.buffer.sample(1, "train", 2)[0])) == 2, "the training groups are untouched"


def test_without_a_filter_it_is_verls_buffer_in_drawn_order(make):
    rollouts = make([RIGHT, WRONG], metric=None)
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn
    assert metrics == {}


@pytest.mark.parametrize("metric", ["acc", None])
def test_nothing_is_remembered_from_step_to_step(make, metric):
    rollouts = make([BOTH] * 4, metric=metric)
    rollouts.buffer.sample(1, "train", 2)
    assert rollouts.buffer.drawn == {}


def test_an_unknown_choice_for_the_bound_is_refused():
    with pytest.raises(ValueError, match=r"cinema\.when_exhausted must be one of .*got 'ignore'"):
        BoundedReplayBuffer(max_num_gen_batches=1, when_exhausted="ignore")


@pytest.mark.parametrize(
    ("acc", "kind"),
    [
        ([], TOO_FEW),
        ([1.0], TOO_FEW),
        ([1.0, 1.0], ALL_RIGHT),
        ([0.0, 0.0], ALL_WRONG),
        ([1.0, 0.0], MIXED),
    ],
)
def test_what_a_group_teaches(acc, kind):
    assert classify(acc) == kind


def test_shares_are_of_the_groups_of_a_source():
    tally = Tally()
    for source, kind in [("a", ALL_RIGHT), ("a", MIXED), ("b", ALL_WRONG), ("b", ALL_WRONG)]:
        tally.add(source, kind)
    assert tally.share(ALL_RIGHT) == 0.25
    assert tally.share(ALL_RIGHT, "a") == 0.5
    assert tally.share(ALL_WRONG, "b") == 1.0
    assert tally.share(ALL_WRONG, "never seen") == 0.0
    metrics = tally.metrics()
    assert metrics["cinema/dynamic_sampling/all_wrong/b"] == 1.0
    assert metrics["cinema/dynamic_sampling/mixed"] == 0.25


def test_verls_own_buffer_still_ignores_the_bound(caplog):
    """When this fails, verl bounds dynamic sampling itself: see whether `BoundedReplayBuffer` is still needed."""

    class Trainer:
        config = OmegaConf.create(
            {
                "algorithm": {"filter_groups": {"enable": True, "metric": "acc", "max_num_gen_batches": 10}},
                "reward": {"reward_model": {"enable": False, "enable_resource_pool": False}},
            }
        )

    with caplog.at_level(logging.WARNING):
        assert trainer_base.PPOTrainer._resolve_filter_groups_metric(Trainer()) == "acc"
    assert "max_num_gen_batches=10 is ignored" in caplog.text
