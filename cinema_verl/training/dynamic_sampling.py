"""DAPO's dynamic sampling with a bound: drop groups that teach nothing, refill, and know when to stop.

Paper: groups whose trajectories are all right or all wrong are dropped, judged by R_acc alone and never by the
penalised reward. verl's V1 replay buffer refills such groups without limit (it ignores
`algorithm.filter_groups.max_num_gen_batches`), so a policy that gets everything right generates for ever; and it picks
among surplus groups in the order of random ids. This buffer works in rounds (generate, wait for all, filter, refill),
honours the bound, prefers groups in the order in which they were drawn, and says what it dropped, by data source.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.skip import SkipManager

from cinema_verl.training.settings import WHEN_EXHAUSTED

logger = logging.getLogger(__name__)

ALL_RIGHT, ALL_WRONG, MIXED, TOO_FEW = "all_right", "all_wrong", "mixed", "too_few"


class DynamicSamplingExhausted(RuntimeError):
    """The bound on generation was reached without enough groups to train on."""


def classify(acc: list[float]) -> str:
    """What a group of trajectories teaches: MIXED groups have an accuracy advantage, the others have none."""
    if len(acc) < 2:
        return TOO_FEW  # a group of one has no baseline
    if all(a == acc[0] for a in acc):
        return ALL_RIGHT if acc[0] > 0 else ALL_WRONG
    return MIXED


@dataclass
class Tally:
    """Groups seen in one step: counts by (data source, class)."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, source: str, kind: str) -> None:
        self.counts[source, kind] += 1

    def share(self, kind: str, source: str | None = None) -> float:
        """Share of the groups (of a source) that are of a class."""
        total = sum(n for (s, _), n in self.counts.items() if source in (None, s))
        of_kind = sum(n for (s, k), n in self.counts.items() if k == kind and source in (None, s))
        return of_kind / total if total else 0.0

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self.counts})

    def metrics(self) -> dict[str, float]:
        """`cinema/dynamic_sampling/…`: groups generated, and shares by class, overall and by data source."""
        prefix = "cinema/dynamic_sampling"
        result = {f"{prefix}/generated_groups": float(self.counts.total())}
        for kind in (ALL_RIGHT, ALL_WRONG, MIXED, TOO_FEW):
            result[f"{prefix}/{kind}"] = self.share(kind)
        for source in self.sources:
            for kind in (ALL_RIGHT, ALL_WRONG):
                result[f"{prefix}/{kind}/{source}"] = self.share(kind, source)
        return result

    def table(self) -> str:
        """One line a data source, for the message that somebody reads when a run stops."""
        return "\n".join(
            f"  {source}: {self.share(ALL_RIGHT, source):.0%} all right, "
            f"{self.share(ALL_WRONG, source):.0%} all wrong, "
            f"{self.share(TOO_FEW, source):.0%} with fewer than two trajectories"
            for source in self.sources
        )


