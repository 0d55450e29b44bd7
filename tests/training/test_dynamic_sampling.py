"""Bounded dynamic sampling, against verl's replay buffer and an in-memory stand-in for the transfer queue."""

import logging
from collections import defaultdict
from itertools import count

import pytest
import transfer_queue
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.import_utils import load_extern_object
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from cinema_verl.schedule import AnnealingSchedule, Stage, Stages
from cinema_verl.training.dynamic_sampling import (
    BoundedReplayBuffer,
    DynamicSamplingExhausted,
    GroupKind,
    Tally,
    choose_sampler,
)
from cinema_verl.training.settings import CinemaSettings


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
    """Draws groups in a fixed order, as the trainer does; the rollouts are there at once."""

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
    def make(
        groups, *, batch_size=2, bound=3, when_exhausted="continue", metric="acc", inflight=2, before=(), replace=False
    ):
        rollouts = Rollouts(queue, groups)
        rollouts.buffer = BoundedReplayBuffer(
            trainer_mode="sync",
            trainer_config=OmegaConf.create({}),
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            refill_fn=rollouts,
            sampler_kwargs=OmegaConf.create(
                {
                    "poll_interval": 0.001,
                    "stages": Stages((*before, Stage("now", 99, 0.1, filter=metric))).as_dict(),
                    "train_batch_size": batch_size,
                    "max_inflight_gen_batches": inflight,
                    "sync_refill_failed_groups": replace,
                    "max_num_gen_batches": bound,
                    "when_exhausted": when_exhausted,
                }
            ),
        )
        rollouts(batch_size)  # the trainer submits the first batch itself (`prepare_step`)
        return rollouts

    return make


def uids_of(batch):
    return list(dict.fromkeys(key.split("_")[0] for key in batch.keys))


CORRECT, INCORRECT, BOTH = (1, 1, 1), (0, 0, 0), (1, 0, 1)


