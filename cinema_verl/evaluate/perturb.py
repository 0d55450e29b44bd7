"""Does the policy look at the images? The same questions asked again over other, reordered or blank images.

A condition changes the image cells of a row and nothing else: text, gold and the number of images stay. So `reordered`
keeps a gold that names a position ("B"), although the image it means has moved: a policy that uses positions loses
accuracy there, one that ignores them does not, and questions whose answer names no position should stay as they were.
Everything is deterministic: the seed and the rows' uids decide.
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
    """`size` of the rows, or all of them where None: the same ones whatever their order."""
    chosen = sorted(rows, key=lambda row: _order(row, seed))
    return chosen if size is None else chosen[:size]


def under(condition: str, rows: Sequence[Row], pool: Sequence[Row], seed: int) -> list[dict[str, Any]]:
    """The rows that can be asked under a condition, with their images and `data_source` changed.

    A question has no place in `reordered` when it has one image or they are all the same, and none in `shuffled` when
    the pool has no other image: it is left out, and the accuracy that it is compared with leaves it out as well.

    Args:
        rows: The questions to ask, rows of the RL schema.
        pool: The questions whose images `shuffled` may show; `rows` are among them.

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
    """A random but repeatable place for a row, which also tells it from every other row."""
    info = row["extra_info"]
    uid, index = str(info.get("uid") or ""), int(info.get("index") or 0)
    return stable_hash(seed, row["data_source"], uid, index), uid, index


def _paths(row: Row) -> tuple[str, ...]:
    return tuple(cell["image"] for cell in row["images"])


def _others(pool: Sequence[Row], seed: int) -> dict[tuple[int, str, int], Cells]:
    """For each row of the pool, images that are not its own, as many as it has.

    Another question's images where possible, each question's once: of the same source and number of images, or else of
    the same number. Where more than half of such a group shows the same images (many questions over one video), and
    where a group is one question, images of all the other questions are put together.
    """
    found: dict[tuple[int, str, int], Cells] = {}
    left = sorted(pool, key=lambda row: _order(row, seed))
    for kind in (lambda row: (row["data_source"], len(row["images"])), lambda row: len(row["images"])):
        groups: defaultdict[Any, list[Row]] = defaultdict(list)
        for row in left:
            groups[kind(row)].append(row)
        left = []
        for group in groups.values():
            left += _exchange(group, seed, found)
    stock = {cell["image"]: dict(cell) for row in pool for cell in row["images"]}
    names = sorted(stock)
    for row in left:
        own, count = set(_paths(row)), len(row["images"])
        start = _order(row, seed)[0] % len(names)
        foreign = [name for name in _rotated(names, start) if name not in own]
        if foreign:
            found[_order(row, seed)] = [dict(stock[foreign[i % len(foreign)]]) for i in range(count)]
    return found


def _exchange(group: Sequence[Row], seed: int, found: dict[tuple[int, str, int], Cells]) -> list[Row]:
    """Give each row of a group another one's images, none of them its own; the rows themselves where that fails.

    Questions over the same images stand together, and all move on by the size of the largest such cluster.
    """
    clusters: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in group:
        clusters[tuple(sorted(_paths(row)))].append(row)
    shift = max(map(len, clusters.values()))
    if 2 * shift > len(group):
        return list(group)
    line = [row for cluster in clusters.values() for row in cluster]
    for i, row in enumerate(line):
        found[_order(row, seed)] = [dict(cell) for cell in line[(i + shift) % len(line)]["images"]]
    return []


def _rotated(items: Sequence[Any], start: int) -> list[Any]:
    return [*items[start:], *items[:start]]


def _reordered(row: Row, seed: int) -> Cells | None:
    """The images moved on by 1 to n - 1 places: each is in another place, and the sequence is another one."""
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
    """Grey, as a ``data:`` URI, which verl's loader (qwen_vl_utils) reads like a path: 3 KB for 1,000 x 1,000."""
    buffer = io.BytesIO()
    Image.new("L", (width, height), _GREY).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
