"""What a validation asks: questions that are known and have names, and some of them again over other images.

This is evaluation's one contact with verl's data set, which serves the rows and their copies alike. What is wrong with
an evaluation's files is said before a model is loaded.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.data.check import DataError, Limits, Locate, check_rows
from cinema_verl.data.dataset import CinemaDataset
from cinema_verl.data.faults import COLUMNS, PROMPT_TOO_LONG
from cinema_verl.data.sources import NAMES
from cinema_verl.data.tokens import PromptCounter
from cinema_verl.evaluate.perturb import sample, under
from cinema_verl.runs.conditions import SHUFFLED, TRUE, split_source
from cinema_verl.runs.stop_reason import StopReason

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

KNOWN_SOURCES: Final = frozenset({*NAMES, "digits"})
"""What `data_preprocess` writes before the slash of a ``data_source``; your own data are ``own/NAME``."""

_SEED: Final = 0  # one for all: runs that are compared ask the same questions over the same images
_EXAMPLES: Final = 3  # our choice: rows named for each mistake


# --- Before anything is loaded ------------------------------------------------------------------------------


def check_files(files: Sequence[str]) -> None:
    """Make sure that verl can read each benchmark file, and all of them together.

    Raises:
        DataError: naming the file that is not there, is no parquet, is empty, lacks a column of the RL schema, or has a
            column of another type than the file before it (verl could not concatenate them, and would not say which).
    """
    types: dict[str, tuple[str, Any]] = {}
    for file in files:
        if "://" in file or not file.endswith(".parquet"):
            continue  # verl fetches the one and reads the other as JSON; the rows are checked all the same
        try:
            with pq.ParquetFile(file) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"data.val_files: {file} cannot be read as parquet: {error}") from error
        if not rows:
            raise DataError(f"data.val_files: {file} holds no questions: leave it out, or prepare it again")
        if missing := [column for column in COLUMNS if column not in schema.names]:
            raise DataError(
                f"data.val_files: {file} has no column {', '.join(missing)} (it has {', '.join(schema.names)}): it is "
                f"not of the RL schema. Write it with data_preprocess/to_parquet.py"
            )
        features = datasets.Features.from_arrow_schema(schema)
        for column in COLUMNS:
            first, feature = types.setdefault(column, (file, features[column]))
            if feature != features[column]:
                raise DataError(
                    f"data.val_files: the column {column} of {file} is {features[column]}, and that of {first} is "
                    f"{feature}: verl cannot ask them together. Write both with data_preprocess/to_parquet.py"
                )


def check_questions(rows: Iterable[Row], other_sources: Collection[str] | None, locate: Locate) -> None:
    """Make sure that every question has a name of its own and comes from a benchmark that is known.

    Answers are put together by the question's ``uid``: with two questions of one name, both would be miscounted.

    Args:
        other_sources: Names that are right although `KNOWN_SOURCES` has not got them (``cinema.other_sources``); None
            lets any source pass, as in training.
        locate: Where a row came from.

    Raises:
        DataError: naming the first few rows of each mistake, and what to do.
    """
    known = KNOWN_SOURCES | set(other_sources or ())
    seen: dict[str, int] = {}
    wrong: defaultdict[str, list[str]] = defaultdict(list)

    def place(position: int) -> str:
        file, number = locate(position)
        return f"{file}, row {number}"

    for position, row in enumerate(rows):
        source, uid = str(row["data_source"]), str(row["extra_info"].get("uid") or "")
        if other_sources is not None and source.partition("/")[0] not in known:
            wrong["unknown data_source"].append(f"{place(position)} ({uid}) is from {source!r}")
        if (condition := split_source(source)[1]) != TRUE:
            wrong["data_source of another condition"].append(
                f"{place(position)} is as if asked {condition}: {source!r}"
            )
        if not uid:
            wrong["no extra_info.uid"].append(f"{place(position)} of {source}")
        elif uid in seen:
            wrong["the same extra_info.uid twice"].append(f"{place(position)} is {uid}, as {place(seen[uid])}")
        else:
            seen[uid] = position
    if wrong:
        lines = [f"  {kind}: {len(places)}\n    " + "\n    ".join(places[:_EXAMPLES]) for kind, places in wrong.items()]
        raise DataError(
            "the questions of data.val_files cannot be evaluated:\n"
            + "\n".join(lines)
            + f"\nKnown sources are {', '.join(sorted(known))}, alone or as SOURCE/TASK. Call your own data own/NAME, "
            "or add the name to cinema.other_sources. data_preprocess/to_parquet.py writes uids; give each file once. "
            "Training needs them only to ask about the images again: cinema.image_conditions=[] does without."
        )


# --- The same questions over other images -------------------------------------------------------------------


def ask_again(data_set: CinemaDataset, conditions: Sequence[str], size: int | None) -> None:
    """Append questions to verl's data set, once for each condition: `size` of each benchmark, or all where None.

    Their ``data_source`` says under which condition they are (`cinema_verl.evaluate.perturb`). A question whose prompt
    would become too long under other images is not asked there, which is logged.
    """
    rows = list(data_set.rows())
    chosen = [row for group in _by_benchmark(rows).values() for row in sample(group, size, _SEED)]
    again: list[dict[str, Any]] = []
    for condition in conditions:
        asked = under(condition, chosen, rows, _SEED)
        if condition == SHUFFLED and data_set.checked:  # the other conditions keep the number of tokens
            asked = _that_fit(asked, data_set)
        again += asked
        if len(asked) < len(chosen):
            logger.info("%d of %d questions can be asked over %s images", len(asked), len(chosen), condition)
    if again:
        added = datasets.Dataset.from_list(again, features=data_set.dataframe.features)
        data_set.dataframe = datasets.concatenate_datasets([data_set.dataframe, added])


def _by_benchmark(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["data_source"].partition("/")[0], []).append(row)
    return groups


def _that_fit(rows: list[dict[str, Any]], data_set: CinemaDataset) -> list[dict[str, Any]]:
    counter = PromptCounter(data_set.processor, data_set.apply_chat_template_kwargs, data_set.mm_processor_kwargs)
    problems = check_rows(rows, counter=counter, limits=Limits(tokens=data_set.max_prompt_length))
    too_long = {problem.row for problem in problems if problem.code == PROMPT_TOO_LONG}
    return [row for number, row in enumerate(rows) if number not in too_long]


# --- What became of them ------------------------------------------------------------------------------------


def with_failures(dump: Mapping[str, Any], rows: Iterable[Row], rollouts: int) -> dict[str, Any]:
    """What verl is about to dump of a validation, with the rollouts that failed: verl leaves them out.

    Without them nobody could tell from a dump that a question was asked and never answered. They are wrong, empty, and
    their ``stop_reason`` is "failed".

    Args:
        dump: The arguments of verl's ``PPOTrainer._dump_generations``.
        rows: Every question that was asked.
        rollouts: How many times each.
    """
    scored = dump["reward_extra_infos_dict"]
    if dump["inputs"] and "question_uid" not in scored:
        return dict(dump)  # another reward function: its rollouts do not say what they answer
    got = Counter(zip(scored.get("question_uid", ()), scored.get("data_source", ()), strict=True))
    failed = [
        {
            "inputs": "\n".join(message["content"] for message in row["prompt"]),
            "outputs": "",
            "gts": row["reward_model"]["ground_truth"],
            "scores": 0.0,
            "uid": f"{StopReason.FAILED}-{row['extra_info']['uid']}_{session}_0",
            "question_uid": row["extra_info"]["uid"],
            "data_source": row["data_source"],
            "ability": row.get("ability"),
            "answer_type": row["extra_info"]["answer_type"],
            "num_images": row["extra_info"]["num_images"],
            "acc": 0.0,
            "format": 0.0,
            "pattern": "",
            "stop_reason": StopReason.FAILED,
        }
        for row in rows
        for session in range(got[row["extra_info"]["uid"], row["data_source"]], rollouts)
    ]
    if not failed:
        return dict(dump)
    logger.warning("%d rollouts of this validation failed and count as wrong; the workers' log says why", len(failed))
    unknown = [None] * len(dump["inputs"])
    own = ("inputs", "outputs", "gts", "scores")
    infos = [name for name in dict.fromkeys([*scored, *failed[0]]) if name not in own]
    return {
        **dump,
        **{name: [*dump[name], *(record[name] for record in failed)] for name in own},
        "reward_extra_infos_dict": {
            name: [*scored.get(name, unknown), *(record.get(name) for record in failed)] for name in infos
        },
    }
