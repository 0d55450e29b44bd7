"""From JPEG files to a dataset, in rows a second: ours, a plain `datasets.map` + PIL, and what the machine can do.

python benchmarks/preparation.py [--rows 600] [--processes 2]

Multi-image rows over made JPEG files of 800x600 to 1600x1200 pixels, the same for all, one after the other in one run,
twice; the best of each counts:

    limit    a bare loop in as many processes: decode, shrink, encode; nothing is checked, hashed or written
    by hand  `datasets.map` over paths: decode, EXIF, shrink, encode, SHA-256, perceptual hash, a file named by its
             hash, JSON lines; no check of any kind. The fastest that these libraries do
    plain    `datasets.map` over a column of images, as verl's own examples are written: the same work on PIL images
             (SHA-256 of their pixels), which `datasets` decodes and encodes (as PNG, its choice), and parquet; a
             quarter of the rows, because it takes long
    ours     `prepare` with as many workers, their start included

All shrink to the same sizes by the same filter. Ours must make at least 1.5 times the rows of plain, 1.1 times those by
hand, and 70 % of the limit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageOps
from scipy.fft import dct

from cinema_verl.prepare.convert import MAX_PIXELS, ConvertSettings
from cinema_verl.prepare.media.images import FILTER, QUALITY, shrunk_size
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.sources import adapter

OVER_PLAIN, OVER_HAND, OF_LIMIT = 1.5, 1.1, 0.7

SIZES = (800, 1600)  # pixels of the longer side, 4:3
IMAGES = (2, 4)  # a row
PLAIN_SHARE = 4


def make(folder: Path, rows: int, processes: int) -> list[dict[str, Any]]:
    """Rows of source ``own`` and their pictures."""
    random = np.random.default_rng(0)
    made, names = [], []
    for number in range(rows):
        images = [f"{number}-{place}.jpg" for place in range(random.integers(IMAGES[0], IMAGES[1] + 1))]
        names += images
        made.append({"id": str(number), "question": "Which is larger?", "images": images, "answer": "yes"})
    with multiprocessing.Pool(processes, _texture) as pool:
        pool.starmap(_make_picture, [(folder / name, seed) for seed, name in enumerate(names)], chunksize=16)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return made


def _texture() -> None:
    """A large picture that each process cuts its pictures out of: smooth shapes, edges and grain, as in photographs."""
    global texture
    random = np.random.default_rng(0)
    side = 3 * SIZES[1] // 2
    shapes = Image.fromarray(random.integers(0, 255, (side // 24, side // 24, 3), dtype=np.uint8))
    edges = Image.fromarray(random.integers(0, 2, (side // 60, side // 60), dtype=np.uint8) * 50)
    smooth = np.asarray(shapes.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    sharp = np.asarray(edges.resize((side, side), Image.Resampling.NEAREST))[:, :, None]
    grain = random.normal(0, 5, (side, side, 1))
    texture = Image.fromarray((smooth * 0.7 + sharp + grain).clip(0, 255).astype(np.uint8))


def _make_picture(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    width = int(random.integers(SIZES[0], SIZES[1] + 1))
    height = width * 3 // 4
    left, top = (int(random.integers(0, texture.width - side)) for side in (width, height))
    texture.crop((left, top, left + width, top + height)).save(path, quality=90)


def limit(source: Path, _: Path, processes: int) -> None:
    with multiprocessing.Pool(processes) as pool:
        pool.map(_bare, sorted(source.glob("*.jpg")), chunksize=8)


def _bare(path: Path) -> None:
    image = Image.open(path)
    image.load()
    _shrunk(image).save(BytesIO(), "JPEG", quality=QUALITY, subsampling=0)


def _load(source: Path, output: Path) -> datasets.Dataset:
    return datasets.Dataset.from_json(str(source / "rows.jsonl"), cache_dir=str(output / "cache"))


def by_hand(source: Path, output: Path, processes: int) -> None:
    rows = _load(source, output)
    (output / "images").mkdir()
    done = rows.map(_row_by_hand, num_proc=processes, fn_kwargs={"source": str(source), "output": str(output)})
    done.to_json(str(output / "questions.jsonl"))


def _row_by_hand(row: dict[str, Any], source: str, output: str) -> dict[str, Any]:
    stored = []
    for name in row["images"]:
        image = _shrunk(ImageOps.exif_transpose(Image.open(os.path.join(source, name))).convert("RGB"))
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        path = os.path.join(output, "images", f"{digest}.jpg")
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
        width, height = image.size
        stored.append({"path": path, "width": width, "height": height, "sha256": digest, "phash": _phash(image)})
    return {"stored": stored}


def plain(source: Path, output: Path, processes: int) -> None:
    rows = _load(source, output)
    rows = rows.select(range(len(rows) // PLAIN_SHARE))
    rows = rows.map(lambda row: {"images": [str(source / name) for name in row["images"]]})
    rows = rows.cast_column("images", datasets.List(datasets.Image()))
    done = rows.map(_plain_row, num_proc=processes)
    done.to_parquet(str(output / "questions.parquet"))


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    images = [_shrunk(ImageOps.exif_transpose(image).convert("RGB")) for image in row["images"]]
    return {
        "images": images,
        "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
        "phash": [_phash(image) for image in images],
    }


def _shrunk(image: Image.Image) -> Image.Image:
    size = shrunk_size(*image.size, MAX_PIXELS)
    return image if image.size == size else image.resize(size, FILTER)


def _phash(image: Image.Image) -> str:
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dct(dct(grey, axis=0), axis=1)[:8, :8]
    return np.packbits(low > np.median(low)).tobytes().hex()


def ours(source: Path, output: Path, processes: int) -> None:
    prepare(adapter("own"), source, output, ConvertSettings(media_root=str(source)), workers=processes)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600, help="rows of two to four images each (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes of each candidate (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, of which the best counts (default: %(default)s)")
    arguments = parser.parse_args()
    processes = arguments.processes
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        source, output = Path(temporary) / "source", Path(temporary) / "output"
        source.mkdir()
        make(source, arguments.rows, processes)
        images = len(list(source.glob("*.jpg")))
        work = {"limit": limit, "by hand": by_hand, "plain": plain, "ours": ours}
        rate = dict.fromkeys(work, 0.0)  # rows a second
        for _ in range(arguments.rounds):
            for name in work:
                folder = output / name
                folder.mkdir(parents=True)
                os.sync()  # nobody pays for what another has written
                seconds = timed(partial(work[name], source, folder, processes))
                done = arguments.rows // PLAIN_SHARE if name == "plain" else arguments.rows
                rate[name] = max(rate[name], done / seconds)
            for name in ("by hand", "ours"):
                assert len(list((output / name / "images").rglob("*.jpg"))) == images, name
            shutil.rmtree(output)
    print(f"\n{arguments.rows} rows, {images} images, {processes} processes; best of {arguments.rounds}")
    for name, rows in rate.items():
        print(f"  {name:<8} {rows:7.1f} rows/s  {rows * images / arguments.rows:7.1f} images/s")
    over_plain, over_hand, of_limit = (rate["ours"] / rate[name] for name in ("plain", "by hand", "limit"))
    print(f"  ours / plain    {over_plain:.2f}   (target: at least {OVER_PLAIN:g})")
    print(f"  ours / by hand  {over_hand:.2f}   (target: at least {OVER_HAND:g})")
    print(f"  ours / limit    {of_limit:.2f}   (target: at least {OF_LIMIT:g})")
    return int(over_plain < OVER_PLAIN or over_hand < OVER_HAND or of_limit < OF_LIMIT)


if __name__ == "__main__":
    sys.exit(main())
