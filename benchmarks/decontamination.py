"""Decontamination of 60k training questions (240k images) against 20k benchmark images: time, recall, false matches.

    python benchmarks/decontamination.py [--questions 60000] [--benchmark-images 20000] [--pictures 180]

Nearly all questions are made up: random hashes, words drawn from a vocabulary as skewed as a language's. Among them are
planted real pictures (crops of the two photographs that scikit-learn ships, line drawings, charts): the benchmark has
the original, training has copies that were re-encoded, shrunk, brightened, …, and other pictures of the same kinds,
which must stay. And planted texts: a benchmark question's words, as they are and with one word changed.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from sklearn.datasets import load_sample_image

from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.data.directory import write_dataset
from cinema_verl.prepare.decontaminate import Decontamination
from cinema_verl.prepare.decontamination_report import write_report
from cinema_verl.prepare.media.phash import phash
from cinema_verl.utils.files import sha256_of

TARGET_MINUTES = 10
KINDS = ("photograph", "drawing", "chart")
_SIDE = 320


def re_encoded(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def watermarked(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((image.width - 90, image.height - 16), "example.org", fill="white", stroke_width=1)
    return image


CHANGES = {
    "as it is": lambda image: image,
    "JPEG, quality 40": re_encoded,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "shrunk and re-encoded": lambda image: re_encoded(image.resize((image.width * 2 // 3, image.height * 2 // 3))),
    "10 % brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "watermark": watermarked,
    "2 % cropped": lambda image: image.crop((3, 2, image.width - 3, image.height - 3)),
    # Known not to be found: the hash sees neither.
    "10 % cropped": lambda image: image.crop((16, 12, image.width - 16, image.height - 12)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def picture(kind: str, random: np.random.Generator) -> Image.Image:
    """A picture of its kind, _SIDE x 240 pixels."""
    size = (_SIDE, 240)
    if kind == "photograph":
        photo = Image.fromarray(load_sample_image(str(random.choice(["china.jpg", "flower.jpg"]))))
        width = int(random.integers(150, 420))
        left, top = random.integers(0, photo.width - width), random.integers(0, photo.height - width * 3 // 4)
        return photo.resize(size, box=(left, top, left + width, top + width * 3 // 4))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    if kind == "drawing":
        for _ in range(random.integers(2, 5)):
            corners = [(int(random.integers(10, 310)), int(random.integers(10, 230))) for _ in range(3)]
            draw.polygon(corners, outline="black", width=2)
            draw.text(corners[0], str(random.integers(1, 99)), fill="black")
        return image
    heights = random.integers(20, 200, random.integers(4, 10))
    for i, height in enumerate(heights.tolist()):
        x = 20 + i * 280 // len(heights)
        draw.rectangle((x, 220 - height, x + 180 // len(heights), 220), fill=tuple(random.integers(0, 200, 3).tolist()))
        draw.text((x, 224), str(height), fill="black")
    return image


class Maker:
    """Questions in canonical form, all from one seed."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.random = folder, np.random.default_rng(seed)
        self.words = np.array(["".join(map(chr, self.random.integers(97, 123, 6))) for _ in range(20_000)])
        weights = 1 / np.arange(1, len(self.words) + 1)  # as words of a language are used
        self.weights = weights / weights.sum()
        self.blank = str(folder / "blank.png")  # what every made-up picture would show
        Image.new("RGB", (64, 48), "white").save(self.blank)

    def texts(self, number: int) -> list[str]:
        lengths = self.random.integers(6, 40, number)
        drawn = self.random.choice(self.words, lengths.sum(), p=self.weights)
        return [" ".join(words) + "?" for words in np.split(drawn, np.cumsum(lengths)[:-1])]

    def made_up(self, number: int) -> list[ImageRef]:
        hashes = self.random.integers(0, 2**64, (number, 5), dtype=np.uint64)
        hexes = [f"{value:016x}" for value in hashes.ravel().tolist()]
        return [
            ImageRef(self.blank, 640, 480, "".join(hexes[5 * i + 1 : 5 * i + 5]), hexes[5 * i]) for i in range(number)
        ]

    def stored(self, image: Image.Image, name: str) -> ImageRef:
        path = self.folder / f"{name}.png"
        image.save(path, compress_level=1)
        return ImageRef(str(path), *image.size, sha256=sha256_of(path), phash=phash(image))


