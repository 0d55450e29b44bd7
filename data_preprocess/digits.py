"""Make the handwritten-digits data set: images, RL questions and cold-start trajectories, as parquet.

    python data_preprocess/digits.py --output outputs/digits

writes, in about ten seconds,

    outputs/digits/images/*.png        28x28 pixels, about 9,000 files
    outputs/digits/train.parquet       RL questions
    outputs/digits/test.parquet        RL questions over digits that no other file shows
    outputs/digits/sft_train.parquet   cold start: two trajectories of different patterns for each question
    outputs/digits/sft_val.parquet     the same over validation digits
    outputs/digits/pretrain.parquet    with --pretrain: one trajectory each, for a model with random weights

The files hold absolute paths to the images, because verl opens a path exactly as it is written: after moving the
directory, run the script again. Running it again with the same arguments does nothing; a different seed or size
rewrites the parquet files and keeps the images. The same arguments give the same bytes.

The pictures are shown as one token of Qwen2.5-VL (28x28 pixels). For a model with other tokens name its folder: with
--processor MODEL each is shown as one of *its* tokens. The tokens that a picture really takes are printed, because a
processor may have a minimum: Qwen3-VL enlarges everything to 65,536 pixels, 64 tokens.

As canonical questions, to mix with other sources or to look at:

    cinema-verl prepare rl_parquet --input outputs/digits/train.parquet --media-root / --output outputs/digits_questions

Needs scikit-learn, whose 1,797 scans of handwritten digits come with the package: nothing is downloaded.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from cinema_verl.demo.digit_images import IMAGE_SIZE
from cinema_verl.demo.digits import PIXELS, Sizes, token_area, write_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the directory to write to, made if missing")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the questions; the split of digits is fixed (default: 0)"
    )
    for size in fields(Sizes):
        flag = f"--{size.name.replace('_', '-')}"
        parser.add_argument(
            flag,
            type=int,
            default=size.default,
            help=f"questions in {size.name}, 0 for no such file (default: {size.default})",
        )
    parser.add_argument("--processor", metavar="MODEL", help="a model's folder or name, whose tokens the pictures fit")
    arguments = vars(parser.parse_args())
    output, seed, processor = (arguments.pop(name) for name in ("output", "seed", "processor"))
    pixels = PIXELS if processor is None else _pixels_for(processor)
    write_dataset(output, Sizes(**arguments), seed, pixels)


def _pixels_for(model: str) -> int:
    """Pixels of one token, after saying what a picture takes."""
    from cinema_verl.data.tokens import Patching, vision_tokens
    from cinema_verl.utils.hub import only_local
    from cinema_verl.utils.pretrained import read_files
    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()  # before transformers, whose processors import torchvision
    from transformers import AutoProcessor

    try:
        images = read_files(AutoProcessor, model, local_files_only=only_local(model)).image_processor
        area, patching = token_area(images), Patching.of(images)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise SystemExit(f"--processor {model}: {next(iter(str(error).splitlines()), type(error).__name__)}") from error
    tokens = vision_tokens(IMAGE_SIZE, IMAGE_SIZE, patching, area, area)
    print(f"{model}: {area:,} pixels a token, {tokens} tokens a picture (data.max_prompt_length must hold them)")
    return area


if __name__ == "__main__":
    main()
