"""CINEMA from nothing to a table, on a CPU: `make demo`, or `python -m cinema_verl.demo`.

Makes the digits questions, trains both stages through `python -m verl.trainer.main_ppo +recipe=cinema_cpu` from the
small cold-started policy that ships with the package, and prints accuracy, format rate and pattern entropy on held-out
questions before RL, after stage 1 and after stage 2; report.html shows the run. Interrupted, it resumes from the last
checkpoint; finished, it prints the table again at once.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from cinema_verl.checks.compose import compose
from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.evaluate.validations import Validation, change, read_validation, table
from cinema_verl.report.command import main as write_report
from cinema_verl.runs.metrics import records
from cinema_verl.schedule import Stages

RECIPE = "cinema_cpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is that of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/demo"), help="Folder of the run. (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="Seed of data order and sampling. (default: %(default)s)")
    parser.add_argument(
        "--questions", type=int, default=200, help="Number of held-out questions. (default: %(default)s)"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for the training, e.g. cinema.coefficient=0.")
    options = parser.parse_args(arguments)
    config, findings = compose(RECIPE, options.overrides)
    if config is None:
        parser.error(f"{findings[-1].detail}\n{findings[-1].advice}")
    try:
        exploration, total = stage_ends(config)
    except ValueError as error:
        parser.error(str(error))
    output: Path = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)

    write_dataset(output / "data", Sizes(test=options.questions, sft_train=0, sft_val=0))
    command = training_command(output, options.seed, options.overrides)
    (output / "command.txt").write_text(" ".join(command) + "\n", encoding="utf-8")

    started, peak = time.monotonic(), 0
    if last_step(output / "metrics.jsonl") < total or not (output / "validation" / f"{total}.jsonl").exists():
        code, peak = train(command, output, total)
        if code:
            log = output / "train.log"
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
            print(f"{tail}\n\nThe training ended with exit code {code}; the whole log is {log}.", file=sys.stderr)
            print("The same command continues from the last checkpoint.", file=sys.stderr)
            return code
    seconds = time.monotonic() - started
    code = write_report([str(output)])
    report(output, exploration, total, seconds, peak)
    return code


def training_command(output: Path, seed: int, overrides: Sequence[str]) -> list[str]:
    """The command line that a user would type, with everything below `output`."""
    return [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        f"+recipe={RECIPE}",
        f"data.train_files={output}/data/train.parquet",
        f"data.val_files={output}/data/test.parquet",
        f"data.seed={seed}",
        f"actor_rollout_ref.rollout.seed={seed}",
        f"trainer.default_local_dir={output}/checkpoints",
        f"trainer.validation_data_dir={output}/validation",
        f"hydra.run.dir={output}/hydra",
        *overrides,
    ]


def stage_ends(config: DictConfig) -> tuple[int, int]:
    """Last step of the first and of the last stage.

    Raises:
        ValueError: if the stages are impossible.
    """
    stages: Any = OmegaConf.to_container(config.cinema.stages, resolve=True)
    ends = [last for _, _, last in Stages.of(stages).spans()]
    return ends[0], ends[-1]


def last_step(metrics: Path) -> int:
    """The last training step that verl's file logger has recorded; 0 if none."""
    return max((step for step, data in records(metrics) if "actor/entropy" in data), default=0)


def train(command: Sequence[str], output: Path, total: int) -> tuple[int, int]:
    """Run the training with a progress bar over verl's metrics.

    Returns:
        exit code, and the peak memory of all its processes in bytes (shared pages counted once).
    """
    metrics = output / "metrics.jsonl"
    # The platform is named, because a PyTorch with CUDA on a machine without a GPU would be taken for a GPU node.
    environment = os.environ | {"VERL_FILE_LOGGER_PATH": str(metrics), "VERL_PLATFORM": "cpu"}
    peak = 0
    with (
        open(output / "train.log", "ab") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as process,
        stopping(process),
        tqdm(total=total, unit="step", desc="starting") as bar,
    ):
        for second in itertools.count():
            if process.poll() is not None:
                break
            time.sleep(1)
            if second % 5 == 0:  # expensive: the kernel adds up shares page by page
                peak = max(peak, memory_of(process.pid))
            done = [(step, data) for step, data in records(metrics) if "actor/entropy" in data]
            if done:
                step, data = done[-1]
                bar.set_description(f"stage {data['cinema/stage']:.0f}")
                bar.set_postfix(
                    acc=f"{data['cinema/acc']:.2f}",
                    patterns=f"{data['cinema/unique_patterns']:.1f}",
                    coefficient=f"{data['cinema/diversity_coefficient']:.3f}",
                )
                bar.update(step - bar.n)
    return process.returncode, peak


@contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop the training when this process ends, so that it does not go on in the background."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def memory_of(pid: int) -> int:
    """Proportional set size of a process and its descendants, in bytes."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended while we were counting
    return total


def what_stages_did(metrics: Path) -> Iterator[str]:
    """A line for each stage: how much of the advantage was the diversity term's, and how many groups were generated."""
    steps: dict[float, list[Mapping[str, float]]] = {}
    for _, data in records(metrics):
        if "cinema/stage" in data:
            steps.setdefault(data["cinema/stage"], []).append(data)
    for stage, of in sorted(steps.items()):
        # One estimator's, by its name; plain GRPO has none.
        term = sum(sum(data[name] for name in data if name.endswith("_advantage_share")) for data in of) / len(of)
        groups = sum(data["cinema/dynamic_sampling/generated_groups"] for data in of)
        yield f"stage {stage:.0f}     {term:.0%} of the advantage is the term's; {groups:.0f} groups generated"


def report(output: Path, exploration: int, total: int, seconds: float, peak: int) -> None:
    """Print what happened; the table comes last."""
    stages: list[tuple[str, Validation]] = [
        ("cold start", read_validation(output / "validation" / "0.jsonl")),
        (f"after stage 1 (DPS, {exploration} steps)", read_validation(output / "validation" / f"{exploration}.jsonl")),
        (
            f"after stage 2 (annealed, {total - exploration} steps)",
            read_validation(output / "validation" / f"{total}.jsonl"),
        ),
    ]
    steps = [data["timing_s/step"] for step, data in records(output / "metrics.jsonl") if "timing_s/step" in data]
    before, after = stages[0][1], stages[-1][1]
    gained = change(before, after)
    verdict = "rose" if gained.low > 0 else "fell" if gained.high < 0 else "did not change beyond chance"
    print(f"policy      {output}/checkpoints/global_step_{total}/actor/huggingface")
    print(f"metrics     {output}/metrics.jsonl")
    if peak:
        print(f"this run    {seconds / 60:.1f} minutes, peak memory {peak / 2**30:.1f} GiB")
    print(f"steps       median {sorted(steps)[len(steps) // 2]:.2f} s")
    for line in what_stages_did(output / "metrics.jsonl"):
        print(line)
    print(f"accuracy {verdict}: {gained} (after - before, paired by question)")
    print(
        f"\n{len(before.acc)} held-out questions, {before.rollouts} rollouts each at temperature 1; "
        f"means over questions with 95 % intervals\n"
    )
    print(table(stages))


if __name__ == "__main__":
    sys.exit(main())
