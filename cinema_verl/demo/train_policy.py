"""Make the cold-started policy that the project ships: `cinema_verl/demo/digits_cold_start`.

    python -m cinema_verl.demo.train_policy --output outputs/cold_start

trains in two runs of ``python -m verl.trainer.sft_trainer +recipe=cinema_cold_start_cpu``, one epoch each:

1. *Pretraining*: a tiny Qwen2.5-VL with random weights learns to see, on one path for every question: read all
   digits, then reason. The paper's backbone comes with these abilities; this one has to get them somewhere.
2. *The cold start*: two gold trajectories of different patterns for each question, as in the paper.

The result goes to ``outputs/cold_start/policy`` (a Hugging Face directory in fp32, 3 MB) and is measured on held-out
questions. About half an hour on two cores; the demo starts from the shipped copy instead, and `digits_cold_start()`
says where that is.

Why not one run: where a third of the trajectories answer without naming a digit, random weights took over four
times as many steps to discover that the images matter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.demo.measure import PlainPolicy, measure
from cinema_verl.demo.tiny_model import save_tiny_model
from cinema_verl.utils.pretrained import load_model

RECIPE = "cinema_cold_start_cpu"
PRETRAIN = 40000  # our choice: questions of the first run, 2,500 steps of 16

CARD = """\
# A tiny Qwen2.5-VL after the cold start

0.76 M weights in fp32, taught the five meta-actions on handwritten digits with verl's SFT trainer, by

    python -m cinema_verl.demo.train_policy --pretrain {pretrain} --sft-train {sft_train} --seed {seed} --output DIR

On {questions} questions over digits it never saw: {greedy_acc:.3f} correct and {greedy_format:.3f} well formed
when greedy; at temperature 1 {acc:.3f} correct, {format:.3f} well formed, {pass_at_k:.3f} correct at least once in
{samples}, {unique_patterns:.1f} patterns a group. By task, and more: `measured.json`.

It knows the words and reads the digits, and reasons unreliably: a policy to start reinforcement learning from.
"""


def digits_cold_start() -> Path:
    """The shipped policy: a Hugging Face model directory."""
    return Path(__file__).parent / "digits_cold_start"


def train(
    model: Path, rows: Path, validation: Path, output: Path, overrides: list[str], log: Path | None = None
) -> Path:
    """Fine-tune `model` on an SFT parquet with verl's SFT trainer, in a process of its own.

    Args:
        log: File for the trainer's output; the console if None.

    Returns:
        verl's last checkpoint, as a Hugging Face directory.

    Raises:
        subprocess.CalledProcessError: The training failed. Its own message is in `log` or on the console.
    """
    launcher = [
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=1",
        "-m",
        "verl.trainer.sft_trainer",
    ]
    settings = [
        f"+recipe={RECIPE}",
        f"data.train_files={rows}",
        f"data.val_files={validation}",
        f"model.path={model}",
        f"trainer.default_local_dir={output}",
        f"hydra.run.dir={output / 'hydra'}",
        *overrides,
    ]
    # Waiting threads should sleep: spinning, they would slow down the process that loads images, and all others.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "VERL_PLATFORM": "cpu"} | os.environ
    command = [sys.executable, "-m", *launcher, *settings]
    if log is None:
        subprocess.run(command, check=True, env=environment)
    else:
        with open(log, "wb") as file:
            subprocess.run(command, check=True, env=environment, stdout=file, stderr=subprocess.STDOUT)
    step = (output / "latest_checkpointed_iteration.txt").read_text()
    return output / f"global_step_{step}" / "huggingface"


def export(checkpoint: Path, directory: Path) -> None:
    """Rewrite verl's checkpoint as the tiny model with trained weights.

    verl saves fp32 weights under a config that says bfloat16, and its attention setting with them; here the
    config says what the file holds.
    """
    from transformers import AutoModelForImageTextToText

    trained = load_model(AutoModelForImageTextToText, checkpoint, dtype=torch.float32)
    save_tiny_model(directory, weights=trained.state_dict())


def _card(report: dict[str, Any], sizes: Sizes, seed: int) -> str:
    return CARD.format(**report, pretrain=sizes.pretrain, sft_train=sizes.sft_train, seed=seed)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run all steps; returns what `measure` found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="Directory for data, checkpoints and policy.")
    for name, default in (("pretrain", PRETRAIN), ("sft-train", Sizes().sft_train), ("test", Sizes().test)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"Questions in {name}. (default: {default})")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random weights. (default: 0)")
    parser.add_argument("--ship", action="store_true", help="Replace the shipped policy with the new one.")
    parser.add_argument("overrides", nargs="*", help="Overrides for verl, e.g. optim.lr=1e-3.")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output.resolve()
    data, model, policy = output / "digits", output / "tiny", output / "policy"

    sizes = Sizes(test=arguments.test, sft_train=arguments.sft_train, pretrain=arguments.pretrain)
    write_dataset(data, sizes)
    save_tiny_model(model, arguments.seed)
    for stage in ("pretrain", "sft_train"):
        shutil.rmtree(output / stage, ignore_errors=True)  # verl would resume a finished run and train nothing
        model = train(model, data / f"{stage}.parquet", data / "sft_val.parquet", output / stage, arguments.overrides)
    export(model, policy)

    report = measure(PlainPolicy(policy), pq.read_table(data / "test.parquet").to_pylist())
    (policy / "measured.json").write_text(json.dumps(report, indent=2) + "\n")
    (policy / "README.md").write_text(_card(report, sizes, arguments.seed))
    print(json.dumps(report, indent=2))
    if arguments.ship:
        shutil.rmtree(digits_cold_start(), ignore_errors=True)
        shutil.copytree(policy, digits_cold_start())
    print(f"cold-started policy: {digits_cold_start() if arguments.ship else policy}")
    return report


if __name__ == "__main__":
    main()
