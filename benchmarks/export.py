"""Exporting a sharded checkpoint against a bare copy of its bytes: seconds and peak memory.

python benchmarks/export.py [--gigabytes 2] [--ranks 8] [--folder DIR]

The checkpoint is made up: a Qwen2.5-VL of random weights, wide enough for the size, in fp32, as DTensors of that many
ranks. The bare copy reads every shard and writes as many bytes, in blocks of 16 MiB, with one fsync at the end. Each is
timed in turns, the copy first and last, and the faster copy counts; the page cache is as the step before left it. The
peak is of anonymous memory (RssAnon) and of all resident memory (VmHWM) of the exporting process, above what it held
after its imports, beside the largest tensor. `--dtype` is not given: as many bytes are written as are read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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

started = time.perf_counter()
found = find(Path(sys.argv[1]))
before, resident = memory("RssAnon"), memory("VmHWM")
threading.Thread(target=look, daemon=True).start()
if sys.argv[3] == "weights":
    tensors, dtype = module.read(found)
    read = time.perf_counter()
    Path(sys.argv[2]).mkdir()
    module.weights.write(tensors, Path(sys.argv[2]), dtype)
    print(time.perf_counter() - read, end=" ")
else:
    module.export(found, Path(sys.argv[2]))
    print(time.perf_counter() - started, end=" ")
print(peak[0] - before, memory("VmHWM") - resident)
"""


def make(folder: Path, gigabytes: float, ranks: int) -> tuple[int, int]:
    """Write the checkpoint; returns the bytes of its weights and of the largest one."""
    import torch
    from made_up_shards import write_checkpoint

    from cinema_verl.demo.tiny_model import (
        Qwen2_5_VLForConditionalGeneration,
        build_config,
        build_processor,
        build_tokenizer,
    )

    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = 2048, 8192, 16, 2
    text.rope_parameters["mrope_section"] = [16, 24, 24]
    config.vision_config.out_hidden_size = 2048
    text.num_hidden_layers = max(1, round(gigabytes * 1e9 / 4 / (3 * 2048 * 8192 + 2.25 * 2048 * 2048)))
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    model = Qwen2_5_VLForConditionalGeneration(config)
    hf = folder / "hf"
    config.save_pretrained(hf)
    build_processor(tokenizer).save_pretrained(hf)
    state = model.state_dict()
    write_checkpoint(folder / "run" / "global_step_1", hf, state, ranks)
    sizes = [tensor.numel() * tensor.element_size() for tensor in state.values()]
    del model, state
    torch.set_num_threads(1)
    return sum(sizes), max(sizes)


def bare(shards: list[Path], target: Path) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the weights (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the files go for as long as it lasts (default: a new one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        total, largest = make(folder, options.gigabytes, options.ranks)
        shards = sorted((folder / "run" / "global_step_1" / "actor").glob("model_*.pt"))
        copies = [bare(shards, folder / "copy")]

        def export(what: str) -> tuple[float, int, int]:
            command = [sys.executable, "-c", EXPORT, str(folder / "run"), str(folder / what), what]
            seconds, anonymous, resident = subprocess.run(
                command, check=True, capture_output=True, text=True
            ).stdout.splitlines()[-1].split()  # fmt: skip
            return float(seconds), int(anonymous), int(resident)

        weights = export("weights")
        copies.append(bare(shards, folder / "copy"))
        whole = export("whole")
        copies.append(bare(shards, folder / "copy"))
    copy = min(copies)
    print(f"{total / 1e9:.2f} GB of weights, {options.ranks} ranks, largest tensor {largest / 1e6:.0f} MB")
    print(f"bare copy {', '.join(f'{each:.1f}' for each in copies)} s")
    for what, (seconds, anonymous, resident) in (("weights alone", weights), ("whole export", whole)):
        print(
            f"{what}: {seconds:.1f} s, {seconds / copy:.2f} of the fastest copy; anonymous memory "
            f"+{anonymous / 1e6:.0f} MB ({anonymous / largest:.2f} of the largest tensor), resident peak "
            f"+{resident / 1e6:.0f} MB ({resident / largest:.2f})"
        )
    print(json.dumps({"copy": copies, "weights": weights, "whole": whole, "bytes": total, "largest": largest}))


if __name__ == "__main__":
    main()
