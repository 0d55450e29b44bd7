"""The `cinema` trainers: verl's PPO trainers, plus what the paper's reward needs.

`CinemaTrainer` supplies the action patterns and the diversity coefficient of the current step to the group estimator,
bounds dynamic sampling, installs the repaired workers, logs the `cinema/` metrics, and resumes without losing history.
Everything else is verl's trainer of the mode: see the classes at the end. docs/architecture.md lists every method of
verl that is overridden, and why.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import ray
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, register_trainer
from verl.utils.tracking import Tracking

import cinema_verl.utils.resolvers  # noqa: F401  the recipes' paths are resolved in this process
from cinema_verl.data.check import check_tokenizer
from cinema_verl.meta_action import pattern_in_mode
from cinema_verl.runs.metrics import records
from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.schedule import Stages
from cinema_verl.training import advantage, dynamic_sampling, log_probs
from cinema_verl.training.arithmetic import too_small
from cinema_verl.training.async_sampling import BoundedReplayBufferAsync, clear_what_was_trained
from cinema_verl.training.checkpoint import (
    QUEUE,
    Place,
    branch,
    keeps,
    mend_tracker,
    progress_of,
    retire,
    rotation,
    run_of,
    run_that_resumes,
    step_folder,
)
from cinema_verl.training.continuing import ContinuingClient
from cinema_verl.training.file_logger import AppendingFileLogger
from cinema_verl.training.history import is_due, logged, numbers
from cinema_verl.training.metrics import StepMetrics
from cinema_verl.training.refusal import Facts, Refusal
from cinema_verl.training.run_folder import metrics_path
from cinema_verl.training.same_version import refuse_another_version
from cinema_verl.training.settings import CinemaSettings
from cinema_verl.training.stage_watch import StageWatch
from cinema_verl.training.stop_signal import StopRequest
from cinema_verl.training.trackers import log_groups
from cinema_verl.training.transfer import read_columns
from cinema_verl.training.validation import Validations
from cinema_verl.training.verdict import refusals
from cinema_verl.training.worker import CinemaActorRolloutRefWorker, CinemaDetachActorWorker

if TYPE_CHECKING:
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer as _Trainer
else:
    _Trainer = object

logger = logging.getLogger(__name__)


class CinemaTrainer(_Trainer):
    """PPO in stages, the diversity-preserving strategy and then annealed DAPO, in front of any of verl's trainers.

    Args:
        config: verl's whole config with the `cinema` section that the recipes add (`cinema_verl.training.settings`).

    Raises:
        ValueError: for settings that cannot train what they say, before anything is started.
    """

    mode: ClassVar[str]
    """verl's name of what the trainer does: its configuration is `trainer.v1.<mode>`."""
    buffer: ClassVar[type[dynamic_sampling.Bounded]] = BoundedReplayBufferAsync
    worker: ClassVar[type[CinemaActorRolloutRefWorker]] = CinemaActorRolloutRefWorker

    total_training_steps: int
    # verl's base class asks in many places for its mode, which this trainer has under another name.
    trainer_mode = property(lambda self: self.mode, lambda self, value: None)

    def __init__(self, config: DictConfig):
        refuse_another_version()
        _refuse(refusals(config, Facts()))  # asked in the driver already, if the configuration came by a recipe
        self.settings = CinemaSettings.from_config(config)
        self.stages = self.settings.stages
        self.validations = Validations(config, self.settings)
        self.estimator = advantage.group_estimator(config.algorithm.adv_estimator)
        share = f"cinema/{self.estimator.scheme.term}_advantage_share" if self.estimator else None
        self.watch = StageWatch(self.stages, share)
        self._scored: dict[str, dict[str, Any]] = {}  # key of a rollout of this step -> how it was scored
        self._trained = StepMetrics()  # of this step, whose batch may be trained in several parts
        self._resumed_step, self._resumed_from = 0, Path()
        self._metrics: dict[str, Any] = {}  # of this step, as far as it is
        self._stop = StopRequest(Path(config.trainer.default_local_dir).absolute())
        self._saved_step, self._stopped_after = -1, -1
        self._place = Place(Path(config.trainer.default_local_dir).absolute())
        self._run = ""  # the run that this one goes on from, or its own name
        self._logs_to_file = _take_file_backend(config)
        self._own = {name: config.actor_rollout_ref.rollout[name] for name in ("n", "temperature")}
        _set_total_steps(config, self.stages)
        dynamic_sampling.choose_sampler(config, self.settings, self.buffer)
        super().__init__(config)
        if isinstance(self.replay_buffer, dynamic_sampling.Bounded):
            self.replay_buffer.on_validated = self.validations.keep_answers
            self.replay_buffer.on_validating = self.validations.look

    # ---- starting and resuming ----------------------------------------------------------------------------------

    @property
    def _checkpoints(self) -> tuple[Path, Sequence[str]]:
        """The run's folder, and what a checkpoint in it must hold for a run to go on from it."""
        contents = self.config.actor_rollout_ref.actor.checkpoint.load_contents
        return Path(self.config.trainer.default_local_dir).absolute(), contents

    def init(self) -> None:
        trainer = self.config.trainer
        if trainer.resume_mode == "auto":
            mend_tracker(*self._checkpoints)
        elif trainer.resume_mode == "resume_path":
            checkpoint, self._run = branch(Path(trainer.resume_from_path).absolute(), *self._checkpoints)
            trainer.resume_from_path = str(checkpoint)
        super().init()

    def _init_dataloader(self) -> None:
        check_tokenizer(self.tokenizer)
        self.validations.check_files()
        super()._init_dataloader()
        if not (self.validations.evaluating or self.steps_per_epoch):
            raise ValueError(
                f"{len(self.train_dataset)} training rows, fewer than data.train_batch_size="
                f"{self.config.data.train_batch_size}: verl counts no step in an epoch, and divides by it later. "
                "Lower data.train_batch_size"
            )
        self.validations.prepare(self.val_dataset)

    def _init_resource_pool_mgr(self) -> None:
        _refuse(too_small(self.config, ray.cluster_resources()))
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef, Role.RefPolicy):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(self.worker)

    def on_init_end(self) -> None:
        super().on_init_end()
        trainer = self.config.trainer
        self._resumed_step = self.global_steps
        from_path = trainer.resume_mode == "resume_path"
        folder, contents = self._checkpoints
        resumed = Path(trainer.resume_from_path) if from_path else step_folder(folder, self.global_steps)
        self._run = self._run or run_that_resumes(resumed if self.global_steps else None, from_path=False)
        self._resumed_from = resumed
        if self.global_steps and not self.validations.evaluating:  # a kill may have left more than are kept
            retire(folder, self._run, self.global_steps, keeps(trainer.max_actor_ckpt_to_keep), contents)
        if self._goes_on and not self.validations.evaluating:
            due = is_due(trainer.test_freq, self.global_steps, self.total_training_steps)
            path = metrics_path(trainer.default_local_dir)
            trainer.val_before_train = due and not logged(path, self.global_steps).validated
        if self.global_steps and self.mode != "sync":
            clear_what_was_trained()
        elif self.global_steps and (resumed / QUEUE).exists():
            logger.warning("%s was written in an asynchronous mode: what it had begun is not asked again", resumed)

    def _save_checkpoint(self) -> None:
        trainer, keep = self.config.trainer, self.config.trainer.max_actor_ckpt_to_keep
        trainer.max_actor_ckpt_to_keep = None  # verl counts in memory, and deletes before the new one is whole
        last = QUEUE if self.mode != "sync" else None
        folder, contents = self._checkpoints
        self._place.check()
        metrics = numbers(self._metrics)
        with rotation(folder, self._run, self.global_steps, keep, contents, last=last, metrics=metrics):
            super()._save_checkpoint()
        trainer.max_actor_ckpt_to_keep = keep
        self._saved_step = self.global_steps

    def fit(self, agent_loop_manager: Any) -> None:
        super().fit(agent_loop_manager)
        self.validations.write(self.global_steps)
        if self._stopped_after >= 0:
            self._stop.answer(self._stopped_after)

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._open_file_logger()
        self.validations.begin(self.global_steps, len(self.val_dataset))

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._open_file_logger()
        if self._logs_to_file and self._resumed_step:
            for step, metrics in records(metrics_path(self.config.trainer.default_local_dir)):
                if 0 < step <= self._resumed_step:
                    self.watch.look(step, metrics)  # said when it happened
        self._end_if_asked(after=self.global_steps - 1)

    # ---- stopping -----------------------------------------------------------------------------------------------

    def on_step_end(self) -> None:
        if self._end_if_asked(after=self.global_steps) and self._saved_step != self.global_steps:
            self._save_checkpoint()  # where verl saves: the rollout engine has not taken its memory back yet
        super().on_step_end()

    def on_validate_end(self) -> None:
        super().on_validate_end()
        self.validations.end()
        if self._saved_step == self.global_steps:
            self._end_if_asked(after=self.global_steps)

    def _end_if_asked(self, after: int) -> bool:
        """Make a step the last one if the run was asked to end; what verl has begun for it, it does to the end."""
        if not self._stop.asked or after >= self.total_training_steps:
            return False
        self.total_training_steps = self._stopped_after = after
        return True

    def _open_file_logger(self) -> None:
        tracking: Tracking = self.logger
        if self._logs_to_file and "file" not in tracking.logger:
            path = metrics_path(self.config.trainer.default_local_dir)
            tracking.logger["file"] = AppendingFileLogger(path, resume_step=self._resumed_step)
            saved = progress_of(self._resumed_from).get("metrics") if self._goes_on else None
            if saved and not logged(path, self._resumed_step).trained:
                tracking.log(data=saved, step=self._resumed_step)

    @property
    def _goes_on(self) -> bool:
        """Whether the run's history has the steps before this start: it goes on with itself, and is no branch."""
        same = self._resumed_step > 0 and run_of(self._resumed_from) == self._run
        return same and self._logs_to_file

    # ---- validating ---------------------------------------------------------------------------------------------

    def _maybe_log_val_generations(self, **samples: list[Any]) -> None:
        self.validations.keep_samples(samples)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        if groups := self.validations.shown(data_sources, sample_uids, reward_extra_infos_dict):
            log_groups(groups, self.logger, self.validation_generations_logger, self.global_steps)
        return self.validations.metrics(
            super()._val_metrics_update,
            self.global_steps,
            data_sources,
            sample_uids,
            reward_extra_infos_dict,
            sample_turns,
            expected_acc_counts or {},
        )

    # ---- the paper's reward -------------------------------------------------------------------------------------

    def on_step_begin(self) -> None:
        super().on_step_begin()
        stage, rollout = self.stages.at(self.global_steps), self.config.actor_rollout_ref.rollout
        # verl reads both anew for every batch; `SharingAgentLoopManager`, which has this configuration, passes them on.
        rollout.n = self._own["n"] if stage.n is None else stage.n
        rollout.temperature = self._own["temperature"] if stage.temperature is None else stage.temperature

    def _coefficient(self) -> float:
        """The diversity coefficient of this step; 0 for estimators that are not group estimators (GRPO ablations)."""
        return self.stages.coefficient(self.global_steps) if self.estimator is not None else 0.0

    def step(self, metrics: dict, timing_raw: dict) -> KVBatchMeta:
        """verl's step; its metrics are of the whole of it, where verl would combine those of its parts by their names.

        To verl, "min", "max" and "sum" in a name say how (`MetricsAggregator`), in a data source's name, too.
        """
        self._scored, self._trained, self._metrics = {}, StepMetrics(), metrics
        with log_probs.checked(self.config, self.global_steps, first=self._resumed_step + 1):
            batch = super().step(metrics, timing_raw)
        log_probs.check_gap(metrics, self.global_steps, self.config)
        metrics |= self._step_metrics()
        if "actor/lr" in metrics:  # verl's scheduler knows nothing of the stage
            metrics["actor/lr"] *= self.stages.at(self.global_steps).lr_factor
        if "actor/entropy_loss" in metrics:  # measured in the update, where `log_probs` spares the pass before it
            metrics.setdefault("actor/entropy", metrics["actor/entropy_loss"])
        if isinstance(self.replay_buffer, BoundedReplayBufferAsync):
            metrics |= self.replay_buffer.step_metrics()
        for warning in self.watch.look(self.global_steps, metrics):
            logger.warning(warning)
        return batch

    def _step_metrics(self) -> dict[str, float]:
        metrics = self._trained.metrics()
        metrics["cinema/diversity_coefficient"] = self._coefficient()
        metrics["cinema/stage"] = float(self.stages.number(self.global_steps))
        return metrics

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        uids, extras, sources = read_columns(batch.keys, batch.partition_id, "uid", "extra_fields", "data_source")
        infos = [_scored(extra) for extra in extras]
        reasons = [extra.get("stop_reason", StopReason.UNKNOWN.value) for extra in extras]
        feed = advantage.GroupFeed(
            acc=[float(info["acc"]) for info in infos],
            patterns=[pattern_in_mode(info["pattern"], self.settings.pattern_mode) for info in infos],
            coefficient=self._coefficient(),
            padding=np.array([bool(tag.get("is_padding", False)) for tag in batch.tags]),
            guard=self.settings.term_guard,
        )
        real = np.flatnonzero(~feed.padding).tolist()
        self._scored |= {
            batch.keys[i]: {name: value for name, value in infos[i].items() if name != "score"}  # verl's is shaped
            | {
                "data_source": str(sources[i]),
                "stop_reason": reasons[i],
                "response_tokens": batch.tags[i].get("response_len"),
                "diversity_coefficient": feed.coefficient,
            }
            for i in real
        }

        with advantage.feed(feed):
            batch = super()._compute_advantage(batch, metrics)

        self._trained.add(
            [infos[i] for i in real],
            [feed.patterns[i] for i in real],
            [str(uids[i]) for i in real],
            [reasons[i] for i in real],
            feed.metrics,
        )
        stage = self.stages.at(self.global_steps)
        batch.extra_info |= {"clip_ratio_high": stage.clip_ratio_high, "lr_factor": stage.lr_factor}
        return batch

    def _dump_generations(self, **dump: Any) -> None:
        """`trainer.rollout_data_dir` with how each rollout was scored, which verl writes for validations only.

        The fields are those of `cinema_verl.reward.compute_score`, and those added above; null on verl's padding. A
        validation's dump also has the rollouts that failed.
        """
        if dump["dump_path"] == self.config.trainer.validation_data_dir:
            return super()._dump_generations(**self.validations.dumped(dump))
        scored = [self._scored.get(key, {}) for key in dump["reward_extra_infos_dict"]["uid"]]
        names = dict.fromkeys(name for one in scored for name in one)
        columns = {name: [one.get(name) for one in scored] for name in names}
        super()._dump_generations(**{**dump, "reward_extra_infos_dict": columns | dump["reward_extra_infos_dict"]})


