"""What the trainer of this package costs beside verl's own: seconds and memory of a step.

    python benchmarks/trainer_overhead.py [--steps 6] [--questions 8] [--group 8] [--tokens 64]

`ours` is recipe cinema_cpu; `stock` is verl's synchronous trainer with DAPO (its filter, its loop, its agent-loop
manager, GRPO), given this package's CPU workers, without which it does not start there, and nothing else. Both have the
same rollout engine, data, seeds and random model, whose responses all have `--tokens` tokens, and a reward that
depends on the response's bytes, so that groups are mixed. Each side runs in processes of its own; steps take turns, so
that what else the machine does meets both. The first two of each side warm. Two cores, about 8 GiB, five minutes.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from host_path import MICRO, cpu_seconds, memory

WARM = 2
_EVERY = 0.05  # seconds between looks at the other process's file


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> dict:
    """Half of all responses are correct, by their bytes alone."""
    acc = float(hashlib.sha256(solution_str.encode()).digest()[0] % 2)
    return {"score": acc, "acc": acc, "format": 0.0, "pattern": "", "answer": ""}


def watched(trainer: type, folder: Path) -> type:
    """The trainer, which begins each step when it is told to and writes down how long it took."""

    class Watched(trainer):  # type: ignore[misc]
        def on_step_begin(self) -> None:
            while not (folder / f"go{self.global_steps}").exists():
                time.sleep(_EVERY)
            self.replay_buffer.poll_interval = _EVERY  # verl's is 2 s and has no key: it would hide everything
            self.begun = time.perf_counter()
            super().on_step_begin()

        def on_step_end(self) -> None:
            super().on_step_end()
            seconds = time.perf_counter() - self.begun
            written = folder / f"writing{self.global_steps}"
            written.write_text(json.dumps({"seconds": seconds}))
            written.rename(folder / f"done{self.global_steps}")

    return Watched


def run_side(side: str, folder: Path, options: argparse.Namespace) -> None:
    import ray
    from hydra import compose, initialize_config_module
    from omegaconf import open_dict
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    class Runner(TaskRunnerV1.__ray_actor_class__):  # type: ignore[misc, name-defined]
        def run(self, config: Any) -> None:
            from verl.trainer.ppo.utils import Role
            from verl.trainer.ppo.v1 import trainer_base

            from cinema_verl.training.worker import CinemaActorRolloutRefWorker

            mode = config.trainer.v1.trainer_mode
            chosen = watched(trainer_base.get_trainer_cls(mode), folder)
            if side == "stock":
                plain = chosen._init_resource_pool_mgr

                def with_cpu_workers(trainer: Any) -> None:
                    plain(trainer)
                    trainer.role_worker_mapping[Role.ActorRollout] = ray.remote(CinemaActorRolloutRefWorker)

                chosen._init_resource_pool_mgr = with_cpu_workers
            trainer_base.get_trainer_cls = lambda _: chosen
            import verl.trainer.ppo.v1 as v1

            v1.get_trainer_cls = lambda _: chosen
            TaskRunnerV1.__ray_actor_class__.run(self, config)

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides(side, folder, options))
    with open_dict(config):
        config.transfer_queue.enable = True
    run_ppo(config, task_runner_class=ray.remote(num_cpus=1)(Runner))


def overrides(side: str, folder: Path, options: argparse.Namespace) -> list[str]:
    data = folder.parent / "data"
    keys = [
        "+recipe=cinema_cpu",
        f"actor_rollout_ref.model.path={folder.parent}/model",
        *(f"data.train_files={data}/{side}.parquet", f"data.val_files={data}/test.parquet"),
        f"data.train_batch_size={options.questions}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.questions}",
        f"actor_rollout_ref.rollout.n={options.group}",
        f"data.max_response_length={options.tokens}",
        f"reward.custom_reward_function.path={Path(__file__).resolve()}",
        "actor_rollout_ref.rollout.ignore_eos=true",
        f"cinema.exploration_steps={options.steps + WARM}",
        *("cinema.annealing_steps=0", "cinema.stages.exploration.filter=acc"),
        *("cinema.image_conditions=[]", "trainer.val_before_train=false", "trainer.test_freq=-1"),
        *("trainer.save_freq=-1", "trainer.logger=[]", "trainer.rollout_data_dir=null"),
        *(f"actor_rollout_ref.{key}_micro_batch_size_per_gpu={options.questions * options.group}" for key in MICRO),
        f"trainer.default_local_dir={folder}/run",
    ]
    if side == "stock":
        keys += [
            *("trainer.v1.trainer_mode=sync", "algorithm.adv_estimator=grpo"),
            f"trainer.total_training_steps={options.steps + WARM}",
            *("actor_rollout_ref.rollout.agent.agent_loop_manager_class=null", "reward.num_workers=1"),
            "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent",
            "actor_rollout_ref.rollout.router_config_path=null",
            *("data.custom_cls.path=null", "data.custom_cls.name=null"),
            "algorithm.filter_groups.max_num_gen_batches=0",
        ]
    return keys


# --- Both sides --------------------------------------------------------------------------------------------------


class Side:
    """One side's processes."""

    def __init__(self, name: str, folder: Path, arguments: list[str]):
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        here = Path(__file__).resolve()
        environment = os.environ | {
            "PYTHONPATH": f"{here.parents[1]}:{here.parent}",
            "VERL_PLATFORM": "cpu",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.log = open(self.folder / "log.txt", "w")  # noqa: SIM115  as long as the process
        command = [sys.executable, str(here), *arguments, "--as", name, "--folder", str(self.folder)]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, env=environment, cwd=self.folder, start_new_session=True
        )
        self.main = psutil.Process(self.process.pid)

    def step(self, number: int) -> dict[str, float]:
        """Let it make a step; seconds, CPU seconds of all its processes, and their MiB when it is through."""
        begun = cpu_seconds(self.main)
        (self.folder / f"go{number}").touch()
        done = self.folder / f"done{number}"
        while not done.exists():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} ended:\n{(self.folder / 'log.txt').read_text(errors='replace')[-4000:]}")
            time.sleep(_EVERY)
        cpu = cpu_seconds(self.main) - begun
        return json.loads(done.read_text()) | {"cpu": cpu, "memory": memory(self.main)}


