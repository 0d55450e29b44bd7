"""Exporting a sharded checkpoint against a bare copy of its bytes: seconds and peak memory.

python benchmarks/export.py [--shape 7b] [--layers N] [--ranks 8] [--pairs 2] [--folder DIR]

The checkpoint is made up: a Qwen2.5-VL of the shape of 3B or 7B (`--layers` cuts its language model), random weights in
bf16, as DTensors of that many ranks, written rank by rank. The bare copy reads every shard and writes as many bytes, in
blocks of 16 MiB, with one fsync at the end, as the export has one for each file. They take turns, the copy first and
last; each export is set against the mean of the copies before and behind it, and every pair is printed. Before each of
them everything is written out, and the shards leave the page cache: else one reads from memory what the other reads
from the disk, or waits for what the other wrote. The peak is of anonymous memory (RssAnon) and of all resident memory
(VmHWM), which counts the mapped pages of the shards, of the exporting process above what it held after its imports,
beside the largest tensor and one rank's file. `--dtype` of the export is not given: as many bytes are written as are
read.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))

EXPORT = """
import sys, threading, time
from pathlib import Path
import torch
from cinema_verl.utils.torchvision import ensure_torchvision_importable
ensure_torchvision_importable()
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration
from cinema_verl.export.find import find
from cinema_verl.export import folder as module

def memory(key):
    return int(next(l for l in open("/proc/self/status") if l.startswith(key)).split()[1]) * 1024

peak = [0]
def look():
    while True:
        peak[0] = max(peak[0], memory("RssAnon"))
        time.sleep(0.01)

found = find(Path(sys.argv[1]))
before, resident = memory("RssAnon"), memory("VmHWM")
threading.Thread(target=look, daemon=True).start()
started = time.perf_counter()
module.export(found, Path(sys.argv[2]))
print(time.perf_counter() - started, peak[0] - before, memory("VmHWM") - resident)
"""


SHAPES = {  # of the language model and of what the vision encoder hands to it, as the two models' config.json have them
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}


def config_of(shape: str, layers: int | None, tokenizer: Any) -> Any:
    """The tiny model's configuration at the sizes of a real one."""
    from cinema_verl.demo.tiny_model import build_config

    config = build_config(tokenizer)
    text, sizes = config.text_config, dict(SHAPES[shape])
    sizes["num_hidden_layers"] = layers or sizes["num_hidden_layers"]
    for name, value in sizes.items():
        setattr(text, name, value)
    text.rope_parameters["mrope_section"] = [16, 24, 24]
    text.layer_types = ["full_attention"] * sizes["num_hidden_layers"]
    for name, value in VISION.items():
        setattr(config.vision_config, name, value)
    config.vision_config.out_hidden_size = sizes["hidden_size"]
    config.tie_word_embeddings = sizes["tie_word_embeddings"]
    return config


def make(folder: Path, shape: str, layers: int | None, ranks: int) -> tuple[int, int]:
    """Write the checkpoint; returns the bytes of its weights and of the largest one."""
    import torch
    from made_up_shards import write_rank

    from cinema_verl.demo.tiny_model import Qwen2_5_VLForConditionalGeneration, build_processor, build_tokenizer

    tokenizer = build_tokenizer()
    config = config_of(shape, layers, tokenizer)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}  # what is tied, once
    actor = folder / "run" / "global_step_1" / "actor"
    config.save_pretrained(actor / "huggingface")
    build_processor(tokenizer).save_pretrained(actor / "huggingface")
    for rank in range(ranks):
        parts = {name: part_of(torch, shape, rank, ranks) for name, shape in shapes.items()}
        write_rank(actor, parts, shapes, rank, ranks)
        del parts
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": ranks}))
    sizes = [shape.numel() * 2 for shape in shapes.values()]
    return sum(sizes), max(sizes)


def part_of(torch: Any, shape: Any, rank: int, ranks: int) -> Any:
    """Random weights of one rank's part, as FSDP cuts: equal parts as far as they go, then a shorter one, then none."""
    rows = -(-shape[0] // ranks)
    mine = max(0, min(rows, shape[0] - rank * rows))
    return torch.empty((mine, *shape[1:]), dtype=torch.bfloat16).uniform_(-0.1, 0.1)


def settle(shards: list[Path]) -> None:
    """Nothing is waiting to be written, and nothing of the shards is in memory."""
    os.sync()
    for shard in shards:
        with open(shard, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bare(shards: list[Path], target: Path) -> float:
    settle(shards)
    started = time.perf_counter()
    with open(target, "wb") as out:
        for shard in shards:
            with open(shard, "rb") as file:
                while block := file.read(16 << 20):
                    out.write(block)
        out.flush()
        os.fsync(out.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def export(folder: Path, shards: list[Path], target: Path) -> tuple[float, int, int]:
    """Seconds, anonymous bytes and resident bytes of an export in a process of its own."""
    settle(shards)
    command = [sys.executable, "-c", EXPORT, str(folder / "run"), str(target)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, anonymous, resident = done.stdout.splitlines()[-1].split()
    shutil.rmtree(target)
    return float(seconds), int(anonymous), int(resident)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="7b", help="of the model (default: %(default)s)")
    parser.add_argument("--layers", type=int, help="of its language model (default: as many as it has)")
    parser.add_argument("--ranks", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=2, help="exports between copies (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go for as long as it lasts (default: a new one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        total, largest = make(folder, options.shape, options.layers, options.ranks)
        shards = sorted((folder / "run" / "global_step_1" / "actor").glob("model_*.pt"))
        file = max(path.stat().st_size for path in shards)
        print(
            f"{options.shape}: {total / 1e9:.2f} GB of weights, {options.ranks} ranks of {file / 1e9:.2f} GB, largest "
            f"tensor {largest / 1e9:.2f} GB",
            flush=True,
        )
        before = bare(shards, folder / "copy")
        for _ in range(options.pairs):
            seconds, anonymous, resident = export(folder, shards, folder / "exported")
            after = bare(shards, folder / "copy")
            print(
                f"copy {before:.1f} s, export {seconds:.1f} s, copy {after:.1f} s: "
                f"{2 * seconds / (before + after):.2f} of a copy; "
                f"anonymous memory +{anonymous / 1e9:.2f} GB ({anonymous / largest:.2f} of the largest tensor), "
                f"resident +{resident / 1e9:.2f} GB "
                f"({resident / (largest + file):.2f} of a rank's file and the largest tensor)",
                flush=True,
            )
            before = after


if __name__ == "__main__":
    main()
