"""Bounded dynamic sampling where generation never stops: groups are judged as they end, and replaced one for one.

verl's asynchronous trainers keep prompts in flight across steps, so there are no rounds to wait for. A step takes the
groups that have ended, in the order in which they were drawn; what it does not need waits for the next. Each group that
is evicted, because it teaches nothing in the stage of the step that would train it, or because its weights are too old
(`trainer.v1.sampler.max_off_policy_threshold`), is replaced by one prompt, up to the bound of a step; what the bound
holds back is replaced in later steps, so that the number of prompts in flight stays what the trainer made it.
"""

import math
import time
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync
from verl.utils.skip import SkipManager

from cinema_verl.training.dynamic_sampling import PREFIX, Bounded, GroupKind, Tally


class BoundedReplayBufferAsync(Bounded, ReplayBufferAsync):
    """verl's asynchronous `ReplayBufferAsync` with bounded dynamic sampling; arguments as `Bounded`."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._kinds: dict[str, tuple[str, GroupKind]] = {}  # group that has ended -> its source and kind
        self._step, self._refilled_in_step, self._owed = -1, 0, 0
        self._begin()

    def _begin(self) -> None:
        self._tally = Tally()
        self._evicted = self._stale = self._refilled = self._taken = 0

    def step_metrics(self) -> dict[str, float]:
        """`cinema/dynamic_sampling/…` of everything since the last call: one step, however many mini-batches it has."""
        waiting = sum(kind is not GroupKind.TOO_FEW for _, kind in self._kinds.values())
        counts = {
            "kept_groups": self._taken,
            "evicted_groups": self._evicted,
            "stale_groups": self._stale,
            "refilled_groups": self._refilled,
            "owed_groups": self._owed,
            "waiting_groups": waiting,
        }
        metrics = self._tally.metrics() | {f"{PREFIX}/{name}": float(count) for name, count in counts.items()}
        self._begin()
        return metrics

    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A batch of `batch_size` groups, the first drawn of those that have ended (verl: `ReplayBufferAsync.sample`).

        Its metrics are those of the whole step: `step_metrics`.

        Raises:
            DynamicSamplingExhausted: if nothing is in flight, the bound is reached, and there are too few groups (see
                `when_exhausted`).
        """
        useful, _ = self.wait_for_sampleable(global_steps, partition_id, batch_size)
        selected = [uid for uid in self.prompt_global_steps[partition_id] if uid in useful][:batch_size]
        batch = self._materialize_batch(partition_id, selected, self.partitions[partition_id])
        batch = self._in_drawn_order(batch)
        if partition_id == "val":
            self.on_validated(batch)
            return batch, {}
        self._taken += len(selected)
        for uid in selected:
            del self._kinds[uid]
        return batch, {}

    def wait_for_sampleable(self, global_steps: int, partition_id: str, target_count: int) -> tuple[set[str], dict]:
        """Wait for `target_count` useful groups, replacing others; their uids (verl: the same)."""
        if partition_id == "val":
            return super().wait_for_sampleable(global_steps, partition_id, target_count)
        if global_steps != self._step:
            self._step, self._refilled_in_step = global_steps, 0
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            useful, stale = self._useful(global_steps, partition_id)
            useless = (self.finished_keys[partition_id] | self.failure_keys[partition_id]) - useful
            self._clear_groups(partition_id, useless)
            self._evicted, self._stale = self._evicted + len(useless), self._stale + len(stale)
            self._owed += len(useless)
            refilled = self._refill()
            if self._has_enough_samples(global_steps, partition_id, target_count, useful):
                return useful, {}
            if not (refilled or self.pending_keys[partition_id] or self.running_keys[partition_id]):
                self._report_exhausted(
                    global_steps,
                    self.train_batch_size + self._refilled_in_step,
                    len(useful),
                    target_count,
                    self._tally,
                    filtered=self.stages.at(global_steps).filter is not None,
                )
                return useful, {}
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

    def get_sampleable_count(self, global_steps: int, partition_id: str) -> int:
        """How many groups a step could train on now (verl: the same); nothing is evicted."""
        self._sync_metadata_from_transfer_queue()
        return len(self._useful(global_steps, partition_id)[0])

    def _useful(self, global_steps: int, partition_id: str) -> tuple[set[str], set[str]]:
        """Of the groups that have ended, those that the step can train on, and those whose weights are too old."""
        ended = self.finished_keys[partition_id] | self.failure_keys[partition_id]
        begun = self.prompt_global_steps[partition_id]
        stale = set()
        if self.max_off_policy_threshold is not None and self.max_off_policy_strategy == "drop":
            stale = {uid for uid in ended if global_steps - begun[uid] + 1 > self.max_off_policy_threshold}
        self._kinds = {uid: found for uid, found in self._kinds.items() if uid in ended}
        metric = self.stages.at(global_steps).filter
        new = self._judged(partition_id, ended - stale - self._kinds.keys(), metric)
        for source, kind in new.values():
            self._tally.add(source, kind)
        self._kinds |= new
        return {uid for uid in ended - stale if self._kinds[uid][1] in self._wanted(metric)}, stale

    def _refill(self) -> int:
        """Draw a prompt for each group that was evicted, as far as the step's bound allows."""
        assert self.refill_fn is not None
        bound = (self.max_num_gen_batches - 1) * self.train_batch_size if self.max_num_gen_batches > 0 else math.inf
        number = int(min(self._owed, bound - self._refilled_in_step))
        if number > 0:
            self.refill_fn(number)
            self._owed -= number
            self._refilled += number
            self._refilled_in_step += number
        return max(number, 0)


def clear_what_was_trained() -> None:
    """Remove what a restored queue has of the step that its checkpoint was written in: rows without a prompt."""
    items = (tq.kv_list("train") or {}).get("train", {})
    prompts = {key for key, tag in items.items() if tag.get("is_prompt")}
    if trained := [key for key in items if key.split("_")[0] not in prompts]:
        tq.kv_clear(keys=trained, partition_id="train")
