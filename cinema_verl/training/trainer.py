"""The `cinema` trainer: verl's synchronous PPO trainer, plus what the paper's reward needs.

It feeds the action patterns and the diversity coefficient of the current step to the `cinema_dps` estimator, bounds
dynamic sampling, wires the repaired workers, logs the `cinema/` metrics, and resumes without losing history. Everything
else is `verl.trainer.ppo.v1.PPOTrainerSync`.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import ray
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.tracking import Tracking

import cinema_verl.utils.resolvers  # noqa: F401  the recipes' paths are resolved in this process
from cinema_verl.data.check import check_tokenizer
from cinema_verl.data.dataset import CinemaDataset
from cinema_verl.evaluate.files import evaluate_dump, settings_of
from cinema_verl.evaluate.questions import ask_again, check_files, check_questions, with_failures
from cinema_verl.evaluate.summary import dependence_metrics, mean_metrics
from cinema_verl.evaluate.tables import beside_the_paper
from cinema_verl.evaluate.unfinished import Unfinished, asked_of
from cinema_verl.meta_action import pattern_in_mode
from cinema_verl.runs.conditions import TRUE, split_source
from cinema_verl.training import advantage
from cinema_verl.training.checkpoint import mend_tracker
from cinema_verl.training.dynamic_sampling import BoundedReplayBuffer
from cinema_verl.training.metrics import AppendingFileLogger, batch_metrics
from cinema_verl.training.settings import CinemaSettings
from cinema_verl.training.worker import CinemaActorRolloutRefWorker

logger = logging.getLogger(__name__)

NAME = "cinema"


@register_trainer(NAME)
class CinemaTrainer(PPOTrainerSync):
    """PPO with the diversity-preserving strategy and annealed DAPO.

    Args:
        config: verl's whole config with the `cinema` section that the recipes add (`cinema_verl.training.settings`).

    Raises:
        ValueError: for settings that cannot train what they say, before anything is started.
    """

    # verl's base class asks in six places whether its mode is "sync", which this trainer is under another name.
    trainer_mode = property(lambda self: "sync", lambda self, value: None)

    def __init__(self, config: DictConfig):
        self.settings = CinemaSettings.from_config(config)
        self.schedule = self.settings.schedule
        self._unfinished: Unfinished | None = None
        self._scored: dict[str, dict[str, Any]] = {}  # key of a rollout of this step -> how it was scored
        if config.trainer.total_training_steps is None:
            with open_dict(config):
                config.trainer.total_training_steps = self.schedule.total_steps
        elif config.trainer.total_training_steps != self.schedule.total_steps:
            logger.warning(
                "trainer.total_training_steps=%s, but the schedule has %d + %d steps: the run ends at coefficient %g",
                config.trainer.total_training_steps,
                self.schedule.exploration_steps,
                self.schedule.annealing_steps,
                self.schedule(config.trainer.total_training_steps),
            )
        super().__init__(config)

    # ---- construction -------------------------------------------------------------------------------------------

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        check_tokenizer(self.tokenizer)

    def _init_dataloader(self) -> None:
        evaluating = bool(self.config.trainer.val_only)
        if evaluating:
            files = self.config.data.val_files
            check_files([files] if isinstance(files, str) else list(files))
        super()._init_dataloader()
        if not (evaluating or self.steps_per_epoch):
            raise ValueError(
                f"{len(self.train_dataset)} training rows, fewer than data.train_batch_size="
                f"{self.config.data.train_batch_size}: verl counts no step in an epoch, and divides by it later. "
                "Lower data.train_batch_size"
            )
        # Answers are put together by the question's name wherever it is asked again, and wherever it is evaluated.
        self._by_name = evaluating or bool(self.settings.image_conditions)
        if not self._by_name:
            return
        if not isinstance(self.val_dataset, CinemaDataset):
            raise ValueError(
                f"cinema.image_conditions and trainer.val_only need data.custom_cls to be CinemaDataset or a subclass, "
                f"got {type(self.val_dataset).__name__}: take the recipe's, or set cinema.image_conditions=[] and train"
            )
        sources = self.settings.other_sources if evaluating else None
        check_questions(self.val_dataset.rows(), sources, self.val_dataset.locate())
        # verl has made its loader already: it serves what the data set has by then, in batches of val_batch_size or of
        # as many as there were before.
        ask_again(self.val_dataset, self.settings.image_conditions, self.settings.image_sample)
        if evaluating and self.config.trainer.validation_data_dir:
            self._unfinished = Unfinished(Path(self.config.trainer.validation_data_dir), asked_of(self.config))
            self.val_dataset.answers = self._unfinished.answers
            if answers := len(self._unfinished):
                print(f"going on with an evaluation that did not end: {answers} answers in {self._unfinished.path}")

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in (Role.Actor, Role.ActorRollout, Role.ActorRolloutRef, Role.RefPolicy):
            if role in self.role_worker_mapping:
                self.role_worker_mapping[role] = ray.remote(CinemaActorRolloutRefWorker)

    def _build_replay_buffer(self) -> Any:
        custom = self.config.trainer.v1.sampler.get("custom_sampler") or {}
        if custom.get("path") and custom.get("name"):
            return super()._build_replay_buffer()
        sampler = self.config.trainer.v1.sampler
        filter_groups = self.config.algorithm.filter_groups
        return BoundedReplayBuffer(
            trainer_mode=self.trainer_mode,
            trainer_config=self.config.trainer.v1.get(NAME, {}),
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs=sampler.sampler_kwargs,
            poll_interval=self.settings.poll_interval,
            refill_fn=self._add_prompts_to_generate,
            filter_groups_metric=filter_groups.metric if filter_groups.enable else None,
            train_batch_size=self.config.data.train_batch_size,
            gen_batch_size=1,
            max_inflight_gen_batches=filter_groups.max_inflight_gen_batches,
            sync_refill_failed_groups=sampler.sync_refill_failed_groups,
            max_num_gen_batches=filter_groups.max_num_gen_batches,
            when_exhausted=self.settings.when_exhausted,
            on_validated=self._keep_answers,
        )

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        if isinstance(self.replay_buffer, BoundedReplayBuffer):
            self.replay_buffer.note_drawn([str(uid) for uid in batch["uid"]])
        return super()._submit_batch_to_rollout(batch)

    # ---- resuming -----------------------------------------------------------------------------------------------

    def _load_checkpoint(self) -> None:
        if self.config.trainer.resume_mode == "auto":
            mend_tracker(Path(self.config.trainer.default_local_dir).absolute())
        super()._load_checkpoint()
        self._resumed_step = self.global_steps

    def fit(self, agent_loop_manager: Any) -> None:
        backends = self.config.trainer.logger
        backends = [backends] if isinstance(backends, str) else list(backends)
        self._logs_to_file = "file" in backends
        with open_dict(self.config):  # verl's file logger would erase the history: ours takes its place
            self.config.trainer.logger = [backend for backend in backends if backend != "file"]
        super().fit(agent_loop_manager)
        if self.config.trainer.val_only and self.config.trainer.validation_data_dir:
            self._write_evaluation(Path(self.config.trainer.validation_data_dir) / f"{self.global_steps}.jsonl")

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self._open_file_logger()

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._open_file_logger()

    def _open_file_logger(self) -> None:
        tracking: Tracking = self.logger
        if self._logs_to_file and "file" not in tracking.logger:
            path = AppendingFileLogger.log_path(self.config.trainer.project_name, self.config.trainer.experiment_name)
            tracking.logger["file"] = AppendingFileLogger(path, resume_step=self._resumed_step)

    # ---- validating ---------------------------------------------------------------------------------------------

    def _maybe_log_val_generations(self, **samples: list[Any]) -> None:
        self._samples = samples  # verl logs them before it is known which are over the true images

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: list[int],
        expected_acc_counts: dict[tuple[str, str], int] | None = None,
    ) -> dict[str, float]:
        """verl's metrics of the questions as they are, and what those over other images say beside them.

        An evaluation takes the plain means: verl draws 1,000 samples for each question, metric and power of two below
        the number of rollouts, which takes hours for what the evaluation's files have exactly.
        """
        true = [i for i, source in enumerate(data_sources) if split_source(source)[1] == TRUE]

        def of_true(column: list[Any]) -> list[Any]:
            return [column[i] for i in true]

        super()._maybe_log_val_generations(**{name: of_true(column) for name, column in self._samples.items()})
        counts = expected_acc_counts or {}
        metrics: dict[str, float]
        if self.config.trainer.val_only:
            metrics = mean_metrics(data_sources, reward_extra_infos_dict, counts)
        else:
            metrics = super()._val_metrics_update(
                of_true(data_sources),
                of_true(sample_uids),
                {name: of_true(column) for name, column in reward_extra_infos_dict.items()},
                of_true(sample_turns),
                expected_acc_counts={key: n for key, n in counts.items() if split_source(key[0])[1] == TRUE},
            )
        if self.settings.image_conditions:
            rollouts = self.config.actor_rollout_ref.rollout.val_kwargs.n
            found, warnings = dependence_metrics(data_sources, sample_uids, reward_extra_infos_dict, rollouts)
            metrics |= found
            for warning in warnings:
                logger.warning("step %d: %s", self.global_steps, warning)
        return metrics

    def _keep_answers(self, batch: KVBatchMeta) -> None:
        """Of an evaluation, so that a kill costs the batches that were under way."""
        if self._unfinished is None or not batch.keys:
            return
        fields = ["responses", "response_mask", "data_source", "extra_info", "extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        columns = [[getattr(value, "data", value) for value in data[name]] for name in fields]
        self._unfinished.add(
            (
                (str(info["uid"]), str(source)),
                int(key.rsplit("_", 2)[1]),
                (response[mask.bool()].numpy(), extra.get("stop_reason", "unknown")),
            )
            for key, response, mask, source, info, extra in zip(batch.keys, *columns, strict=True)
        )

    def _write_evaluation(self, dump: Path) -> None:
        summary = evaluate_dump(dump, settings_of(self.config, self.global_steps))
        if self._unfinished is not None:
            self._unfinished.remove()
        print(beside_the_paper([("this run", summary)]).to_markdown())
        print(f"evaluation written: {dump.with_suffix('.evaluation.json')}, .md, .html")

    # ---- the paper's reward -------------------------------------------------------------------------------------

    def _coefficient(self) -> float:
        """The diversity coefficient of this step; 0 for estimators that know no diversity (ablations with GRPO)."""
        uses_diversity = self.config.algorithm.adv_estimator == advantage.NAME
        return self.schedule(self.global_steps) if uses_diversity else 0.0

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        fields = ["uid", "extra_fields", "data_source"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
        padding = np.array([bool(tag.get("is_padding", False)) for tag in batch.tags])
        extras = [getattr(extra, "data", extra) for extra in data["extra_fields"]]
        infos = [extra["reward_extra_info"] for extra in extras]
        patterns = [pattern_in_mode(info["pattern"], self.settings.pattern_mode) for info in infos]
        groups = [str(getattr(uid, "data", uid)) for uid in data["uid"]]

        feed = advantage.GroupFeed(
            acc=[float(info["acc"]) for info in infos],
            patterns=patterns,
            coefficient=self._coefficient(),
            padding=padding,
        )
        real = np.flatnonzero(~padding)
        sources = [str(getattr(source, "data", source)) for source in data["data_source"]]
        self._scored = {
            batch.keys[i]: {name: value for name, value in infos[i].items() if name != "score"}  # verl's is shaped
            | {
                "data_source": sources[i],
                "stop_reason": extras[i].get("stop_reason", "unknown"),
                "response_tokens": batch.tags[i].get("response_len"),
                "diversity_coefficient": feed.coefficient,
            }
            for i in real
        }

        with advantage.feed(feed):
            batch = super()._compute_advantage(batch, metrics)

        metrics |= batch_metrics(
            [infos[i] for i in real],
            [patterns[i] for i in real],
            [groups[i] for i in real],
            [extras[i].get("stop_reason", "unknown") for i in real],
        )
        metrics["cinema/diversity_coefficient"] = feed.coefficient
        metrics["cinema/stage"] = float(self.schedule.stage(self.global_steps))
        metrics |= {f"cinema/{name}": value for name, value in feed.metrics.items()}
        return batch

    def _dump_generations(self, **dump: Any) -> None:
        """`trainer.rollout_data_dir` with how each rollout was scored, which verl writes for validations only.

        The fields are those of `cinema_verl.reward.compute_score`, and those added above; null on verl's padding. A
        validation's dump has the rollouts that failed besides.
        """
        if dump["dump_path"] == self.config.trainer.validation_data_dir and self._by_name:
            n = self.config.actor_rollout_ref.rollout.val_kwargs.n
            return super()._dump_generations(**with_failures(dump, self.val_dataset.rows(), n))
        scored = [self._scored.get(key, {}) for key in dump["reward_extra_infos_dict"]["uid"]]
        names = dict.fromkeys(name for one in scored for name in one)
        columns = {name: [one.get(name) for one in scored] for name in names}
        super()._dump_generations(**{**dump, "reward_extra_infos_dict": columns | dump["reward_extra_infos_dict"]})
