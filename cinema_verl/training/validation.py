"""What validations do beyond verl's: more questions, their metrics, and an evaluation's files.

A validation during training may ask a sample of its questions again over other images (`cinema.image_conditions`). An
evaluation (`trainer.val_only`) besides refuses files that it could not count, keeps its answers as they come, so that a
killed one continues where it was, and writes its results when it ends.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from cinema_verl.data.dataset import CinemaDataset
from cinema_verl.evaluate.files import evaluate_dump, settings_of
from cinema_verl.evaluate.questions import ask_again, check_files, check_questions, with_failures
from cinema_verl.evaluate.summary import dependence_metrics, mean_metrics
from cinema_verl.evaluate.tables import beside_the_paper
from cinema_verl.evaluate.unfinished import Unfinished, asked_of
from cinema_verl.runs.conditions import TRUE, split_source
from cinema_verl.runs.stop_reason import StopReason
from cinema_verl.training.progress import Progress
from cinema_verl.training.settings import CinemaSettings
from cinema_verl.training.trackers import ShownGroup, shown_groups
from cinema_verl.training.transfer import read_columns

logger = logging.getLogger(__name__)

Columns = Mapping[str, Sequence[Any]]


class Validations:
    """The validations of one run.

    Args:
        config: verl's whole config.
        settings: its `cinema` section.

    Attributes:
        evaluating: whether the run is an evaluation and trains nothing.
    """

    def __init__(self, config: DictConfig, settings: CinemaSettings):
        self.evaluating = bool(config.trainer.val_only)
        self._config, self._settings = config, settings
        self._data_set: CinemaDataset | None = None  # where answers are counted by the question's uid
        self._unfinished: Unfinished | None = None
        self._shown_from: Any = None  # where the trackers' questions are
        self._samples: Columns = {}
        self._progress: Progress | None = None

    @property
    def _folder(self) -> Path | None:
        folder = self._config.trainer.validation_data_dir
        return Path(folder) if folder else None

    # ---- before it ----------------------------------------------------------------------------------------------

    def check_files(self) -> None:
        """Make sure that verl can read the files of an evaluation.

        Raises:
            DataError: naming the file and what is wrong with it.
        """
        if self.evaluating:
            files = self._config.data.val_files
            check_files([files] if isinstance(files, str) else list(files))

    def prepare(self, data_set: Any) -> None:
        """Check the questions, add those over other images, and take up an evaluation that did not end.

        verl has made its data loader already: it serves what the data set has by then, in batches of `val_batch_size`
        or of as many as there were before.

        Raises:
            ValueError: if questions shall be told apart by their uids and the data set is not a `CinemaDataset`.
            DataError: if they cannot, or the unfinished evaluation asked something else.
        """
        self._shown_from = data_set
        if not (self.evaluating or self._settings.image_conditions):
            return
        if not isinstance(data_set, CinemaDataset):
            raise ValueError(
                f"cinema.image_conditions and trainer.val_only need data.custom_cls to be CinemaDataset or a subclass, "
                f"got {type(data_set).__name__}: use the recipe's, or set cinema.image_conditions=[] and train"
            )
        self._data_set = data_set
        sources = self._settings.other_sources if self.evaluating else None
        check_questions(data_set.rows(), sources, data_set.locate())
        ask_again(data_set, self._settings.image_conditions, self._settings.image_sample)
        if self.evaluating and self._folder:
            self._unfinished = Unfinished(self._folder, asked_of(self._config))
            data_set.answers = self._unfinished.answers
            if answers := len(self._unfinished):
                print(f"continuing an evaluation that did not end: {answers} answers in {self._unfinished.path}")

    # ---- while it runs ------------------------------------------------------------------------------------------

    def begin(self, step: int, questions: int) -> None:
        """Say that a validation has begun."""
        self._progress = Progress(step, questions, self._config.actor_rollout_ref.rollout.val_kwargs.n)

    def look(self, answered: int) -> None:
        """Say now and then how far it is."""
        if self._progress is not None:
            self._progress.look(answered)

    def end(self) -> None:
        """Say that it has ended."""
        if self._progress is not None:
            self._progress.end()

    def keep_answers(self, batch: KVBatchMeta) -> None:
        """Store the answers of an evaluation's batch, so that a kill costs only the batches in progress."""
        if self._progress is not None:
            self._progress.batch_ended(len({key.rsplit("_", 2)[0] for key in batch.keys}))
        if self._unfinished is None or not batch.keys:
            return
        names = ("responses", "response_mask", "data_source", "extra_info", "extra_fields")
        columns = read_columns(batch.keys, batch.partition_id, *names)
        self._unfinished.add(
            (
                (str(info["uid"]), str(source)),
                int(key.rsplit("_", 2)[1]),
                (response[mask.bool()].numpy(), extra.get("stop_reason", StopReason.UNKNOWN.value)),
            )
            for key, response, mask, source, info, extra in zip(batch.keys, *columns, strict=True)
        )

    def keep_samples(self, samples: Columns) -> None:
        """Hold verl's samples for its table of generations until `metrics` knows under which images they are."""
        self._samples = samples

    def shown(self, data_sources: Sequence[str], uids: Sequence[str], infos: Columns) -> list[ShownGroup]:
        """The groups for the trackers, over their true images: `trainer.log_val_generations` questions."""
        if not (count := self._config.trainer.log_val_generations):
            return []
        true = _true(data_sources)
        columns = _at(true, {"source": data_sources, "uid": uids})
        rows = self._shown_from.rows() if isinstance(self._shown_from, CinemaDataset) else ()
        return shown_groups(columns["source"], columns["uid"], _at(true, self._samples), _at(true, infos), rows, count)

    def dumped(self, dump: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of verl's `_dump_generations` for a validation, with the rollouts that failed."""
        if self._data_set is None:
            return dump
        return with_failures(dump, self._data_set.rows(), self._config.actor_rollout_ref.rollout.val_kwargs.n)

    # ---- after it -----------------------------------------------------------------------------------------------

    def metrics(
        self,
        verls: Callable[..., dict[str, float]],
        step: int,
        data_sources: list[str],
        sample_uids: list[str],
        infos: Mapping[str, list[Any]],
        sample_turns: list[int],
        expected: Mapping[tuple[str, str], int],
    ) -> dict[str, float]:
        """verl's metrics of the questions over their true images, and what those over other images show.

        An evaluation takes the plain means: verl draws 1,000 samples for each question, metric and power of two below
        the number of rollouts, which takes hours, and the evaluation's files have exact intervals.

        Args:
            verls: verl's `_val_metrics_update`, whose arguments the others but `step` are.
        """
        metrics: dict[str, float]
        if self.evaluating:
            metrics = mean_metrics(data_sources, infos, expected)
        else:
            true = _true(data_sources)
            samples = _at(true, {"source": data_sources, "uid": sample_uids, "turns": sample_turns})
            counts = {key: n for key, n in expected.items() if split_source(key[0])[1] == TRUE}
            metrics = verls(
                samples["source"], samples["uid"], _at(true, infos), samples["turns"], expected_acc_counts=counts
            )
        if self._settings.image_conditions:
            rollouts = self._config.actor_rollout_ref.rollout.val_kwargs.n
            dependence, warnings = dependence_metrics(data_sources, sample_uids, infos, rollouts)
            metrics |= dependence
            for warning in warnings:
                logger.warning("step %d: %s", step, warning)
        return metrics

    def write(self, step: int) -> None:
        """Write an evaluation's files beside its dump, and print its table."""
        if not (self.evaluating and self._folder):
            return
        dump = self._folder / f"{step}.jsonl"
        summary = evaluate_dump(dump, settings_of(self._config, step))
        if self._unfinished is not None:
            self._unfinished.remove()
        print(beside_the_paper([("this run", summary)]).to_markdown())
        print(f"evaluation written: {dump.with_suffix('.evaluation.json')}, .md, .html")


def _true(data_sources: Sequence[str]) -> list[int]:
    return [i for i, source in enumerate(data_sources) if split_source(source)[1] == TRUE]


def _at(positions: Sequence[int], columns: Columns) -> dict[str, list[Any]]:
    return {name: [column[i] for i in positions] for name, column in columns.items()}
