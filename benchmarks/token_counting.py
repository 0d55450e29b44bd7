"""Counting a prompt's image tokens from sizes against running the processor over its pixels.

    python benchmarks/token_counting.py [--images 200] [--rounds 3]

The same image files both ways, in turns, one process: `vision_tokens` from the files' headers and from known sizes (as
the pipeline has them), with the cache of sizes emptied each round; and transformers' own Qwen2.5-VL image processor
over the images, after verl's own fetching (`qwen_vl_utils.fetch_image`). The counts must be equal. The target is 100
times the processor's speed over images that are decoded already.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from PIL import Image

from cinema_verl.data.tokens import Patching, vision_tokens
from cinema_verl.prepare.convert import MAX_PIXELS, MIN_PIXELS
from cinema_verl.utils.torchvision import ensure_torchvision_importable

TARGET = 100


def write_images(folder: Path, number: int) -> list[Path]:
    """JPEG files between a thumbnail and a camera's picture, of all shapes."""
    random = np.random.default_rng(0)
    paths = []
    for i in range(number):
        width, height = (int(2 ** random.uniform(7, 10.5)) for _ in range(2))
        coarse = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def timed(count: Callable[[], list[int]]) -> tuple[list[int], float]:
    vision_tokens.cache_clear()
    start = time.perf_counter()
    result = count()
    return result, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="images to count (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default: %(default)s)")
    arguments = parser.parse_args()
    ensure_torchvision_importable()
    from qwen_vl_utils import fetch_image
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(patch_size=14, merge_size=2, min_pixels=3_136, max_pixels=12_845_056)
    patching = Patching.of(processor)

    with tempfile.TemporaryDirectory() as temporary:
        paths = write_images(Path(temporary), arguments.images)
        sizes = [Image.open(path).size for path in paths]
        limits = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}
        decoded = [Image.open(path).convert("RGB") for path in paths]

        def from_sizes() -> list[int]:
            return [vision_tokens(*size, patching, MIN_PIXELS, MAX_PIXELS) for size in sizes]

        def from_headers() -> list[int]:
            return [vision_tokens(*Image.open(path).size, patching, MIN_PIXELS, MAX_PIXELS) for path in paths]

        def from_pixels() -> list[int]:
            fetched = [fetch_image({"image": image, **limits}) for image in decoded]
            return [
                int(processor([image], return_tensors="np")["image_grid_thw"][0].prod()) // patching.merge_size**2
                for image in fetched
            ]

        def from_files() -> list[int]:
            fetched = [fetch_image({"image": str(path), **limits}) for path in paths]
            return [
                int(processor([image], return_tensors="np")["image_grid_thw"][0].prod()) // patching.merge_size**2
                for image in fetched
            ]

        ways = {
            "counted from known sizes": from_sizes,
            "counted from file headers": from_headers,
            "processor, images decoded": from_pixels,
            "processor, from files": from_files,
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        expected = from_pixels()  # and warms everything up
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                counts, seconds = timed(way)
                if counts != expected:
                    raise SystemExit(f"{name}: counts differ from the processor's")
                times[name].append(seconds)
    best = {name: statistics.median(values) for name, values in times.items()}
    print(f"{arguments.images} images, {sum(expected):,} tokens, median of {arguments.rounds} rounds; all counts equal")
    for name, seconds in best.items():
        print(f"  {name:<28}{arguments.images / seconds:>12,.0f} images/s")
    known = best["processor, images decoded"] / best["counted from known sizes"]
    headers = best["processor, from files"] / best["counted from file headers"]
    print(f"known sizes against decoded images {known:,.0f}x; headers against files {headers:,.0f}x; target {TARGET}x")
    return int(known < TARGET)


if __name__ == "__main__":
    sys.exit(main())
