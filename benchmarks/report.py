"""Measure the run report: seconds, peak memory and size for 300 steps of 64 rollouts with images, and first paint.

python benchmarks/report.py [--steps 300] [--prompts 8] [--rollouts 8] [--keep FOLDER]

It writes a made-up run to the disk as verl and this package do (every prompt another question over two to four
photograph-like 640 x 480 JPEGs; about 350 tokens a rollout; a mix of patterns that moves; some that break the format
rule), runs `cinema-verl report` on it in a process of its own, and opens the page in the system's Chromium.
The targets are 20 s, 1 GiB, 10 MB, and first paint within 1 s.
"""

import argparse
import itertools
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.prompts import messages
from cinema_verl.report.summarise import rollout_statistics
from cinema_verl.reward import compute_score
from cinema_verl.runs.rollouts import rollout_of
from cinema_verl.schedule import AnnealingSchedule

TARGETS = {"seconds": 20.0, "peak MiB": 1024.0, "page MB": 10.0, "first paint s": 1.0}
FIRST_PAINT = """new Promise((done) => new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") done(entry.startTime);
}).observe({ type: "paint", buffered: true }))"""
PAGE_LOADS = 5  # their median counts: the first begins with cold caches

SOURCES = {"charts": "number", "scenes": "mcq", "pages": "ocr"}
PATTERNS = (
    "global>focus>think>answer", "focus>think>answer", "global>think>answer", "hint>focus>think>answer",
    "global>focus>hint>think>answer", "think>answer", "focus>focus>think>answer", "hint>think>answer",
)  # fmt: skip
WORDS = (
    "the", "first", "image", "shows", "a", "table", "beside", "window", "and", "second", "one", "has", "another",
    "colour", "so", "we", "compare", "count", "of", "objects", "between", "left", "right", "above", "below", "total",
)  # fmt: skip


def write_images(folder: Path, questions: int, rng: random.Random) -> list[list[Path]]:
    """Two to four pictures a question, with gradients and grain: JPEGs as large as those of photographs."""
    folder.mkdir(parents=True)
    grain = np.random.default_rng(1).normal(0, 12, (480, 640, 3))
    ramp = np.linspace(0, 1, 640)[None, :, None]
    found = []
    for number in range(questions):
        paths = [folder / f"{number}-{place}.jpg" for place in range(rng.randint(2, 4))]
        for path in paths:
            left, right = np.array(rng.choices(range(256), k=3)), np.array(rng.choices(range(256), k=3))
            pixels = left + (right - left) * ramp + np.roll(grain, rng.randrange(480), axis=0)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            draw = ImageDraw.Draw(image)
            for _ in range(12):
                x, y, size = rng.randrange(560), rng.randrange(400), rng.randint(20, 160)
                draw.ellipse((x, y, x + size, y + size), fill=tuple(rng.choices(range(256), k=3)))
            image.save(path, quality=85)
        found.append(paths)
    return found


