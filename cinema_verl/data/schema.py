"""The parquet files that verl reads: one explicit schema for each kind, and rows checked before they are written.

The builders of rows refuse what breaks the contract (`data.faults`), and say which row it is and what to do. Every file
of a kind has the same schema, because ``datasets.concatenate_datasets`` fails on files whose types differ.

Images are stored as paths, never as bytes: verl carries each row's images through every rollout of its group.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.data.faults import AGENT_NAME, Fault, gold_fault, path_fault, row_faults, sft_faults
from cinema_verl.meta_action import parse
from cinema_verl.utils.files import atomic_write

MODALITIES = ("multi", "frames", "single")
ROWS_PER_GROUP: Final = 1_000  # of parquet: what a writer holds in memory, and a reader loads at once; our choice

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IMAGES = pa.list_(pa.struct([("image", pa.string()), ("min_pixels", pa.int64()), ("max_pixels", pa.int64())]))

RL_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("agent_name", pa.string()),
        ("ability", pa.string()),
        ("prompt", _MESSAGES),
        ("images", _IMAGES),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("uid", pa.string()),
                    ("split", pa.string()),
                    ("modality", pa.string()),
                    ("num_images", pa.int32()),
                    ("answer_type", pa.string()),
                    ("options_json", pa.string()),
                    ("aliases_json", pa.string()),
                    ("tolerance", pa.float64()),
                    ("question", pa.string()),
                ]
            ),
        ),
    ]
)

SFT_SCHEMA = pa.schema(
    [
        ("messages", _MESSAGES),
        ("images", _IMAGES),
        ("uid", pa.string()),
        ("trajectory", pa.int32()),
        ("pattern", pa.string()),
    ]
)

_NULLABLE = {"extra_info.tolerance"}  # null: the answer type's own tolerance
PLACEHOLDERS = ("<image>", "<video>", "<audio>")  # verl splits message text at each of these


class RowError(ValueError):
    """A row that verl could not train on. The message says which row, what is wrong and what to do."""

    def __init__(self, uid: str, message: str) -> None:
        super().__init__(f"row {uid!r}: {message}")


def image_cell(path: str | Path, *, min_pixels: int, max_pixels: int) -> dict[str, Any]:
    """One image as verl reads it, the same for RL and SFT (plain path strings fail in SFT).

    Args:
        path: An absolute path: every Ray worker opens the file from a working directory of its own.
        min_pixels, max_pixels: The pixel area that the vision encoder sees is kept between the two.
    """
    return {"image": str(path), "min_pixels": min_pixels, "max_pixels": max_pixels}


def rl_row(
    *,
    uid: str,
    index: int,
    split: str,
    data_source: str,
    ability: str,
    prompt: Sequence[Mapping[str, str]],
    images: Sequence[Mapping[str, Any]],
    modality: str,
    question: str,
    answer: str,
    answer_type: str,
    options: Sequence[str] = (),
    aliases: Sequence[str] = (),
    tolerance: float | None = None,
) -> dict[str, Any]:
    """One question for reinforcement learning.

    Args:
        uid: The question's name in every file.
        index: Its position in its file.
        data_source: verl reports validation metrics by this name.
        prompt: Chat messages with string content, as many ``<image>`` in all as there are images.
        images: Cells from `image_cell`, in the order of the placeholders.
        question: The bare question, for the verifier and reports (the prompt may wrap it).
        answer: The gold answer, always text; JSON where it is structured.

    Raises:
        RowError: The row breaks verl's data contract.
    """
    if modality not in MODALITIES:
        raise RowError(uid, f"unknown modality {modality!r}. Use one of {', '.join(MODALITIES)}")
    if (modality == "single") != (len(images) == 1):
        raise RowError(uid, f"modality {modality!r} with {len(images)} image(s). 'single' means exactly one image")
    try:
        _refuse(uid, gold_fault(answer, answer_type, options=options, aliases=aliases, tolerance=tolerance))
    except ValueError as error:
        raise error if isinstance(error, RowError) else RowError(uid, f"{error}. See cinema_verl.verify") from error
    row = {
        "data_source": data_source,
        "agent_name": AGENT_NAME,
        "ability": ability,
        "prompt": [dict(message) for message in prompt],
        "images": [dict(image) for image in images],
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {
            "index": index,
            "uid": uid,
            "split": split,
            "modality": modality,
            # verl removes `images` from the row before the reward function sees it.
            "num_images": len(images),
            "answer_type": answer_type,
            "options_json": json.dumps(list(options), ensure_ascii=False),
            "aliases_json": json.dumps(list(aliases), ensure_ascii=False),
            "tolerance": tolerance,
            "question": question,
        },
    }
    _refuse(uid, *row_faults(row, gold=False), *_path_faults(images))
    _check_complete(uid, row, pa.struct(list(RL_SCHEMA)))
    return row


def sft_rows(
    *,
    uid: str,
    prompt: Sequence[Mapping[str, str]],
    images: Sequence[Mapping[str, Any]],
    trajectories: Sequence[str],
) -> list[dict[str, Any]]:
    """The cold-start rows of one question: one row for each of its gold trajectories.

    Args:
        prompt, images: Exactly those of the question's RL row, so that the policy meets the same text again.
        trajectories: Well-formed trajectories, no two with the same pattern (the paper's two).

    Raises:
        RowError: The row breaks verl's data contract, or a trajectory the format rule.
    """
    _refuse(uid, *_path_faults(images))
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(trajectories):
        trajectory = parse(text)
        row = {
            "messages": [*map(dict, prompt), {"role": "assistant", "content": text}],
            "images": [dict(image) for image in images],
            "uid": uid,
            "trajectory": number,
            "pattern": trajectory.pattern,
        }
        _refuse(f"{uid}, trajectory {number}", *sft_faults(row))
        if trajectory.pattern in {earlier["pattern"] for earlier in rows}:
            raise RowError(uid, f"two trajectories share the pattern {trajectory.pattern}. Give each its own path")
        _check_complete(uid, row, pa.struct(list(SFT_SCHEMA)))
        rows.append(row)
    return rows


@contextmanager
def parquet_writer(
    path: str | Path, schema: pa.Schema, *, rows_per_group: int = ROWS_PER_GROUP
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], int]]:
    """Write a parquet file of any length: ``with parquet_writer(path, schema) as write: write(rows)``.

    The file is absent, the old one, or complete at every moment; it appears when the block ends without an error.
    Equal rows give equal bytes, however they are divided over the calls of ``write``. At most `rows_per_group` rows
    are in memory.

    Args:
        schema: Every row has exactly these fields; a value of another type raises `pyarrow.ArrowException`.
        rows_per_group: Rows of a parquet row group, which readers load as a whole.

    Yields:
        ``write(rows)``, which takes any number of rows, as often as needed, and returns how many it took.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    buffer: list[Mapping[str, Any]] = []

    def flush() -> None:
        writer.write_table(pa.Table.from_pylist(buffer, schema=schema), row_group_size=rows_per_group)
        buffer.clear()

    def write(rows: Iterable[Mapping[str, Any]]) -> int:
        taken = 0
        for row in rows:
            buffer.append(row)
            taken += 1
            if len(buffer) == rows_per_group:
                flush()
        return taken

    with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write
        if buffer:
            flush()


def write_parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, path: str | Path) -> None:
    """Write rows that fit into memory as one row group, by `parquet_writer`.

    Raises:
        ValueError: There is no row. verl cannot train on an empty file.
    """
    with parquet_writer(path, schema, rows_per_group=1 << 20) as write:
        if not write(rows):
            raise ValueError(f"no rows for {path}: verl cannot train on an empty file")


