"""Supervised fine-tuning of the tiny model: in this process, or by torchrun as a user starts it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from cinema_verl.data.schema import SFT_SCHEMA, write_parquet
from cinema_verl.demo.train_policy import RECIPE, digits_cold_start

ROWS, VAL_ROWS, BATCH = 20, 3, 4
STEPS = 2 * (ROWS // BATCH)
"""Of two epochs."""
TIME_LIMIT = 900  # seconds; a run takes twenty on a quiet machine


@pytest.fixture(autouse=True, scope="module")
def unpatched_models() -> Iterator[None]:
    """verl puts its own methods into transformers' classes where it trains: those that were there come back."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as module

    owners = [module, *(each for each in vars(module).values() if isinstance(each, type))]
    before = [
        (owner, dict(vars(owner)))
        for owner in owners
        if getattr(owner, "__module__", module.__name__) == module.__name__
    ]
    yield
    for owner, had in before:
        for name, value in dict(vars(owner)).items():
            if name not in had:
                delattr(owner, name)
            elif value is not had[name] and not name.startswith("__"):
                setattr(owner, name, had[name])


@pytest.fixture(scope="session")
def sft_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.parquet` and `val.parquet`: made-up pictures of 28 by 28, and trajectories of different lengths."""
    folder = tmp_path_factory.mktemp("sft")
    random = np.random.default_rng(0)

    def row(number: int) -> dict[str, Any]:
        images = []
        for which in range(1 + number % 3):
            path = folder / f"{number}-{which}.png"
            Image.fromarray(random.integers(0, 255, (28, 28, 3), dtype=np.uint8)).save(path)
            images.append({"image": str(path), "min_pixels": 784, "max_pixels": 784})
        asked = " ".join("<image>" for _ in images)
        digits = ", ".join(f"{letter}={(number + k) % 10}" for k, letter in enumerate("ABC"[: len(images)]))
        answer = f"<focus>{digits}</focus><answer>{'ABC'[number % len(images)]}</answer>"
        return {
            "messages": [
                {"role": "user", "content": f"{asked} Which image shows the largest digit?"},
                {"role": "assistant", "content": answer},
            ],
            "images": images,
            "uid": f"made_up/{number}",
            "trajectory": 0,
            "pattern": "focus>answer",
        }

    write_parquet([row(i) for i in range(ROWS)], SFT_SCHEMA, folder / "train.parquet")
    write_parquet([row(i) for i in range(ROWS, ROWS + VAL_ROWS)], SFT_SCHEMA, folder / "val.parquet")
    return folder


@pytest.fixture(scope="session")
def overrides(sft_rows: Path) -> Callable[..., list[str]]:
    """The command line of a run of ten steps that saves to `folder`."""

    def overrides(folder: Path, *more: str) -> list[str]:
        return [
            f"+recipe={RECIPE}",
            f"data.train_files={sft_rows}/train.parquet",
            f"data.val_files={sft_rows}/val.parquet",
            f"data.train_batch_size={BATCH}",
            "data.micro_batch_size_per_gpu=2",
            "data.num_workers=0",
            f"model.path={digits_cold_start()}",
            "optim.lr_warmup_steps=2",
            "trainer.total_epochs=2",
            "trainer.logger=[file]",
            f"trainer.default_local_dir={folder}",
            *more,
        ]

    return overrides


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone, as torchrun announces it."""
    import verl  # noqa: F401  its plugin prepares torchvision, and the search path of the recipes

    variables = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    store = tmp_path_factory.mktemp("store") / "store"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(os, "sched_getaffinity", lambda pid: {0})  # threads that wait for each other spin
        torch.distributed.init_process_group("cpu:gloo", init_method=f"file://{store}", rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


class Killed(BaseException):
    """What a test raises in the place of kill -9."""


@pytest.fixture
def trainer_of(one_rank: None, overrides: Callable[..., list[str]]) -> Callable[..., Any]:
    """`trainer_of(folder, *overrides)`: our trainer, resumed or new, in this process."""
    from hydra import compose, initialize_config_module

    from cinema_verl.training.sft.trainer import CinemaSFTTrainer

    def trainer_of(folder: Path, *more: str) -> CinemaSFTTrainer:
        with initialize_config_module("verl.trainer.config", version_base=None):
            config = compose("sft_trainer_engine", overrides=overrides(folder, *more))
        return CinemaSFTTrainer(config)

    return trainer_of


@pytest.fixture(scope="session")
def torchrun(overrides: Callable[..., list[str]]) -> Callable[..., subprocess.Popen]:
    """`torchrun(folder, *overrides, ranks=1)`: start a run as a user does; its words go to `folder.log`."""

    def torchrun(folder: Path, *more: str, ranks: int = 1) -> subprocess.Popen:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
        command = [sys.executable, "-m", *launcher, "verl.trainer.sft_trainer", *overrides(folder, *more)]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", "VERL_PLATFORM": "cpu"} | os.environ
        with open(f"{folder}.log", "ab") as log:
            return subprocess.Popen(
                [*command, f"hydra.run.dir={folder}.hydra"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    return torchrun


def finish(process: subprocess.Popen, folder: Path) -> int:
    try:
        return process.wait(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        send(process, signal.SIGKILL)
        pytest.fail(f"no end after {TIME_LIMIT} s:\n{words(folder)[-3000:]}")


def send(process: subprocess.Popen, what: signal.Signals) -> None:
    """A signal for the launcher and everything that it started, as Slurm sends it."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            one.send_signal(what)
        except psutil.NoSuchProcess:
            continue


def words(folder: Path) -> str:
    return Path(f"{folder}.log").read_text(errors="replace")


def history(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Every record of `metrics.jsonl` that is the same in any two runs: no times, no memory."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        (record["step"], {k: v for k, v in record["data"].items() if not k.startswith("perf/") and k != "train/mfu"})
        for record in records
    ]


def weights(folder: Path, step: int = STEPS, name: str = "huggingface/model.safetensors") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / f"global_step_{step}" / name)


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=name)
