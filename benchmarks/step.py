"""A training step of recipe cinema_cpu beside another checkout's: seconds of the step and of its parts.

    python benchmarks/step.py --base CHECKOUT [--steps 14] [--pairs 3] [--filter]

Each checkout trains through `python -m verl.trainer.main_ppo` on the digits questions with its own recipe, in turns: as
many runs of each as pairs. Batch, seeds and number of trajectories are the same: 64 a step without the accuracy
filter, of which nothing is thrown away; with `--filter` each generates until it has eight mixed groups. The first two
steps of a run warm. Two cores, 6 GiB, about a minute a run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WARM = 2
PARTS = ("step", "gen", "old_log_prob", "update_actor")
HERE = Path(__file__).resolve().parents[1]


def train(checkout: Path, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each part, step by step."""
    metrics = folder / "metrics.jsonl"
    keys = [
        "+recipe=cinema_cpu",
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/test.parquet",
        *(f"cinema.exploration_steps={options.steps + WARM}", "cinema.annealing_steps=1"),
        *("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"),
        f"trainer.default_local_dir={folder}/run",
        f"hydra.run.dir={folder}/hydra",
    ]
    staged = (checkout / "cinema_verl" / "training" / "stage_watch.py").exists()  # else one filter for the whole run
    key, off, on = (
        ("cinema.stages.exploration.filter", "null", "acc")
        if staged
        else ("algorithm.filter_groups.enable", "false", "true")
    )
    keys.append(f"{key}={on if options.filter else off}")
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "VERL_PLATFORM": "cpu",
    }
    with open(folder / "log", "w") as log:
        command = [sys.executable, "-m", "verl.trainer.main_ppo", *keys]
        if subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode:
            raise SystemExit((folder / "log").read_text(errors="replace")[-4000:])
    lines = [json.loads(line)["data"] for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "timing_s/step" in line][WARM : WARM + options.steps]
    return {part: [step.get(f"timing_s/{part}", 0.0) for step in steps] for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="another checkout of this repository")
    parser.add_argument("--steps", type=int, default=14, help="measured steps of a run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each checkout (default: %(default)s)")
    parser.add_argument("--filter", action="store_true", help="filter groups by accuracy, as DAPO does")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "digits"
        script = HERE / "data_preprocess" / "digits.py"
        subprocess.run([sys.executable, script, "--output", data], check=True, cwd=temporary)
        ratios: dict[str, list[float]] = {part: [] for part in PARTS}
        for pair in range(options.pairs):
            medians = {}
            for name, checkout in (("base", options.base.resolve()), ("ours", HERE)):
                folder = Path(temporary) / f"{name}-{pair}"
                folder.mkdir()
                measured = train(checkout, data, folder, options)
                medians[name] = {part: statistics.median(seconds) for part, seconds in measured.items()}
                print(f"{pair} {name}: " + ", ".join(f"{k} {v:.2f} s" for k, v in medians[name].items()), flush=True)
            for part in PARTS:
                ratios[part].append(medians["ours"][part] / medians["base"][part])
        for part, values in ratios.items():
            print(f"{part:<13}{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}) of base")


if __name__ == "__main__":
    main()