def _refuse(uid: str, *faults: Fault | None) -> None:
    """Raise for the first fault, be it one that a run would only warn of."""
    for fault in faults:
        if fault is not None:
            raise RowError(uid, fault.message)


def _path_faults(images: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    for number, image in enumerate(images, 1):
        path = str(image.get("image", ""))
        if fault := path_fault(path):
            yield replace(fault, message=f"image {number} of {len(images)}, {path}, {fault.message}")


def _check_complete(uid: str, value: Any, kind: pa.DataType, where: str = "") -> None:
    """pyarrow fills a missing key with null and drops an unknown one, both in silence: neither may happen."""
    if value is None:
        if where not in _NULLABLE:
            raise RowError(uid, f"{where} is null. Fill it in")
    elif pa.types.is_struct(kind):
        names = {field.name for field in kind}
        if set(value) != names:
            difference = ", ".join(sorted(set(value) ^ names))
            raise RowError(uid, f"{where or 'the row'} has missing or unknown keys: {difference}. Follow the schema")
        for field in kind:
            _check_complete(uid, value[field.name], field.type, f"{where}.{field.name}".lstrip("."))
    elif pa.types.is_list(kind):
        for position, item in enumerate(value):
            _check_complete(uid, item, kind.value_type, f"{where}[{position}]")
