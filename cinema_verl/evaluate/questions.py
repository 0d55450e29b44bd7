"""The questions of a validation: checked before a model is loaded, and some of them asked again over other images.

This is the only module of the evaluation that touches verl's data set.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.data import sources
from cinema_verl.data.check import DataError, Limits, Locate, check_rows
from cinema_verl.data.faults import COLUMNS, PROMPT_TOO_LONG
from cinema_verl.data.tokens import PromptCounter
from cinema_verl.evaluate.perturb import sample, under
from cinema_verl.runs.conditions import SHUFFLED, TRUE, split_source
from cinema_verl.runs.stop_reason import StopReason

if TYPE_CHECKING:  # it imports verl, which takes seconds that preflight has no other use for
    from cinema_verl.data.dataset import CinemaDataset

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

_SEED: Final = 0  # fixed: runs that are compared ask the same questions over the same images
_EXAMPLES: Final = 3  # our choice: rows named for each fault


# --- Before anything is loaded ------------------------------------------------------------------------------


def check_files(files: Sequence[str]) -> None:
    """Make sure that verl can read each benchmark file, and concatenate all of them.

    Raises:
        DataError: naming the file that is missing, is no parquet, is empty, lacks a column of the RL schema, or has a
            column of another type than a file before it.
    """
    import datasets  # a second, and preflight needs `check_questions` only

    types: dict[str, tuple[str, Any]] = {}
    for file in files:
        if "://" in file or not file.endswith(".parquet"):
            continue  # verl downloads the one and reads the other as JSON; `check_questions` sees their rows
        try:
            with pq.ParquetFile(file) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"data.val_files: {file} cannot be read as parquet: {error}") from error
        if not rows:
            raise DataError(f"data.val_files: {file} holds no questions: leave it out, or prepare it again")
        if missing := [column for column in COLUMNS if column not in schema.names]:
            raise DataError(
                f"data.val_files: {file} has no column {', '.join(missing)} (it has {', '.join(schema.names)}), so it "
                "is not of the RL schema. Write it with `cinema-verl to-parquet`"
            )
        features = datasets.Features.from_arrow_schema(schema)
        for column in COLUMNS:
            first, feature = types.setdefault(column, (file, features[column]))
            if feature != features[column]:
                raise DataError(
                    f"data.val_files: the column {column} of {file} is {features[column]}, and that of {first} is "
                    f"{feature}: verl cannot concatenate them. Write both with `cinema-verl to-parquet`"
                )


def known_sources() -> frozenset[str]:
    """What preparation writes before the slash of a ``data_source``; your own data are ``own/NAME``."""
    return frozenset({*sources.names(), "digits"})


def check_questions(rows: Iterable[Row], other_sources: Collection[str] | None, locate: Locate) -> None:
    """Make sure that every question has a uid of its own and comes from a known benchmark.

    Rollouts are grouped by the question's uid: two questions with the same uid would be counted as one.

    Args:
        other_sources: names that are accepted besides `known_sources` (`cinema.other_sources`); None accepts all, as in
            training.
        locate: position of a row -> the file and row that it came from.

    Raises:
        DataError: naming the first few rows of each kind of fault, and what to do.
    """
    known = known_sources() | set(other_sources or ())
    seen: dict[str, int] = {}
    faults: defaultdict[str, list[str]] = defaultdict(list)

    def place(position: int) -> str:
        file, number = locate(position)
        return f"{file}, row {number}"

    for position, row in enumerate(rows):
        source, uid = str(row["data_source"]), str(row["extra_info"].get("uid") or "")
        if other_sources is not None and source.partition("/")[0] not in known:
            faults["unknown data_source"].append(f"{place(position)} ({uid}) is from {source!r}")
        if (condition := split_source(source)[1]) != TRUE:
            faults["data_source of another condition"].append(
                f"{place(position)} would count as asked {condition}: {source!r}"
            )
        if not uid:
            faults["no extra_info.uid"].append(f"{place(position)} of {source}")
        elif uid in seen:
            faults["the same extra_info.uid twice"].append(f"{place(position)} is {uid}, as {place(seen[uid])}")
        else:
            seen[uid] = position
    if faults:
        lines = [f"  {kind}: {len(rows)}\n    " + "\n    ".join(rows[:_EXAMPLES]) for kind, rows in faults.items()]
        raise DataError(
            "the questions of data.val_files cannot be evaluated:\n"
            + "\n".join(lines)
            + f"\nKnown sources are {', '.join(sorted(known))}, alone or as SOURCE/TASK. Name your own data own/NAME, "
            "or add the name to cinema.other_sources. `cinema-verl to-parquet` writes uids; list each file once. "
            "Training needs uids only to ask questions over other images: cinema.image_conditions=[] turns that off."
        )


# --- The same questions over other images -------------------------------------------------------------------


def ask_again(data_set: "CinemaDataset", conditions: Sequence[str], size: int | None) -> None:
    """Append rows to verl's data set: under each condition, `size` questions of each benchmark, or all where None.

    Their `data_source` says the condition (`cinema_verl.runs.conditions`). Questions that cannot be asked under it, or
    whose prompt would become too long, are left out, and their number is logged.
    """
    rows = list(data_set.rows())
    benchmarks: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        benchmarks[row["data_source"].partition("/")[0]].append(row)
    chosen = [row for of_one in benchmarks.values() for row in sample(of_one, size, _SEED)]
    again: list[dict[str, Any]] = []
    for condition in conditions:
        asked = under(condition, chosen, rows, _SEED)
        if condition == SHUFFLED and data_set.checked:  # the other conditions keep the number of tokens
            asked = _that_fit(asked, data_set)
        again += asked
        if len(asked) < len(chosen):
            logger.info("%d of %d questions can be asked over %s images", len(asked), len(chosen), condition)
    if again:
        import datasets

        added = datasets.Dataset.from_list(again, features=data_set.dataframe.features)
        data_set.dataframe = datasets.concatenate_datasets([data_set.dataframe, added])


def _that_fit(rows: list[dict[str, Any]], data_set: "CinemaDataset") -> list[dict[str, Any]]:
    counter = PromptCounter(data_set.processor, data_set.apply_chat_template_kwargs, data_set.mm_processor_kwargs)
    faults = check_rows(rows, counter=counter, limits=Limits(tokens=data_set.max_prompt_length))
    too_long = {fault.row for fault in faults if fault.code == PROMPT_TOO_LONG}
    return [row for number, row in enumerate(rows) if number not in too_long]


# --- The rollouts that failed -------------------------------------------------------------------------------


def with_failures(dump: Mapping[str, Any], rows: Iterable[Row], rollouts: int) -> dict[str, Any]:
    """What verl is about to dump of a validation, and the rollouts that failed, which verl leaves out.

    With them a dump shows that a question was asked and not answered. Their response is empty and incorrect, and their
    `stop_reason` is "failed".

    Args:
        dump: the arguments of verl's `PPOTrainer._dump_generations`.
        rows: every question that was asked.
        rollouts: how often each was asked.

    Returns:
        The arguments to use instead.
    """
    scored = dump["reward_extra_infos_dict"]
    if dump["inputs"] and "question_uid" not in scored:
        return dict(dump)  # another reward function: its rollouts do not name their questions
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
    logger.warning(
        "%d rollouts of this validation failed and count as incorrect; the workers' log says why", len(failed)
    )
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
