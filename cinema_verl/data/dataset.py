"""verl's RL data set, with every row checked before the first training step.

The recipe selects it:

    data.custom_cls.path=pkg://cinema_verl.data.dataset  data.custom_cls.name=CinemaDataset

It reads and serves rows as ``RLHFDataset`` does (except for the `answers` that an evaluation has already), and adds two
things. Image paths that are relative, as ``cinema-verl to-parquet --copy-images`` writes them, are relative to the
folder of the row's file (`data.movable`). And construction fails with a `DataError` that lists all faults of the rows.
``data.cinema_checks`` says how closely they are checked: ``header`` (the default) opens image headers, ``full`` decodes
every image, ``off`` checks nothing.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import datasets
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset

from cinema_verl.data.check import DataError, Limits, Locate, check_rows, image_limit, option_faults, raise_for
from cinema_verl.data.families import names
from cinema_verl.data.movable import absolute, is_relative
from cinema_verl.data.tokens import PromptCounter
from cinema_verl.prompts import asked_in_mode

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 1000  # read from Arrow in one piece; our choice


class CinemaDataset(RLHFDataset):
    """``verl.utils.dataset.rl_dataset.RLHFDataset`` over rows that have been checked.

    The checks run once, in the process that constructs the data set. Data-loader workers and agent loops (which
    use class methods only) do not repeat them, and serving a row costs nothing more.

    verl's own ``data.filter_overlong_prompts`` is refused. It drops every row that raises an exception as if its
    prompt were too long, and it decodes every image to count tokens: hours for 58k rows, where the checks name
    each row in about a minute.

    Options beside verl's, all under ``data``:
        cinema_checks: ``full``, ``header`` (default) or ``off``; see the module.
        cinema_image_root: directory that all images must lie in; null (default) for anywhere.
        cinema_prompt_mode: one of `cinema_verl.prompts.modes`, whose system prompt takes the place of the files';
            null (default) for the prompts as the files have them. The rows are checked as they will be asked.

    Raises:
        DataError: Rows that cannot be trained on, or options that cannot be (`check.option_faults`), or no
            processor: a family that verl does not know.
        TypeError: The image processor is of no class in `families.IMAGE_PROCESSORS`.
    """

    dataframe: datasets.Dataset
    # By (uid, data_source), what an evaluation knows already (`cinema_verl.evaluate.unfinished`): it goes with the row.
    answers: Mapping[tuple[str, str], Any] = MappingProxyType({})

    def __init__(
        self,
        data_files: str | list[str],
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        if faults := option_faults(config):
            raise DataError("\n".join(faults))
        checks = config.get("cinema_checks", "header")
        self.checked = checks not in ("off", False)  # YAML 1.1 reads a bare `off` as false
        if processor is None:
            raise DataError(
                "the model has no processor that verl 0.9.1 knows, or verl failed to load it without a word, so its "
                f"prompts cannot hold images. Use a model of {names()}, and see that AutoProcessor loads it"
            )
        super().__init__(data_files, tokenizer, config, processor, max_samples)
        if self.checked:
            self._check(decode=checks == "full")

    def _read_files_and_tokenize(self) -> None:
        super()._read_files_and_tokenize()
        # `datasets` keeps a selection as a table of indices into the rows, which has no public name; a map forgets it.
        self._chosen = self.dataframe._indices
        self._name_images()
        mode = self.config.get("cinema_prompt_mode")
        if mode is not None:
            self.dataframe = self.dataframe.map(
                lambda prompt: {self.prompt_key: asked_in_mode(prompt, mode)},
                input_columns=[self.prompt_key],
                keep_in_memory=True,  # a cache on disk would outlive the text of the template
                desc=f"asking in the mode {mode}",
            )

    def _name_images(self) -> None:
        """Make relative image paths absolute.

        Raises:
            DataError: They are relative to a file that verl has fetched from elsewhere, without its images.
        """
        if self.image_key not in self.dataframe.column_names:
            return
        used = self.dataframe.select_columns([self.image_key]).with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
        if not any(_has_relative(row[self.image_key]) for table in used for row in table.to_pylist()):
            return
        locate = self.locate()

        def name(images: Any, position: int) -> dict[str, Any]:
            file, row = locate(position)
            if "://" in file and _has_relative(images):
                raise DataError(
                    f"{file}, row {row}: its images lie beside the file, and verl fetches the file alone. Copy the "
                    "whole folder to this machine, and name the file there"
                )
            return {self.image_key: absolute(images, Path(file).parent)}

        self.dataframe = self.dataframe.map(
            name,
            input_columns=[self.image_key],
            with_indices=True,
            keep_in_memory=True,  # a cache on disk would outlive the folder's place
            desc="naming images",
        )

    def __getitem__(self, item: int) -> dict[str, Any]:
        row: dict[str, Any] = super().__getitem__(item)
        if self.answers:
            row["answers"] = self.answers.get((row["extra_info"]["uid"], row["data_source"]), {})
        return row

    def _check(self, *, decode: bool) -> None:
        started = time.monotonic()
        rollout = OmegaConf.select(self.config._get_root(), "actor_rollout_ref.rollout")  # of the run, if it is one
        faults = check_rows(
            self.rows(),
            locate=self.locate(),
            counter=PromptCounter(self.processor, self.apply_chat_template_kwargs, self.mm_processor_kwargs),
            limits=Limits(
                tokens=self.max_prompt_length,
                images=image_limit(rollout),
                root=self.config.get("cinema_image_root"),
            ),
            decode=decode,
            total=len(self),
        )
        raise_for(faults)
        logger.info("checked %d rows in %.1f s", len(self), time.monotonic() - started)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows as the files have them: through Arrow, so that no feature type decodes its images."""
        for table in self.dataframe.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
            yield from table.to_pylist()

    def locate(self) -> Locate:
        """Where a row came from: the files follow one another, and `max_samples` picks among their rows."""
        files = [str(file) for file in self.original_data_files]
        ends = list(accumulate(_rows_in(file) for file in self.data_files))
        chosen = self._chosen

        def locate(position: int) -> tuple[str, int]:
            row = position if chosen is None else chosen.column(0)[position].as_py()
            number = bisect_right(ends, row)
            return files[number], row - (ends[number - 1] if number else 0)

        return locate


def _has_relative(images: Any) -> bool:
    return isinstance(images, list) and any(
        isinstance(cell, Mapping) and is_relative(cell.get("image")) for cell in images
    )


def _rows_in(file: str) -> int:
    if file.endswith(".parquet"):
        return int(pq.read_metadata(file).num_rows)
    return len(datasets.load_dataset("json", data_files=file)["train"])  # what verl has just cached
