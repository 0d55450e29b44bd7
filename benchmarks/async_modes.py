"""Whether the three modes of training end at the same accuracy: recipe cinema_cpu and its two asynchronous ones.

    python benchmarks/async_modes.py --output outputs/modes [--steps 40] [--seeds 1,2] [--questions 400]

Each run begins with the cold-started policy that is shipped, and trains the digits' questions in both stages (70 and
30 % of the steps), one update a step in every mode; a seed is that of the order of the questions and of every
trajectory. What it has learned then answers the test questions four times each, in this process. One run after the
other; a run that is there already is not made again, and one that was ended goes on. Two cores, 5 GiB, about five
minutes a run.
"""

import argparse
import asyncio
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the recipe sets it for its workers

import numpy as np
import pyarrow.parquet as pq
from hydra import compose, initialize_config_module
from PIL import Image
from verl.utils.config import omega_conf_to_dataclass

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.reward import compute_score
from cinema_verl.rollout.engine import TransformersServer
from cinema_verl.runs.metrics import records
from cinema_verl.training.agent_loop import STOP, trajectory_seed
from cinema_verl.utils.resolvers import package_path

MODES = ("cinema", "cinema_colocate_async", "cinema_separate_async")
ROLLOUTS = 4
_OFF_POLICY = "training/off_policy/trajectory"
TRAINED = {
    "staleness": f"{_OFF_POLICY}_staleness_worst/mean",
    "staleness, most": f"{_OFF_POLICY}_staleness_worst/max",
    "spans, most": f"{_OFF_POLICY}_spans/max",
    "evicted": "cinema/dynamic_sampling/evicted_groups",
    "s a step": "timing_s/step",
}


def train(mode: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """The metrics of a run, by step, which is made if it is not there."""
    path = folder / "run" / "metrics.jsonl"
    if "cinema/acc" not in logged(path).get(options.steps, {}):
        annealing = round(0.3 * options.steps)
        command = [sys.executable, "-m", "verl.trainer.main_ppo", f"+recipe={mode}_cpu"]
        command += [f"data.train_files={options.output}/data/train.parquet"]
        command += [f"data.val_files={options.output}/data/test.parquet"]
        command += [f"cinema.exploration_steps={options.steps - annealing}", f"cinema.annealing_steps={annealing}"]
        command += [f"data.seed={seed}", f"actor_rollout_ref.rollout.seed={seed}", "cinema.image_conditions=[]"]
        command += ["trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=10"]
        command += [f"trainer.default_local_dir={folder}/run", f"hydra.run.dir={folder}/hydra"]
        if mode == "cinema_separate_async":  # as the others: one update of the whole batch, and then new weights
            command += [
                "actor_rollout_ref.actor.ppo_mini_batch_size=8",
                "trainer.v1.separate_async.parameter_sync_step=1",
            ]
            micro = ("actor.ppo", "ref.log_prob", "rollout.log_prob")
            command += [f"actor_rollout_ref.{name}_micro_batch_size_per_gpu=64" for name in micro]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "ab") as log:
            code = subprocess.run(
                command, cwd=folder, env=os.environ | {"VERL_PLATFORM": "cpu"}, stdout=log, stderr=log
            )
        if code.returncode:
            raise SystemExit(f"{mode}, seed {seed}: exit code {code.returncode}; see {folder}/log.txt")
    return logged(path)


def logged(path: Path) -> dict[int, dict[str, float]]:
    """Step -> all that was logged of it: a step may have been trained by one start and validated by the next."""
    found: dict[int, dict[str, float]] = {}
    for step, metrics in records(path):
        found.setdefault(step, {}).update(metrics)
    return found


def examine(model: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """The share of correct answers to each question, (Q,), of a policy that is asked as in training."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = ["+recipe=cinema_cpu", f"actor_rollout_ref.model.path={model}"]
        config = compose("ppo_trainer", overrides=overrides).actor_rollout_ref
    server = TransformersServer(omega_conf_to_dataclass(config.rollout), config.model)
    processor = server.model_config.processor

    async def ask(number: int, row: dict[str, Any]) -> float:
        content: list[dict[str, Any]] = []
        for text in row["prompt"][0]["content"].split("<image>"):
            content += [{"type": "text", "text": text}, {"type": "image"}]
        messages = [{"role": "user", "content": content[:-1]}]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        images = [Image.open(cell["image"]).convert("RGB") for cell in row["images"]]
        ids = processor(text=[prompt], images=images)["input_ids"][0]
        answers = await asyncio.gather(
            *(
                server.generate(ids, {"stop": [STOP], "seed": trajectory_seed(number, i)}, "", image_data=images)
                for i in range(ROLLOUTS)
            )
        )
        texts = [processor.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        gold = row["reward_model"]["ground_truth"]
        return mean(compute_score(row["data_source"], text, gold, row["extra_info"])["acc"] for text in texts)

    async def together() -> list[float]:
        return await asyncio.gather(*(ask(number, row) for number, row in enumerate(rows)))

    return np.array(asyncio.run(together()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=40, help="40")
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[1, 2], help="1,2")
    parser.add_argument("--questions", type=int, default=400, help="test questions: 400")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=list(MODES), help="all three")
    options = parser.parse_args()
    options.output = options.output.absolute()
    if not (options.output / "data" / "test.parquet").exists():
        write_dataset(options.output / "data", Sizes(train=960, test=options.questions, sft_train=0, sft_val=0))
    rows = pq.read_table(options.output / "data" / "test.parquet").to_pylist()
    start = examine(package_path("demo/digits_cold_start"), rows)
    print(f"before: acc {start.mean():.3f} ± {interval(start):.3f}", flush=True)
    reached: dict[str, list[np.ndarray]] = {mode: [] for mode in options.modes}
    for seed in options.seeds:
        for mode in options.modes:
            folder = options.output / f"{mode}_{seed}"
            metrics = train(mode, seed, folder, options)
            acc = examine(f"{folder}/run/global_step_{options.steps}/actor/huggingface", rows)
            reached[mode].append(acc)
            parts = [f"acc {acc.mean():.3f} ± {interval(acc):.3f}"]
            for name, key in TRAINED.items():
                values = [one[key] for one in metrics.values() if key in one]
                if values:
                    parts.append(f"{name} {max(values) if 'most' in name else mean(values):.2f}")
            print(f"{mode}, seed {seed}: " + ", ".join(parts), flush=True)
    for mode in options.modes[1:]:
        gap = np.concatenate(reached[mode]) - np.concatenate(reached[options.modes[0]])  # of the same question and seed
        print(f"{mode} over {options.modes[0]}: {gap.mean():+.3f} ± {interval(gap):.3f}")


def interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of a mean over questions, (Q,)."""
    return 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))


if __name__ == "__main__":
    main()
