"""The images of the demo: scikit-learn's handwritten digits, cut into disjoint splits and drawn as 28x28 pictures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cinema_verl.utils.files import atomic_write

IMAGE_SIZE = 28  # pixels a side: one merged vision token of Qwen2.5-VL (2 x 2 patches of 14)
_GLYPH_SIZE = 24  # the scan, scaled by 3, leaves room to move it
SHIFTS = ((0, 0), (-2, -1), (2, 1), (-1, 2), (1, -2))  # (dx, dy) in pixels: cheap variety for 1,797 digits

# Share of each class's digits. Our choice: most go to training, and the test pool is large enough for
# thousands of different questions.
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Pools:
    """Which digits each split may use: `by_split[split][digit]` are indices into scikit-learn's array."""

    scans: np.ndarray  # (1797, 8, 8), ink from 0 to 16
    by_split: Mapping[str, Mapping[int, Sequence[int]]] = field(repr=False)


def load_pools() -> Pools:
    """scikit-learn's digits, each class shuffled once by a fixed seed and cut by `SPLITS`.

    The cut does not depend on the data set's seed: a digit that is a test digit once is one for ever.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    by_split: dict[str, dict[int, list[int]]] = {split: {} for split in SPLITS}
    for digit in range(10):
        indices = [int(index) for index in np.flatnonzero(data.target == digit)]
        random.Random(f"digits/split/{digit}").shuffle(indices)
        start = 0
        for split, share in SPLITS.items():
            stop = len(indices) if split == "test" else start + round(share * len(indices))
            by_split[split][digit] = indices[start:stop]
            start = stop
    return Pools(data.images, by_split)


def image_name(index: int, shift: tuple[int, int]) -> str:
    return f"{index:04d}{shift[0]:+d}{shift[1]:+d}.png"


def image_names(pools: Pools) -> list[str]:
    """Every image that a question may show."""
    return [image_name(index, shift) for index in range(len(pools.scans)) for shift in SHIFTS]


def draw_image(pools: Pools, name: str) -> Image.Image:
    """The picture of an image name: the scan scaled by three, dark on white, moved by the name's shift."""
    index, dx, dy = int(name[:4]), int(name[4:6]), int(name[6:8])
    ink = Image.fromarray(np.uint8(pools.scans[index] * (255 / 16)))
    glyph = ink.resize((_GLYPH_SIZE, _GLYPH_SIZE), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE), 0)
    margin = (IMAGE_SIZE - _GLYPH_SIZE) // 2
    canvas.paste(glyph, (margin + dx, margin + dy))
    return Image.eval(canvas, lambda value: 255 - value)


def write_image(pools: Pools, name: str, directory: Path) -> None:
    """Write one image as PNG unless it is there; a reader never sees half of one."""
    path = directory / name
    if path.exists():
        return
    with atomic_write(path, "wb", durable=False) as file:
        draw_image(pools, name).save(file, format="PNG")
