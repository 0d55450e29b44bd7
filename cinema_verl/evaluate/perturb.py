"""Rows of the data with other, reordered or blank images: does the policy use the images?

A condition changes the image cells of a row and nothing else: text, gold and the number of images stay. So `reordered`
keeps a gold that names a position ("B") although that image has moved: a policy that uses positions loses accuracy
there, and questions whose answer names no position should be answered as before. The seed and the rows' uids decide
everything.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from PIL import Image

from cinema_verl.runs.conditions import BLANK, CONDITIONS, REORDERED, SHUFFLED, source_under
from cinema_verl.utils.stable_random import stable_hash

Row = Mapping[str, Any]
Cells = list[dict[str, Any]]

_GREY: Final = 127  # our choice: neither dark nor bright


def sample(rows: Sequence[Row], size: int | None, seed: int) -> list[Row]:
    """`size` of the rows, or all of them where None: the same rows in whatever order they come."""
    chosen = sorted(rows, key=lambda row: _order(row, seed))
    return chosen if size is None else chosen[:size]


def under(condition: str, rows: Sequence[Row], pool: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    """The rows that can be asked under a condition, with their images and `data_source` changed.

    `reordered` leaves out questions with one image or with images that are all the same, `shuffled` those for which the
    pool has no other image. The accuracy that they are compared with leaves these questions out, too.

    Args:
        rows: the questions to ask, rows of the RL schema.
        pool: the questions whose images `shuffled` may show; `rows` are among them.

    Raises:
        ValueError: an unknown condition.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"unknown image condition {condition!r}; known: {', '.join(CONDITIONS)}")
    others = _others(pool, seed) if condition == SHUFFLED else {}
    images: dict[str, Callable[[Row], Cells | None]] = {
        SHUFFLED: lambda row: others.get(_order(row, seed)),
        REORDERED: lambda row: _reordered(row, seed),
        BLANK: _blank,
    }
    changed = ((row, images[condition](row)) for row in rows)
    return [
        {**row, "images": cells, "data_source": source_under(row["data_source"], condition)}
        for row, cells in changed
        if cells is not None
    ]


def _order(row: Row, seed: int) -> tuple[int, str, int]:
    """A sort key that puts rows in a random but repeatable order, and that no other row has."""
    info = row["extra_info"]
    uid, index = str(info.get("uid") or ""), int(info.get("index") or 0)
    return stable_hash(seed, row["data_source"], uid, index), uid, index


def _paths(row: Row) -> tuple[str, ...]:
    return tuple(cell["image"] for cell in row["images"])


def _others(pool: Sequence[Row], seed: int) -> dict[tuple[int, str, int], Cells]:
    """For each row of the pool, images that are not its own, as many as it has.

    They are those of one other question where possible, of the same source and number of images or else of the same
    number, and each question's images are given once. Where that is not possible (a kind of one question, or more than
    half of a kind over the same images, as questions about one video) they are drawn from all other questions.
    """
    found: dict[tuple[int, str, int], Cells] = {}
    left = sorted(pool, key=lambda row: _order(row, seed))
    for kind in (lambda row: (row["data_source"], len(row["images"])), lambda row: len(row["images"])):
        kinds: defaultdict[Any, list[Row]] = defaultdict(list)
        for row in left:
            kinds[kind(row)].append(row)
        left = [row for rows in kinds.values() for row in _exchange(rows, seed, found)]
    stock = {cell["image"]: dict(cell) for row in pool for cell in row["images"]}
    names = sorted(stock)
    for row in left:
        own, count = set(_paths(row)), len(row["images"])
        start = _order(row, seed)[0] % len(names)
        foreign = [name for name in _rotated(names, start) if name not in own]
        if foreign:
            found[_order(row, seed)] = [dict(stock[foreign[i % len(foreign)]]) for i in range(count)]
    return found


def _exchange(rows: Sequence[Row], seed: int, found: dict[tuple[int, str, int], Cells]) -> Sequence[Row]:
    """Add to `found` the images of another row for each; return the rows if they cannot all be given others.

    Rows are lined up with those over the same images side by side. Each takes the images of the row that stands as far
    on as the largest such cluster is long.
    """
    clusters: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        clusters[tuple(sorted(_paths(row)))].append(row)
    shift = max(map(len, clusters.values()))
    if 2 * shift > len(rows):
        return rows
    line = [row for cluster in clusters.values() for row in cluster]
    for i, row in enumerate(line):
        found[_order(row, seed)] = [dict(cell) for cell in line[(i + shift) % len(line)]["images"]]
    return []


def _rotated(items: Sequence[Any], start: int) -> list[Any]:
    return [*items[start:], *items[:start]]


def _reordered(row: Row, seed: int) -> Cells | None:
    """The images rotated by 1 to n - 1 places; None if every rotation looks the same."""
    paths = list(_paths(row))
    shifts = [shift for shift in range(1, len(paths)) if _rotated(paths, shift) != paths]
    if not shifts:
        return None
    shift = shifts[_order(row, seed)[0] % len(shifts)]
    return [dict(cell) for cell in _rotated(row["images"], shift)]


def _blank(row: Row) -> Cells:
    return [{**cell, "image": grey(*_size(cell["image"]))} for cell in row["images"]]


@lru_cache(maxsize=65536)
def _size(path: str) -> tuple[int, int]:
    with Image.open(path.removeprefix("file://")) as image:
        return image.size


@lru_cache(maxsize=4096)
def grey(width: int, height: int) -> str:
    """A grey PNG as a `data:` URI, which verl's loader (qwen_vl_utils) reads like a path: 3 KB for 1,000 x 1,000."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), _GREY).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
