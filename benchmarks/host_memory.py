"""Host memory of a training step against what `cinema-verl preflight` projects.

    python benchmarks/host_memory.py [--side 224] [--images 4] [--batch 8] [--group 8]

One step of recipe cinema_cpu twice, once over images of --side pixels and once over images of one vision token. All
processes are looked at twice a second (proportional set size, so that shared pages count once); the growth from the
small images to the large ones is what the images cost, by kind of process, beside the projection. On a CPU the model
and the rollout engine compute in host memory, too. Two minutes on two cores that have nothing else to do.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from cinema_verl.checks.host_memory import row_bytes
from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.data.tokens import Patching, vision_tokens
from cinema_verl.utils.resolvers import package_path

PATCHING = Patching(patch_size=14, merge_size=2, min_pixels=784, max_pixels=12_845_056)  # the shipped model's
_EVERY = 0.5  # seconds; looking itself takes a tenth of one


def write_rows(folder: Path, side: int, images: int, rows: int) -> Path:
    """Questions over pictures of noise, all different."""
    random = np.random.default_rng(0)
    cells = []
    for i in range(images):
        path = folder / f"{side}-{i}.png"
        Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
        cells.append(image_cell(path, min_pixels=784, max_pixels=12_845_056))
    text = "".join(f"Image {i + 1}: <image>\n" for i in range(images)) + "Which digit?"
    written = [
        rl_row(
            uid=f"noise/{i}",
            index=i,
            split="train",
            data_source="noise",
            ability="none",
            prompt=[{"role": "user", "content": text}],
            images=cells,
            modality="multi",
            question=text,
            answer="7",
            answer_type="number",
        )
        for i in range(rows)
    ]
    write_parquet(written, RL_SCHEMA, folder / f"{side}.parquet")
    return folder / f"{side}.parquet"


def model_for_large_images(folder: Path) -> Path:
    """The shipped policy with a processor that does not shrink images to digits."""
    path = folder / "model"
    shutil.copytree(package_path("demo/digits_cold_start"), path)
    config = path / "processor_config.json"
    processor = json.loads(config.read_text())
    for part in processor.values():
        if isinstance(part, dict) and "size" in part:
            part["size"]["longest_edge"] = PATCHING.max_pixels
    config.write_text(json.dumps(processor))
    return path


def peak(folder: Path, model: Path, data: Path, arguments: argparse.Namespace) -> tuple[Counter[str], int]:
    """Peak bytes by kind of process, each at its own time, and of all of them at one time."""
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=cinema_cpu"]
    command += [f"data.train_files={data}", f"data.val_files={data}", f"data.train_batch_size={arguments.batch}"]
    command += [f"actor_rollout_ref.rollout.n={arguments.group}", "data.max_prompt_length=16000"]
    command += ["algorithm.filter_groups.enable=false", "trainer.val_before_train=false", "trainer.logger=[console]"]
    command += [
        "cinema.exploration_steps=1",
        "cinema.annealing_steps=0",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
    ]
    command += ["trainer.rollout_data_dir=null", f"trainer.default_local_dir={folder / 'run'}"]
    command += [f"actor_rollout_ref.model.path={model}"]
    command += [f"actor_rollout_ref.actor.ppo_mini_batch_size={arguments.batch}"]
    for key in ("actor.ppo", "rollout.log_prob", "ref.log_prob"):  # as a GPU would: few sequences at a time
        command += [f"actor_rollout_ref.{key}_micro_batch_size_per_gpu=4"]
    by_kind: Counter[str] = Counter()
    highest = 0
    with open(folder / "log.txt", "w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        main = psutil.Process(run.pid)
        while run.poll() is None:
            now: Counter[str] = Counter()
            for process in [main, *children(main)]:
                kind, size = look(process)
                now[kind] += size
            highest = max(highest, now.total())
            by_kind |= now
            time.sleep(_EVERY)
    if run.returncode:
        raise SystemExit(f"the run failed:\n{Path(log.name).read_text()[-3000:]}")
    return by_kind, highest


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def look(process: psutil.Process) -> tuple[str, int]:
    """Kind of process, as Ray calls it, and its proportional set size in bytes."""
    try:
        title = process.cmdline()[0] if process.cmdline() else ""
        found = re.match(r"ray::(?:\w+:)?(\w+)", title)  # ray::Class.method or ray::name:Class.method
        kind = found[1] if found else "the rest"
        return kind, process.memory_full_info().pss
    except psutil.Error:
        return "the rest", 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("side", 224), ("images", 4), ("batch", 8), ("group", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measured = []
        model = model_for_large_images(Path(temporary))
        for side in (28, arguments.side):
            folder = Path(temporary) / str(side)
            folder.mkdir()
            data = write_rows(folder, side, arguments.images, max(arguments.batch, 8))
            measured.append(peak(folder, model, data, arguments))
    (small, small_all), (large, large_all) = measured
    tokens = [arguments.images * vision_tokens(side, side, PATCHING) for side in (28, arguments.side)]
    sequences = arguments.batch * arguments.group
    stored = [arguments.batch * row_bytes(vision, vision + 150, PATCHING).group(arguments.group) for vision in tokens]
    projected = stored[1] - stored[0]
    print(f"{sequences} trajectories, {tokens[0]} and {tokens[1]} vision tokens each; MiB at the peak")
    print(f"{'process':<28}{'small':>9}{'large':>9}{'growth':>9}{'of a stored batch':>20}")
    for kind in sorted(large, key=lambda k: small[k] - large[k])[:8]:
        row(kind, small[kind], large[kind], projected)
    row("all at one time", small_all, large_all, projected)
    print(f"projected, a stored batch: {projected >> 20} MiB")


def row(name: str, small: int, large: int, projected: int) -> None:
    growth = large - small
    print(f"{name:<28}{small >> 20:>9}{large >> 20:>9}{growth >> 20:>9}{growth / projected:>19.2f}x")


if __name__ == "__main__":
    main()
