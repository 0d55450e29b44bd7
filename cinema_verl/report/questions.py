"""The questions that the page shows beside their rollouts, read from the parquet files of the run's data."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NAME: Final = re.compile(r"\b((?:Image|Frame) \w{1,9}): ?<image>")
_COLUMNS: Final = ["prompt", "images", "reward_model", "extra_info"]


@dataclass(frozen=True)
class ShownQuestion:
    """What the page shows of a row of the data.

    Attributes:
        images: paths as the row has them.
        names: what the prompt calls each image, "Image 1", "Image B" or "Frame 3".
    """

    uid: str
    text: str
    gold: str
    options: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def read_questions(files: Iterable[Path], wanted: set[str]) -> tuple[dict[str, ShownQuestion], list[str]]:
    """The questions with these uids from parquet in `cinema_verl.data.schema.RL_SCHEMA`, and notes.

    Files are streamed; a file that cannot be read, or has other columns, becomes a note.
    """
    found: dict[str, ShownQuestion] = {}
    notes: list[str] = []
    uids_wanted = pa.array(sorted(wanted), pa.string())
    for path in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=4096, columns=_COLUMNS):
                uids = pc.struct_field(batch.column("extra_info"), "uid")
                for row in batch.filter(pc.is_in(uids, value_set=uids_wanted)).to_pylist():
                    question = _question(row)
                    found.setdefault(question.uid, question)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            notes.append(f"{path} cannot be read as questions ({error}): they are shown without their images.")
    return found, notes


def _question(row: dict[str, Any]) -> ShownQuestion:
    info = row["extra_info"]
    options = orjson.loads(info.get("options_json") or "[]")
    images = tuple(str(cell["image"]) for cell in row["images"] or ())
    names = tuple(_NAME.findall("\n".join(turn["content"] or "" for turn in row["prompt"] or ())))
    return ShownQuestion(
        uid=info["uid"],
        text=info.get("question") or "",
        gold=(row["reward_model"] or {}).get("ground_truth") or "",
        options=tuple(map(str, options)) if isinstance(options, list) else (),
        images=images,
        names=names if len(names) == len(images) else tuple(f"Image {i}" for i in range(1, len(images) + 1)),
    )