def test_a_first_round_of_mixed_groups_is_the_batch(make, queue):
    rollouts = make([BOTH, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn
    assert len(batch.keys) == len(batch.tags) == 6
    assert rollouts.rounds == [2]
    assert metrics["cinema/dynamic_sampling/mixed"] == 1.0
    assert not any(tag.get("is_prompt") for tag in queue.tags["train"].values()), "only the batch's rows are left"


def test_groups_that_teach_nothing_are_replaced_twice_over_and_cleared(make, queue):
    rollouts = make([CORRECT, BOTH, INCORRECT, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert rollouts.rounds == [2, 2], "two prompts for the one that is missing"
    assert uids_of(batch) == [rollouts.drawn[1], rollouts.drawn[3]]
    assert set(queue.tags["train"]) == set(batch.keys)
    assert metrics["cinema/dynamic_sampling/generated_groups"] == 4
    assert metrics["cinema/dynamic_sampling/solve_all"] == 0.25
    assert metrics["cinema/dynamic_sampling/solve_none"] == 0.25
    assert metrics["cinema/dynamic_sampling/kept_groups"] == 2


def test_surplus_groups_are_dropped_in_the_order_in_which_they_were_drawn_not_of_their_uids(make, queue):
    rollouts = make([CORRECT, CORRECT, BOTH, BOTH, BOTH, BOTH])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn[2:4]
    assert uids_of(batch) != sorted(uids_of(batch))
    assert metrics["cinema/dynamic_sampling/surplus_groups"] == 2
    assert set(queue.tags["train"]) == set(batch.keys)


def test_rows_do_not_depend_on_which_rollout_was_faster(make, queue):
    rollouts = make([BOTH, BOTH])
    tags = queue.tags["train"]  # prompts are there before any of their rollouts
    prompts = [(key, tag) for key, tag in tags.items() if tag.get("is_prompt")]
    queue.tags["train"] = dict(prompts + [row for row in reversed(tags.items()) if row not in prompts])
    batch, _ = rollouts.buffer.sample(1, "train", 2)
    first, second = rollouts.drawn
    assert batch.keys == [f"{uid}_{session}_0" for uid in (first, second) for session in range(3)]


def test_sessions_are_in_numerical_order(make, queue):
    rollouts = make([(1, 0) * 6], batch_size=1)
    batch, _ = rollouts.buffer.sample(1, "train", 1)
    assert [int(key.split("_")[1]) for key in batch.keys] == list(range(12))


def test_a_refill_is_never_larger_than_what_may_be_in_flight(make):
    rollouts = make([CORRECT] * 4 + [BOTH] * 8, batch_size=4, inflight=1, bound=3)
    rollouts.buffer.sample(1, "train", 4)
    assert rollouts.rounds == [4, 4]


def test_at_the_bound_training_goes_on_with_a_smaller_batch(make, caplog):
    rollouts = make([BOTH] + [CORRECT] * 20, batch_size=2, bound=3, when_exhausted="continue")
    with caplog.at_level(logging.WARNING):
        batch, metrics = rollouts.buffer.sample(7, "train", 2)
    assert sum(rollouts.rounds) == 6, "three times the batch, the first one included"
    assert uids_of(batch) == rollouts.drawn[:1]
    assert metrics["cinema/dynamic_sampling/kept_groups"] == 1
    assert "step 7: dynamic sampling generated 6 groups" in caplog.text
    assert "83% all correct" in caplog.text


def test_at_the_bound_the_run_stops_and_says_which_share_was_useless_by_source(make):
    groups = [
        (CORRECT, "muir"),
        (BOTH, "muir"),
        (INCORRECT, "emma"),
        (INCORRECT, "emma"),
        (CORRECT, "emma"),
        ((1, None), "emma"),
    ]
    rollouts = make(groups, batch_size=2, bound=3, when_exhausted="stop")
    with pytest.raises(DynamicSamplingExhausted) as stopped:
        rollouts.buffer.sample(7, "train", 2)
    message = str(stopped.value)
    assert "step 7: dynamic sampling generated 6 groups" in message
    assert "algorithm.filter_groups.max_num_gen_batches=3" in message
    assert "found 1 of the 2 wanted groups" in message
    assert "  emma: 25% all correct, 50% all incorrect, 25% with fewer than two trajectories" in message
    assert "  muir: 50% all correct, 0% all incorrect, 0% with fewer than two trajectories" in message
    assert "cinema.when_exhausted=continue" in message


@pytest.mark.parametrize("when_exhausted", ["continue", "stop"])
def test_without_a_single_useful_group_the_run_stops_either_way(make, when_exhausted):
    rollouts = make([CORRECT] * 20, when_exhausted=when_exhausted)
    with pytest.raises(DynamicSamplingExhausted, match="found 0 of the 2 wanted"):
        rollouts.buffer.sample(1, "train", 2)
    assert sum(rollouts.rounds) == 6


def test_without_a_bound_it_searches_on(make):
    rollouts = make([CORRECT] * 50 + [BOTH] * 20, bound=0)
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


def test_a_validation_says_how_far_it_is_while_it_is_waited_for(make, queue, monkeypatch):
    rollouts, seen = make([BOTH, BOTH]), []
    for uid in ("v1", "v2"):
        queue.put(uid, CORRECT, partition="val")
    queue.tags["val"]["v2"]["status"] = "running"
    rollouts.buffer.on_validating = seen.append

    def finish(*_):
        queue.tags["val"]["v2"]["status"] = "finished"
        return 0.0

    monkeypatch.setattr(ReplayBuffer, "_wait_for_next_poll", finish)
    rollouts.buffer.sample(1, "val", 2)
    assert seen == [1]


def test_a_reward_without_the_metric_is_named(make, queue):
    rollouts = make([BOTH, BOTH])
    for fields in queue.fields["train"].values():
        del fields["extra_fields"]["reward_extra_info"]["acc"]
    with pytest.raises(KeyError, match=r"acc, by which .* is not among .*\['score'\]"):
        rollouts.buffer.sample(1, "train", 2)


def test_each_step_is_filtered_as_its_stage_says(make):
    """Step 1 explores: every group counts. Step 2 exploits: those that teach nothing are replaced."""
    rollouts = make([CORRECT, INCORRECT, CORRECT, BOTH, BOTH, BOTH], replace=True, before=[Stage("explore", 1, 0.1)])
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn[:2]
    assert metrics["cinema/dynamic_sampling/solve_all"] == 0.5
    assert metrics["cinema/dynamic_sampling/generated_groups"] == 2
    rollouts(2)
    batch, metrics = rollouts.buffer.sample(2, "train", 2)
    assert uids_of(batch) == rollouts.drawn[3:5]
    assert metrics["cinema/dynamic_sampling/generated_groups"] == 2 + 2


def test_without_a_filter_a_group_without_a_baseline_is_replaced_one_for_one(make):
    rollouts = make([(1, None, None), CORRECT, (None, 1, 1)], metric=None, replace=True)
    batch, _ = rollouts.buffer.sample(1, "train", 2)
    assert rollouts.rounds == [2, 1]
    assert uids_of(batch) == rollouts.drawn[1:3]


def test_validation_takes_every_group_as_it_is(make, queue):
    rollouts = make([BOTH, BOTH])
    for uid in ("v1", "v2"):
        queue.put(uid, CORRECT, partition="val")
    batch, metrics = rollouts.buffer.sample(1, "val", 2)
    assert set(uids_of(batch)) == {"v1", "v2"}
    assert metrics == {}
    assert len(uids_of(rollouts.buffer.sample(1, "train", 2)[0])) == 2, "the training groups are untouched"


def test_without_a_filter_it_is_verls_buffer_in_drawn_order(make):
    rollouts = make([CORRECT, INCORRECT], metric=None)
    batch, metrics = rollouts.buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn
    assert metrics == {}


def test_a_stage_without_a_filter_before_one_with_it_takes_every_group(queue):
    """Failed rollouts are not replaced there (`sync_refill_failed_groups=false`), so verl's own buffer draws."""
    config = OmegaConf.create(CONFIG)
    choose_sampler(config, settings())
    rollouts = Rollouts(queue, [CORRECT, INCORRECT])
    buffer = BoundedReplayBuffer(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        refill_fn=rollouts,
        sampler_kwargs=config.trainer.v1.sampler.sampler_kwargs,
    )
    rollouts(2)
    batch, _ = buffer.sample(1, "train", 2)
    assert uids_of(batch) == rollouts.drawn
    assert rollouts.rounds == [2]


CONFIG = {
    "trainer": {
        "v1": {
            "sampler": {
                "custom_sampler": {"path": None, "name": None},
                "sampler_kwargs": {},
                "sync_refill_failed_groups": False,
            }
        }
    },
    "algorithm": {
        "filter_groups": {"enable": True, "metric": "acc", "max_num_gen_batches": 4, "max_inflight_gen_batches": 2}
    },
    "data": {"train_batch_size": 16},
}


def settings():
    stages = AnnealingSchedule(0.1, 7, 3).stages
    return CinemaSettings(0.1, 7, 3, "linear", stages, "none", "exact", "stop", 2.0, (), None, ())


def test_verl_builds_it_from_the_config():
    config = OmegaConf.create(CONFIG)
    OmegaConf.set_struct(config, True)
    choose_sampler(config, settings())
    custom = config.trainer.v1.sampler.custom_sampler
    assert load_extern_object(custom.path, custom.name) is BoundedReplayBuffer
    assert config.trainer.v1.sampler.sampler_kwargs == {
        "max_num_gen_batches": 4,
        "when_exhausted": "stop",
        "poll_interval": 2.0,
        "stages": settings().stages.as_dict(),
        "train_batch_size": 16,
        "max_inflight_gen_batches": 2,
        "sync_refill_failed_groups": False,
    }


def test_bounds_that_are_null_are_verls_own_defaults():
    config = OmegaConf.create(CONFIG)
    config.algorithm.filter_groups = {"max_num_gen_batches": None, "max_inflight_gen_batches": None}
    choose_sampler(config, settings())
    options = config.trainer.v1.sampler.sampler_kwargs
    assert (options.max_num_gen_batches, options.max_inflight_gen_batches) == (0, 1)


def test_a_sampler_of_the_users_own_is_left_alone():
    config = OmegaConf.create(CONFIG)
    config.trainer.v1.sampler.custom_sampler = {"path": "mine.py", "name": "Mine"}
    before = config.copy()
    choose_sampler(config, settings())
    assert config == before


@pytest.mark.parametrize(
    ("acc", "kind"),
    [
        ([], GroupKind.TOO_FEW),
        ([1.0], GroupKind.TOO_FEW),
        ([1.0, 1.0], GroupKind.SOLVE_ALL),
        ([0.0, 0.0], GroupKind.SOLVE_NONE),
        ([1.0, 0.0], GroupKind.MIXED),
    ],
)
def test_what_the_accuracies_of_a_group_say(acc, kind):
    assert GroupKind.of(acc) is kind


def test_shares_are_of_the_groups_of_a_source():
    tally = Tally()
    for source, kind in [
        ("a", GroupKind.SOLVE_ALL),
        ("a", GroupKind.MIXED),
        ("b", GroupKind.SOLVE_NONE),
        ("b", GroupKind.SOLVE_NONE),
    ]:
        tally.add(source, kind)
    assert tally.share(GroupKind.SOLVE_ALL) == 0.25
    assert tally.share(GroupKind.SOLVE_ALL, "a") == 0.5
    assert tally.share(GroupKind.SOLVE_NONE, "b") == 1.0
    assert tally.share(GroupKind.SOLVE_NONE, "never seen") == 0.0
    metrics = tally.metrics()
    assert metrics["cinema/dynamic_sampling/solve_none/b"] == 1.0
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