@register_trainer("cinema")
class CinemaSync(CinemaTrainer, PPOTrainerSync):
    """Generate, then train: every trajectory is of the weights that it trains."""

    mode = "sync"
    buffer = dynamic_sampling.BoundedReplayBuffer


@register_trainer("cinema_colocate_async")
class CinemaColocateAsync(CinemaTrainer, PPOTrainerColocateAsync):
    """Generation is interrupted while the same GPUs train, and goes on under the new weights."""

    mode = "colocate_async"

    def get_llm_client(self) -> ContinuingClient:
        return self.llm_server_manager.get_client(client_cls=ContinuingClient)


@register_trainer("cinema_separate_async")
class CinemaSeparateAsync(CinemaTrainer, PPOTrainerSeparateAsync):
    """GPUs of their own generate without end, and get new weights after every few updates."""

    mode = "separate_async"
    worker = CinemaDetachActorWorker

    def get_llm_client(self) -> ContinuingClient:
        return self.standalone_server_manager.get_client(client_cls=ContinuingClient)


def _refuse(found: Iterable[Refusal]) -> None:
    if reasons := "\n".join(map(str, found)):
        raise ValueError(f"this run would not train what its configuration says\n{reasons}")


def _scored(extra: dict[str, Any]) -> dict[str, Any]:
    """What the reward function returned for a trajectory.

    Raises:
        KeyError: if that lacks what every estimator and metric of a group reads.
    """
    info: dict[str, Any] = extra.get("reward_extra_info", {})
    if missing := [name for name in ("acc", "format", "pattern") if name not in info]:
        raise KeyError(
            f"the reward function returned {sorted(info)} and lacks {', '.join(missing)}: "
            "cinema_verl.reward.compute_score returns them, and a reward of your own must, too"
        )
    return info


def _take_file_backend(config: DictConfig) -> bool:
    """Remove "file" from `trainer.logger`: verl's file logger erases the history, and ours takes its place."""
    backends = config.trainer.logger
    backends = [backends] if isinstance(backends, str) else list(backends)
    with open_dict(config):
        config.trainer.logger = [backend for backend in backends if backend != "file"]
    return "file" in backends


def _set_total_steps(config: DictConfig, stages: Stages) -> None:
    """`trainer.total_training_steps` is the stages' length unless it is set; a longer run is warned of.

    A shorter one is refused (`cinema_verl.training.verdict`).
    """
    steps = config.trainer.total_training_steps
    if steps is None:
        with open_dict(config):
            config.trainer.total_training_steps = stages.total_steps
    elif steps > stages.total_steps:
        logger.warning(
            "trainer.total_training_steps=%s, but the stages have %d steps: the rest trains as stage %s, at "
            "coefficient %g",
            steps,
            stages.total_steps,
            stages.at(steps).name,
            stages.coefficient(steps),
        )