def write_inputs(folder: Path) -> None:
    import pyarrow.parquet as pq

    from cinema_verl.demo.digits import Sizes, write_dataset
    from cinema_verl.demo.tiny_model import save_tiny_model

    save_tiny_model(folder / "model")
    write_dataset(folder / "data", Sizes(train=512, test=4, sft_train=0, sft_val=0))
    table = pq.read_table(folder / "data" / "train.parquet")
    pq.write_table(table, folder / "data" / "ours.parquet")
    pq.write_table(table.drop_columns(["agent_name"]), folder / "data" / "stock.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("steps", 6), ("questions", 8), ("group", 8), ("tokens", 64)
    for name, default in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default}")
    parser.add_argument("--as", dest="run_as", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_as:
        return run_side(options.run_as, options.folder, options)
    arguments = [f"--{name}={getattr(options, name)}" for name, _ in numbers]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder)
        measured: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
        sides = []
        try:
            for name in measured:
                sides.append(Side(name, folder, arguments))
                sides[-1].step(1)  # which ends when it has started: a start takes all cores
            for number in range(2, options.steps + WARM + 1):
                for side in sides if number % 2 else sides[::-1]:
                    figures = side.step(number)
                    print(f"{number} {side.name}: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)
                    if number > WARM:
                        measured[side.name].append(figures)
        finally:
            for side in sides:
                end(side)
    report(measured)


def end(side: Side) -> None:
    """A side that is through ends by itself; one that is not is killed, its children first."""
    try:
        side.process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        for process in [*side.main.children(recursive=True), side.main]:
            process.kill()
    side.log.close()


def report(measured: dict[str, list[dict[str, float]]]) -> None:
    for key, unit in (("seconds", "s a step"), ("cpu", "CPU s a step"), ("memory", "MiB")):
        ours, stock = ([one[key] for one in measured[name]] for name in ("ours", "stock"))
        ratios = sorted(a / b for a, b in zip(ours, stock, strict=True))
        print(
            f"{unit:<13} ours {np.median(ours):8.2f}, stock {np.median(stock):8.2f}; ratio {np.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}, {len(ratios)} pairs)"
        )
    highest = {name: max(one["memory"] for one in steps) for name, steps in measured.items()}
    print(f"highest       ours {highest['ours']:.0f} MiB, {highest['ours'] / highest['stock']:.3f} of stock's")


if __name__ == "__main__":
    main()
