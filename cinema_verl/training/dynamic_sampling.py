"""DAPO's dynamic sampling with a bound: drop groups without an accuracy advantage, refill, and know when to stop.

Paper: groups whose trajectories are all correct or all incorrect are dropped, judged by R_acc alone and never by the
penalised reward. Whether a step drops any is said by its stage (`cinema_verl.schedule.Stage.filter`).

verl's V1 replay buffer refills such groups without limit (it ignores `algorithm.filter_groups.max_num_gen_batches`), so
a policy that solves every question generates without end; and it picks among surplus groups in the order of random ids.
This buffer works in rounds (generate, wait for all, judge, refill), respects the bound, prefers groups in the order in
which they were drawn, and reports what it saw by data source. In asynchronous training nothing waits for a round
(`cinema_verl.training.async_sampling`).
"""

import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.skip import SkipManager

from cinema_verl.schedule import Stages
from cinema_verl.training.settings import CinemaSettings
from cinema_verl.training.transfer import read_columns

logger = logging.getLogger(__name__)

PREFIX = "cinema/dynamic_sampling"


class DynamicSamplingExhausted(RuntimeError):
    """The bound on generation was reached without enough groups to train on."""


class GroupKind(str, Enum):
    """What the accuracies of a group say, in DAPO's words. Only `MIXED` groups have an accuracy advantage."""

    SOLVE_ALL = "solve_all"  # every trajectory is correct
    SOLVE_NONE = "solve_none"  # none is
    MIXED = "mixed"
    TOO_FEW = "too_few"  # fewer than two trajectories are left, so there is no baseline

    @classmethod
    def of(cls, acc: list[float]) -> "GroupKind":
        """The kind of a group with these accuracies."""
        if len(acc) < 2:
            return cls.TOO_FEW
        if all(a == acc[0] for a in acc):
            return cls.SOLVE_ALL if acc[0] > 0 else cls.SOLVE_NONE
        return cls.MIXED


@dataclass
class Tally:
    """Groups seen in one step: counts by (data source, kind)."""

    counts: Counter[tuple[str, GroupKind]] = field(default_factory=Counter)

    def add(self, source: str, kind: GroupKind) -> None:
        self.counts[source, kind] += 1

    def share(self, kind: GroupKind, source: str | None = None) -> float:
        """Share of the groups (of a source) that are of a kind."""
        total = sum(n for (s, _), n in self.counts.items() if source in (None, s))
        of_kind = sum(n for (s, k), n in self.counts.items() if k == kind and source in (None, s))
        return of_kind / total if total else 0.0

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self.counts})

    def metrics(self) -> dict[str, float]:
        """`cinema/dynamic_sampling/…`: groups generated, and shares by kind, overall and by data source."""
        result = {f"{PREFIX}/generated_groups": float(self.counts.total())}
        result |= {f"{PREFIX}/{kind.value}": self.share(kind) for kind in GroupKind}
        for source in self.sources:
            for kind in (GroupKind.SOLVE_ALL, GroupKind.SOLVE_NONE):
                result[f"{PREFIX}/{kind.value}/{source}"] = self.share(kind, source)
        return result

    def table(self) -> str:
        """One line for each data source, for the message of a run that stops."""
        return "\n".join(
            f"  {source}: {self.share(GroupKind.SOLVE_ALL, source):.0%} all correct, "
            f"{self.share(GroupKind.SOLVE_NONE, source):.0%} all incorrect, "
            f"{self.share(GroupKind.TOO_FEW, source):.0%} with fewer than two trajectories"
            for source in self.sources
        )


def choose_sampler(config: DictConfig, settings: CinemaSettings, buffer: "type[Bounded] | None" = None) -> None:
    """Name a buffer as verl's custom sampler (`trainer.v1.sampler`), where the config names none.

    Args:
        buffer: `BoundedReplayBuffer` unless given.
    """
    buffer = buffer or BoundedReplayBuffer
    sampler, filter_groups = config.trainer.v1.sampler, config.algorithm.filter_groups
    custom = sampler.custom_sampler or {}
    if custom.get("path") and custom.get("name"):
        return
    with open_dict(sampler):
        sampler.custom_sampler = {"path": f"pkg://{buffer.__module__}", "name": buffer.__name__}
        sampler.sampler_kwargs = {
            **sampler.sampler_kwargs,
            "max_num_gen_batches": filter_groups.max_num_gen_batches or 0,
            "when_exhausted": settings.when_exhausted,
            "poll_interval": settings.poll_interval,
            "stages": settings.stages.as_dict(),
            "train_batch_size": config.data.train_batch_size,
            "max_inflight_gen_batches": filter_groups.max_inflight_gen_batches or 1,
            "sync_refill_failed_groups": sampler.sync_refill_failed_groups,
        }