def questions(folder: Path, number: int, rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for index, paths in enumerate(write_images(folder / "images", number, rng)):
        source = rng.choice(list(SOURCES))
        places = "\n".join(f"Image {i}: <image>" for i in range(1, len(paths) + 1))
        text = f"{places}\n{' '.join(rng.choices(WORDS, k=30)).capitalize()}?"
        answer = {"number": str(rng.randrange(100)), "mcq": rng.choice("ABCD"), "ocr": "EXIT 12"}[SOURCES[source]]
        options = [" ".join(rng.choices(WORDS, k=4)) for _ in range(4)] if SOURCES[source] == "mcq" else []
        rows.append(
            rl_row(
                uid=f"{source}/{index}", index=index, split="train", data_source=source, ability="made up",
                prompt=messages(text), modality="multi", question=text, answer_type=SOURCES[source], options=options,
                answer=answer,
                images=[image_cell(path, min_pixels=3136, max_pixels=602112) for path in paths],
            )
        )  # fmt: skip
    return rows


def trajectory(row: dict[str, Any], progress: float, rng: random.Random) -> str:
    """About 350 tokens; at the beginning many are incorrect, and some break the format rule."""
    weights = [(1 - progress) * 2 ** -(len(PATTERNS) - i) + progress * 2**-i + 0.02 for i in range(len(PATTERNS))]
    correct = rng.random() < 0.3 + 0.4 * progress
    parts = []
    for action in rng.choices(PATTERNS, weights)[0].split(">"):
        body = row["reward_model"]["ground_truth"] if correct else "7"
        if action != "answer":
            body = " ".join(rng.choices(WORDS, k=rng.randint(60, 120))).capitalize() + "."
        unclosed = action == "think" and rng.random() < 0.15 * (1 - progress)
        parts.append(f"<{action}>{body}" + ("" if unclosed else f"</{action}>"))
    return "\n".join(parts)


def write_run(folder: Path, steps: int, prompts: int, group: int) -> None:
    """A whole run in `folder`: metrics, rollouts, configuration, questions and images."""
    rng = random.Random(1)
    rows = questions(folder / "data", steps * prompts, rng)
    write_parquet(rows, RL_SCHEMA, folder / "data" / "train.parquet")
    schedule = AnnealingSchedule(exploration_steps=steps * 7 // 10, annealing_steps=steps - steps * 7 // 10)
    (folder / "rollouts").mkdir()
    drawn = iter(rows)
    with open(folder / "metrics.jsonl", "w") as metrics:
        for step in range(1, steps + 1):
            dumped = []
            for number, row in enumerate(itertools.islice(drawn, prompts)):
                for session in range(group):
                    text = trajectory(row, step / steps, rng)
                    gold = row["reward_model"]["ground_truth"]
                    score = compute_score(row["data_source"], text, gold, row["extra_info"])
                    prompt = "\n".join(f"{turn['role']}\n{turn['content']}" for turn in row["prompt"])
                    dumped.append(
                        {"input": prompt, "output": text, "gts": gold, "step": step} | score
                        | {"data_source": row["data_source"], "stop_reason": "answer",
                           "response_tokens": len(text) // 4, "diversity_coefficient": schedule(step),
                           "uid": f"prompt{step}x{number}_{session}_0"}
                    )  # fmt: skip
            (folder / "rollouts" / f"{step}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in dumped))
            mixed = 0.4 + 0.2 * rng.random()
            data = (
                rollout_statistics(list(map(rollout_of, dumped)), "exact")
                | {
                    "actor/entropy": 0.9 / (1 + step / steps) + 0.02 * rng.random(),
                    "prompt_length/mean": 900.0,
                    "cinema/diversity_coefficient": schedule(step),
                    "cinema/stage": schedule.stage(step),
                    "cinema/diversity_advantage_share": schedule(step) * 0.4,
                    "timing_s/step": 30 + rng.random(),
                    "cinema/dynamic_sampling/mixed": mixed,
                    "cinema/dynamic_sampling/solve_all": (1 - mixed) * 0.6,
                    "cinema/dynamic_sampling/solve_none": (1 - mixed) * 0.4,
                }
                | {f"timing_s/part{i}": rng.random() for i in range(100)}
            )  # fmt: skip  verl logs about 150 metrics
            if step % 25 == 0:
                data |= {f"val-core/{source}/acc/mean@4": 0.4 + 0.3 * step / steps for source in SOURCES}
            metrics.write(json.dumps({"step": step, "data": data}) + "\n")
    (folder / ".hydra").mkdir()
    config = {
        "cinema": {"coefficient": 0.1, "exploration_steps": schedule.exploration_steps,
                   "annealing_steps": schedule.annealing_steps, "annealing_shape": "linear", "pattern_mode": "exact"},
        "data": {"train_files": str(folder / "data" / "train.parquet"), "train_batch_size": prompts},
        "actor_rollout_ref": {"model": {"path": "made-up"}, "rollout": {"n": group}},
        "algorithm": {"adv_estimator": "cinema_dps"},
    }  # fmt: skip
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))


def build(folder: Path) -> tuple[float, float, float]:
    """Seconds, processor seconds and peak MiB of `cinema-verl report`, start of Python included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cinema_verl.cli", "report", str(folder)], check=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024  # Linux counts in KiB


def first_paint(page_file: Path) -> tuple[float, float]:
    """Seconds to the first contentful paint, and until every section is drawn: medians of `PAGE_LOADS` loads."""
    from playwright.sync_api import sync_playwright

    paints, loads = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(PAGE_LOADS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.absolute().as_uri(), wait_until="load")
            page.wait_for_selector("#group .rollout")
            paints.append(page.evaluate(FIRST_PAINT) / 1000)
            loads.append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
            page.close()
        browser.close()
    return statistics.median(paints), statistics.median(loads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="%(default)s")
    parser.add_argument("--prompts", type=int, default=8, help="groups a step; %(default)s")
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts a group; %(default)s")
    parser.add_argument("--keep", type=Path, help="folder for the run and its page; default: a temporary one")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "run"
        if not (folder / "metrics.jsonl").exists():
            write_run(folder, arguments.steps, arguments.prompts, arguments.rollouts)
        seconds, processor, peak = build(folder)
        page = folder / "report.html"
        paint, load = first_paint(page)
        measured = {"seconds": seconds, "peak MiB": peak, "page MB": page.stat().st_size / 1e6, "first paint s": paint}
    print(f"\n{arguments.steps} steps x {arguments.prompts * arguments.rollouts} rollouts")
    print(f"{'':16}{'measured':>10}{'target':>10}")
    for name, target in TARGETS.items():
        print(f"{name:16}{measured[name]:10.2f}{target:>10g}")
    print(f"{'processor s':16}{processor:10.2f}")  # the time that it would take on a machine that does nothing else
    print(f"{'all drawn s':16}{load:10.2f}")
    return int(any(measured[name] > target for name, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