def question(uid: str, text: str, images: list[ImageRef]) -> Question:
    return Question(
        uid=uid,
        source=uid.partition("/")[0],
        source_id=uid,
        split="train",
        license="none",
        modality="single" if len(images) == 1 else "multi",
        question="<image>" * len(images) + text,
        images=tuple(images),
        answer_type="number",
        answer="1",
    )


def make(folder: Path, arguments: argparse.Namespace) -> tuple[Path, Path, int]:
    """Directories of training and benchmark questions, and the number of planted texts of each kind."""
    maker = Maker(folder)
    images = maker.made_up(arguments.benchmark_images)
    texts = maker.texts(arguments.benchmark_images // 2)
    benchmark = [question(f"bench/{i}", text, images[2 * i : 2 * i + 2]) for i, text in enumerate(texts)]
    train: list[Question] = []
    for i in range(arguments.pictures):
        kind = KINDS[i % len(KINDS)]
        original = picture(kind, maker.random)
        benchmark.append(question(f"bench/{kind}-{i}", texts[i], [maker.stored(original, f"original-{i}")]))
        ask = iter(maker.texts(len(CHANGES) + 1))
        for change, apply in CHANGES.items():
            copy = maker.stored(apply(original), f"{i}-{len(train)}")
            train.append(question(f"{change}/{kind}-{i}", next(ask), [copy]))
        other = maker.stored(picture(kind, maker.random), f"other-{i}")
        train.append(question(f"another picture/{kind}-{i}", next(ask), [other]))
    planted = [text for text in texts if len(set(text.split())) >= 25][: arguments.pictures]
    for i, text in enumerate(planted):
        words = text.split()
        train.append(question(f"same words/{i}", text, maker.made_up(1)))
        train.append(question(f"one word changed/{i}", " ".join([*words[:-1], "otherwise?"]), maker.made_up(1)))
    number = arguments.questions - len(train)
    images = maker.made_up(4 * number)
    train += [question(f"made up/{i}", t, images[4 * i : 4 * i + 4]) for i, t in enumerate(maker.texts(number))]
    for name, questions in (("train", train), ("bench", benchmark)):
        write_dataset(folder / name, questions, [], {})
    return folder / "train", folder / "bench", len(planted)


def stages(train: Path, bench: Path, output: Path) -> Iterator[tuple[str, Decontamination]]:
    run = Decontamination([train], {"bench": bench})
    yield "reading, hashing texts, searching", run
    sum(1 for _ in run.kept())
    yield "comparing", run
    write_report(output, run)
    yield "report", run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {
        "--questions": (60_000, "training questions, of four images each"),
        "--benchmark-images": (20_000, "images of the benchmark"),
        "--pictures": (180, "planted pictures, each with every change"),
    }
    for flag, (default, says) in numbers.items():
        parser.add_argument(flag, type=int, default=default, help=f"{says} (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        train, bench, planted = make(Path(temporary), arguments)
        started = last = time.perf_counter()
        for stage, run in stages(train, bench, Path(temporary)):  # noqa: B007  the last one is looked at below
            print(f"{time.perf_counter() - last:>8.1f} s  {stage}")
            last = time.perf_counter()
    minutes = (last - started) / 60
    images = len(run.survey.hashes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{minutes:>8.2f} min for {arguments.questions:,} questions of {images:,} images against "
        f"{len(run.benchmarks.asked):,} of {len(run.benchmarks.hashes):,} images; {peak:,} MiB with the data's making"
    )
    found = Counter(match.source for match in run.matches)
    kinds = Counter((match.source, match.uid.partition("/")[2].partition("-")[0]) for match in run.matches)
    per_kind = arguments.pictures // len(KINDS)
    print(f"\n{'taken out of':<26}{'all':>8}" + "".join(f"{kind:>14}" for kind in KINDS))
    for change in (*CHANGES, "another picture"):
        cells = "".join(f"{kinds[change, kind] / per_kind:>14.0%}" for kind in KINDS)
        print(f"{change:<26}{found[change] / (per_kind * len(KINDS)):>8.0%}{cells}")
    for text in ("same words", "one word changed"):
        print(f"{text:<26}{found[text] / planted:>8.0%}")
    print(f"{'made up':<26}{found['made up']:>8,} of {run.sources['made up']:,}")
    return int(minutes > TARGET_MINUTES)


if __name__ == "__main__":
    sys.exit(main())