if TYPE_CHECKING:
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer as _Buffer
else:
    _Buffer = object


class Bounded(_Buffer):
    """What verl's two replay buffers get: stages, a bound, the order in which prompts were drawn, and a look at both.

    Args:
        sampler_kwargs: what `choose_sampler` writes: options of verl's buffer and three of this one. `stages` says by
            which metric a step filters (`cinema_verl.schedule.Stages.of`): verl's own filter, which is one for the run,
            stays off. `max_num_gen_batches` is how many times
            `train_batch_size` prompts one step may generate at most, the first batch included; 0 means no bound.
            `when_exhausted` is "continue", to train on the groups there are, or "stop", to end the run; without any
            group the run ends in both cases.
        kwargs: what verl passes to every custom sampler.

    Attributes:
        on_validated: called with each batch of a validation that has been rolled out.
        on_validating: called while it is rolled out, with how many of its questions are answered.
    """

    train_batch_size: int

    def __init__(self, *, sampler_kwargs: Mapping[str, Any], **kwargs: Any):
        options = dict(sampler_kwargs)
        self.max_num_gen_batches: int = options.pop("max_num_gen_batches")
        self.when_exhausted: str = options.pop("when_exhausted")
        self.stages = Stages.of(OmegaConf.to_container(DictConfig(options.pop("stages")), resolve=True))  # type: ignore[arg-type]
        self.on_validated: Callable[[KVBatchMeta], None] = lambda _: None
        self.on_validating: Callable[[int], None] = lambda _: None
        super().__init__(sampler_kwargs=DictConfig({}), gen_batch_size=1, **options, **kwargs)

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        if partition_id == "val":
            self.on_validating(len(self.finished_keys[partition_id]) + len(self.failure_keys[partition_id]))
        return super()._wait_for_next_poll(partition_id, last_debug_time)

    def _in_drawn_order(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Sort by group, session and output (`{uid}_{session}_{index}`).

        verl's order is that of arrival, and mini-batches are cut from it in that order; uids are random. The order of
        the prompts in the transfer queue is that in which they were drawn.
        """
        place = {uid: i for i, uid in enumerate(self.prompt_global_steps[batch.partition_id])}

        def position(row: tuple[str, dict]) -> tuple[int | str, ...]:
            uid, session, index = row[0].split("_")
            return place.get(uid, len(place)), uid, int(session), int(index)

        rows = sorted(zip(batch.keys, batch.tags, strict=True), key=position)
        return replace(batch, keys=[key for key, _ in rows], tags=[tag for _, tag in rows])

    @staticmethod
    def _wanted(metric: str | None) -> set[GroupKind]:
        """Kinds that a step trains on: without a filter, all that have a baseline."""
        return {GroupKind.MIXED} if metric else set(GroupKind) - {GroupKind.TOO_FEW}

    def _judged(self, partition_id: str, uids: set[str], metric: str | None) -> dict[str, tuple[str, GroupKind]]:
        """Source and kind of groups that have ended: the whole group, under whichever weights it was begun."""
        keys = [key for key in self.partitions[partition_id] if key.split("_")[0] in uids]
        acc: defaultdict[str, list[float]] = defaultdict(list)
        source: dict[str, str] = {}
        if keys:
            extras, sources = read_columns(keys, partition_id, "extra_fields", "data_source")
            for key, extra, name in zip(keys, extras, sources, strict=True):
                uid = key.split("_")[0]
                acc[uid].append(_value_of(metric or "acc", extra))
                source[uid] = str(name)
        return {uid: (source.get(uid, "failed"), GroupKind.of(acc[uid])) for uid in uids}

    def _report_exhausted(
        self, step: int, generated: int, kept: int, wanted: int, tally: Tally, *, filtered: bool
    ) -> None:
        kind = "with both correct and incorrect answers" if filtered else "of at least two trajectories"
        message = (
            f"step {step}: dynamic sampling generated {generated} groups, the bound "
            f"(algorithm.filter_groups.max_num_gen_batches={self.max_num_gen_batches}), and found {kept} of the "
            f"{wanted} wanted groups {kind}:\n{tally.table()}"
        )
        if kept and self.when_exhausted == "continue":
            logger.warning("%s\nTraining continues with %d groups (cinema.when_exhausted=continue).", message, kept)
            return
        raise DynamicSamplingExhausted(
            f"{message}\nThe run stops here; the last checkpoint is intact. All correct: add harder questions. All "
            f"incorrect: add easier ones, train a longer cold start, or check the verifier. Fewer than two "
            f"trajectories: rollouts fail, see the workers' log. To continue with the groups there are: "
            f"cinema.when_exhausted=continue; to search longer: raise algorithm.filter_groups.max_num_gen_batches."
        )


class BoundedReplayBuffer(Bounded, ReplayBuffer):
    """verl's synchronous `ReplayBuffer` with bounded dynamic sampling, in rounds; arguments as `Bounded`."""

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A batch of `batch_size` groups, and metrics (verl: `ReplayBuffer.sample`).

        Where the step's stage filters, every group has an accuracy advantage. Elsewhere every group counts that has at
        least two trajectories, or every one (`trainer.v1.sampler.sync_refill_failed_groups=false`).

        Raises:
            DynamicSamplingExhausted: if the bound was reached with too few groups (see `when_exhausted`).
        """
        filtered = self.stages.at(global_steps).filter is not None
        in_rounds = partition_id != "val" and (filtered or self.sync_refill_failed_groups)
        draw = self._sample_in_rounds if in_rounds else super().sample
        batch, metrics = draw(global_steps, partition_id, batch_size)
        batch = self._in_drawn_order(batch)
        if partition_id == "val":
            self.on_validated(batch)
        return batch, metrics

    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def _sample_in_rounds(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        assert self.refill_fn is not None
        metric = self.stages.at(global_steps).filter
        limit = self.max_num_gen_batches * batch_size if self.max_num_gen_batches > 0 else math.inf
        generated, tally, keep = batch_size, Tally(), set[str]()
        while True:
            self._wait_until_idle(partition_id)
            keep |= self._filter(partition_id, keep, tally, metric)
            missing = batch_size - len(keep)
            if missing <= 0:
                break
            # verl's factor: two prompts for every one that is missing, so that one more round is usually enough.
            wanted = 2 * missing if metric else missing
            refill = int(min(wanted, batch_size * self.max_inflight_gen_batches, limit - generated))
            if refill <= 0:
                self._report_exhausted(global_steps, generated, len(keep), batch_size, tally, filtered=bool(metric))
                break
            self.refill_fn(refill)
            generated += refill

        drawn = [uid for uid in self.prompt_global_steps[partition_id] if uid in keep]
        selected, surplus = drawn[:batch_size], drawn[batch_size:]
        self._clear_groups(partition_id, set(surplus))
        metrics = tally.metrics()
        metrics[f"{PREFIX}/kept_groups"] = float(len(selected))
        metrics[f"{PREFIX}/surplus_groups"] = float(len(surplus))
        return self._materialize_batch(partition_id, selected, self.partitions[partition_id]), metrics

    def _wait_until_idle(self, partition_id: str) -> None:
        last_debug_time = time.time()
        while True:
            self._sync_metadata_from_transfer_queue()
            if not self.pending_keys[partition_id] and not self.running_keys[partition_id]:
                return
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)

    def _filter(self, partition_id: str, keep: set[str], tally: Tally, metric: str | None) -> set[str]:
        """Judge the groups that have ended since the last round: clear those to drop, return the others."""
        ended = (self.finished_keys[partition_id] | self.failure_keys[partition_id]) - keep
        judged = self._judged(partition_id, ended, metric)
        for source, kind in judged.values():
            tally.add(source, kind)
        useful = {uid for uid, (_, kind) in judged.items() if kind in self._wanted(metric)}
        self._clear_groups(partition_id, ended - useful)
        return useful


def _value_of(metric: str, extra_fields: dict[str, Any]) -> float:
    info = extra_fields.get("reward_extra_info", {})
    if metric not in info:
        raise KeyError(
            f"{metric}, by which dynamic sampling judges groups, is not among what the reward function returned "
            f"({sorted(info)}): cinema_verl.reward.compute_score returns it, and a reward of your own must, too"
        )
    return float(info[metric])