class BoundedReplayBuffer(ReplayBuffer):
    """verl's synchronous `ReplayBuffer` with bounded dynamic sampling.

    Args:
        max_num_gen_batches: how many times `train_batch_size` prompts one step may generate at most, the first batch
            included; 0 means no bound (`algorithm.filter_groups.max_num_gen_batches`).
        on_validated: called with each batch of a validation that has been rolled out.
        when_exhausted: "continue" trains on the groups there are, "stop" ends the run (`cinema.when_exhausted`). With
            no group at all there is nothing to train on and the run ends either way.
        kwargs: verl's own (`ReplayBuffer`).
    """

    def __init__(
        self,
        *,
        max_num_gen_batches: int,
        when_exhausted: str,
        on_validated: Callable[[KVBatchMeta], None] = lambda _: None,
        **kwargs: Any,
    ):
        if when_exhausted not in WHEN_EXHAUSTED:
            raise ValueError(f"cinema.when_exhausted must be one of {WHEN_EXHAUSTED}, got {when_exhausted!r}")
        super().__init__(**kwargs)
        self.max_num_gen_batches = max_num_gen_batches
        self.when_exhausted = when_exhausted
        self.on_validated = on_validated
        self.drawn: dict[str, int] = {}  # prompt uid -> order in which it was drawn from the data

    def note_drawn(self, uids: list[str]) -> None:
        """Remember the order of prompts: uids are random, and a run must not depend on them."""
        for uid in uids:
            self.drawn[uid] = len(self.drawn)

    def _select_prompt_uids(self, partition_id: str, sampleable_keys: set[str], batch_size: int) -> Any:
        _, partition, steps = super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)
        ordered = sorted(sampleable_keys, key=lambda uid: (steps.get(uid, 0), self.drawn.get(uid, 0)))
        return ordered[:batch_size], partition, steps

    def _materialize_batch(self, partition_id: str, selected: list[str], partition: dict[str, dict]) -> KVBatchMeta:
        # verl's snapshot is in the order of arrival, and mini-batches are cut from it in that order. Sorted by group,
        # session and output (`{uid}_{session}_{index}`), they do not depend on which rollout was faster.
        place = {uid: i for i, uid in enumerate(selected)}

        def position(key: str) -> tuple[int, ...]:
            uid, *session_and_index = key.split("_")
            return place.get(uid, len(place)), *map(int, session_and_index)

        ordered = {key: partition[key] for key in sorted(partition, key=position)}
        return super()._materialize_batch(partition_id, selected, ordered)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A batch of `batch_size` groups with an accuracy advantage, and metrics (verl: `ReplayBuffer.sample`).

        Raises:
            DynamicSamplingExhausted: if the bound was reached with too few groups (see `when_exhausted`).
        """
        if partition_id == "val":
            batch, metrics = super().sample(global_steps, partition_id, batch_size)
            self.on_validated(batch)
            return batch, metrics
        draw = super().sample if self.filter_groups_metric is None else self._sample_in_rounds
        result = draw(global_steps, partition_id, batch_size)
        self.drawn.clear()  # a synchronous step uses up all that it drew
        return result

    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def _sample_in_rounds(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        assert self.refill_fn is not None
        limit = self.max_num_gen_batches * batch_size if self.max_num_gen_batches > 0 else math.inf
        generated, tally, keep = batch_size, Tally(), set[str]()
        while True:
            self._wait_until_idle(partition_id)
            keep |= self._filter(partition_id, keep, tally)
            missing = batch_size - len(keep)
            if missing <= 0:
                break
            # verl's factor: two prompts for every one that is missing, so that one more round is usually enough.
            refill = int(min(2 * missing, batch_size * self.max_inflight_gen_batches, limit - generated))
            if refill <= 0:
                self._report_exhausted(global_steps, generated, len(keep), batch_size, tally)
                break
            self.refill_fn(refill)
            generated += refill

        selected, partition, _ = self._select_prompt_uids(partition_id, keep, batch_size)
        self._clear_groups(partition_id, keep - set(selected))
        metrics = tally.metrics()
        metrics["cinema/dynamic_sampling/kept_groups"] = float(len(selected))
        metrics["cinema/dynamic_sampling/surplus_groups"] = float(len(keep) - len(selected))
        return self._materialize_batch(partition_id, selected, partition), metrics

    def _wait_until_idle(self, partition_id: str) -> None:
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            if not self.pending_keys[partition_id] and not self.running_keys[partition_id]:
                return
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

    def _filter(self, partition_id: str, keep: set[str], tally: Tally) -> set[str]:
        """Judge the groups that have ended since the last round; clear those that teach nothing, return the others."""
        ended = (self.finished_keys[partition_id] | self.failure_keys[partition_id]) - keep
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in ended]
        acc: dict[str, list[float]] = {uid: [] for uid in ended}
        source: dict[str, str] = {}
        if keys:
            data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields", "data_source"])
            for key, extra, name in zip(keys, list(data["extra_fields"]), list(data["data_source"]), strict=True):
                uid = key.split("_")[0]
                acc[uid].append(self._metric(getattr(extra, "data", extra)))
                source[uid] = str(getattr(name, "data", name))
        kinds = {uid: classify(values) for uid, values in acc.items()}
        for uid, kind in kinds.items():
            tally.add(source.get(uid, "failed"), kind)
        useful = {uid for uid, kind in kinds.items() if kind == MIXED}
        self._clear_groups(partition_id, ended - useful)
        return useful

    def _metric(self, extra_fields: dict[str, Any]) -> float:
        info = extra_fields.get("reward_extra_info", {})
        if self.filter_groups_metric not in info:
            raise KeyError(
                f"algorithm.filter_groups.metric={self.filter_groups_metric} is not among what the reward function "
                f"returned ({sorted(info)}): dynamic sampling judges groups by acc, which "
                f"cinema_verl.reward.compute_score returns"
            )
        return float(info[self.filter_groups_metric])

    def _report_exhausted(self, step: int, generated: int, kept: int, wanted: int, tally: Tally) -> None:
        message = (
            f"step {step}: dynamic sampling generated {generated} groups, the bound "
            f"(algorithm.filter_groups.max_num_gen_batches={self.max_num_gen_batches}), and found {kept} of the "
            f"{wanted} wanted groups with both right and wrong answers:\n{tally.table()}"
        )
        if kept and self.when_exhausted == "continue":
            logger.warning("%s\nTraining goes on with %d groups (cinema.when_exhausted=continue).", message, kept)
            return
        raise DynamicSamplingExhausted(
            f"{message}\nThe run stops here; the last checkpoint is intact. All right: add harder questions. All "
            f"wrong: add easier ones, train a longer cold start, or check the verifier. Fewer than two trajectories: "
            f"rollouts fail, see the workers' log. To go on with what there is: cinema.when_exhausted=continue; to "
            f"search longer: raise algorithm.filter_groups.max_num_gen_batches."
        )
