"""The host path of a trajectory, beside verl's own: trajectories a second with an engine that answers at once.

    python benchmarks/host_path.py [--questions 4] [--group 8] [--rounds 5] [--sides ours stock] [--base CHECKOUT]

A round is a step without a model: prompts are drawn, agent loops decode and process their pictures, a Ray actor that
has the answers ready replies, the reward is computed, trajectories go through the transfer queue, the replay buffer
makes a batch of mixed groups, and its advantages are computed. `stock` is verl's trainer, single-turn loop, naive
reward manager, DAPO filter and GRPO with the same reward function; `base` is another checkout of this repository. Each
side has processes of its own; they take turns, so that what else the machine does meets all of them. CPU seconds
are of all processes of a side. `--rounds 20 --sides ours` shows whether memory grows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MICRO = ("actor.ppo", "rollout.log_prob", "ref.log_prob")
RIGHT = "<global>{0}</global><focus>{0}</focus><think>{0}</think><answer>7</answer>"
WRONG = "<focus>{0}</focus><think>{0}</think><answer>4</answer>"
WORDS = "the first is larger than the second and " * 8


# --- One side, in a process of its own ---------------------------------------------------------------------------


class Canned:
    """A rollout server that has its answers ready: right and wrong ones in turn for each question."""

    def __init__(self, answers: list[list[int]], images: int):
        self.answers, self.images = answers, images
        self.asked: Counter[int] = Counter()

    async def generate(self, prompt_ids: list[int], image_data: Any = None, **_: Any) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        assert len(image_data) == self.images
        question = hash(tuple(prompt_ids))
        self.asked[question] += 1
        ids = self.answers[self.asked[question] % 2]
        return TokenOutput(token_ids=ids, stop_reason="completed")

    def total(self) -> int:
        return self.asked.total()


def configuration(side: str, folder: Path, options: argparse.Namespace) -> Any:
    from hydra import compose, initialize_config_module

    keys = [
        "+recipe=cinema_cpu",
        f"actor_rollout_ref.model.path={folder}/model",
        f"data.train_files={folder}/{side}.parquet",
        f"data.val_files={folder}/{side}.parquet",
        f"data.train_batch_size={options.questions}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.questions}",
        f"actor_rollout_ref.rollout.n={options.group}",
        *("data.max_prompt_length=16384", "data.max_response_length=2048"),
        "actor_rollout_ref.rollout.calculate_log_probs=false",  # there is no actor to compare them with
        "algorithm.rollout_correction.bypass_mode=false",  # which would want them
        *("cinema.exploration_steps=1000", "cinema.annealing_steps=0", "cinema.image_conditions=[]"),
        *(f"actor_rollout_ref.{key}_micro_batch_size_per_gpu={options.questions * options.group}" for key in MICRO),
        f"trainer.default_local_dir={folder}/{side}",
    ]
    if side == "ours":
        keys.append("cinema.stages.exploration.filter=acc")
    if side == "stock":
        keys += [
            *("trainer.v1.trainer_mode=sync", "algorithm.adv_estimator=grpo", "reward.reward_manager.name=naive"),
            *("actor_rollout_ref.rollout.agent.agent_loop_manager_class=null", "reward.num_workers=1"),
            "actor_rollout_ref.rollout.agent.default_agent_loop=single_turn_agent",
            "actor_rollout_ref.rollout.router_config_path=null",
            *("data.custom_cls.path=null", "data.custom_cls.name=null", "trainer.total_training_steps=1000"),
            "algorithm.filter_groups.max_num_gen_batches=0",
        ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=keys)


def run_side(side: str, folder: Path, options: argparse.Namespace) -> None:
    """Say "ready", and answer each line of stdin with the figures of one round."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the protocol
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf, open_dict
    from transformers import AutoTokenizer
    from verl.experimental.reward_loop import RewardLoopManager
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ, get_trainer_cls
    from verl.utils.import_utils import load_class_from_fqn
    from verl.workers.rollout.llm_server import LLMServerClient
    from verl.workers.rollout.router import GlobalRequestLoadBalancer

    config = configuration(side, folder, options)
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, object_store_memory=options.store << 20)
    with open_dict(config):
        config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    tq.init(config.transfer_queue)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    trainer._init_tokenizer()
    trainer._init_dataloader()
    trainer.reward_loop_manager = RewardLoopManager(config=config, rm_resource_pool=None)
    trainer.replay_buffer.poll_interval = 0.02  # looking seldom would hide the differences
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    answers = [tokenizer.encode(text.format(WORDS), add_special_tokens=False) for text in (WRONG, RIGHT)]
    server = ray.remote(Canned).options(max_concurrency=64).remote(answers, options.images)
    balancer = ray.remote(GlobalRequestLoadBalancer).remote({"canned": server})
    name = OmegaConf.select(config, "actor_rollout_ref.rollout.agent.agent_loop_manager_class")
    manager = load_class_from_fqn(name, "AgentLoopManager") if name else AgentLoopManagerTQ
    trainer.agent_loop_manager = manager.create(
        config=config,
        llm_client=LLMServerClient(config, balancer),
        reward_loop_worker_handles=trainer.get_reward_handles(),
    )
    trainer.global_steps = 0
    say(out, {"ready": True})
    for _ in sys.stdin:
        say(out, one_round(trainer, options))
    assert ray.get(server.total.remote()) == trainer.global_steps * options.questions * options.group, "no refills"


def one_round(trainer: Any, options: argparse.Namespace) -> dict[str, float]:
    import transfer_queue as tq

    trainer.global_steps += 1
    begun, cpu = time.perf_counter(), cpu_seconds()
    trainer.prepare_step()
    batch, _ = trainer.replay_buffer.sample(
        global_steps=trainer.global_steps, partition_id="train", batch_size=options.questions
    )
    assert len(batch.keys) == options.questions * options.group
    trainer._scored = {}
    batch = trainer._compute_advantage(batch, {})
    seconds, cpu, held = time.perf_counter() - begun, cpu_seconds() - cpu, memory()
    tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
    return {"seconds": seconds, "cpu": cpu, "held": held, "after": memory(), "store": memory(part="Pss_Shmem")}


def say(out: Any, what: dict[str, Any]) -> None:
    out.write(json.dumps(what) + "\n")
    out.flush()


def cpu_seconds(main: psutil.Process | None = None) -> float:
    """Of a process, this one unless given, and all below it."""
    total = 0.0
    main = main or psutil.Process()
    for process in [main, *main.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def memory(main: psutil.Process | None = None, part: str = "Pss") -> float:
    """MiB of a process, this one unless given, and all below it; what several of them share counts once.

    Args:
        part: a line of Linux's `smaps_rollup`: all of it, or "Pss_Shmem", in which Ray's object store is.
    """
    total = 0
    main = main or psutil.Process()
    for process in [main, *main.children(recursive=True)]:
        try:
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{part}:"))
    return total / 2**10


# --- All sides ---------------------------------------------------------------------------------------------------


def write_data(folder: Path, options: argparse.Namespace) -> None:
    """Questions over pictures of noise, 16 rounds' worth or fewer; rows name their agent loop."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from host_memory import PATCHING, model_for_large_images
    from PIL import Image

    from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet

    model_for_large_images(folder)
    random = np.random.default_rng(0)
    limits = {"min_pixels": PATCHING.min_pixels, "max_pixels": PATCHING.max_pixels}
    rows = []
    for number in range(options.questions):
        cells = []
        for i in range(options.images):
            path = folder / f"{number}-{i}.jpg"
            noise = random.integers(0, 255, (options.side // 8, options.side // 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((options.side, options.side)).save(path, quality=90)
            cells.append(image_cell(path, **limits))
        text = "".join(f"Image {i + 1}: <image>\n" for i in range(options.images)) + f"Which digit? ({number})"
        row = {"index": number, "split": "train", "data_source": "noise", "ability": "none", "images": cells}
        row |= {"prompt": [{"role": "user", "content": text}], "modality": "multi", "question": text}
        rows.append(rl_row(uid=f"noise/{number}", answer="7", answer_type="number", **row))
    for side in ("ours", "base"):
        write_parquet(rows, RL_SCHEMA, folder / f"{side}.parquet")
    table = pq.read_table(folder / "ours.parquet")
    place = table.schema.get_field_index("agent_name")
    stock = table.set_column(place, "agent_name", pa.array(["single_turn_agent"] * len(table)))
    pq.write_table(stock, folder / "stock.parquet")


class Side:
    """One side's process."""

    def __init__(self, name: str, folder: Path, arguments: list[str], code: Path):
        environment = os.environ | {
            "PYTHONPATH": str(code),
            "VERL_PLATFORM": "cpu",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self.log = open(folder / f"{name}.log", "w")  # noqa: SIM115  as long as the process
        command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--as", name, "--folder", str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            cwd=folder,
        )
        self.name = name

    def hear(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            text = Path(self.log.name).read_text(errors="replace")
            raise SystemExit(f"{self.name} ended:\n{text[-4000:]}")
        return json.loads(line)

    def round(self) -> dict[str, float]:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=120)
        self.log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("questions", 4), ("group", 8), ("images", 4), ("side", 1008), ("rounds", 5), ("store", 600)
    for name, default in numbers:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default}")
    parser.add_argument("--sides", nargs="+", default=["ours", "stock"], choices=["ours", "stock"])
    parser.add_argument("--base", type=Path, help="another checkout of this repository, as a side")
    parser.add_argument("--as", dest="run_as", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run_as:
        return run_side(options.run_as, options.folder, options)

    here = Path(__file__).resolve().parents[1]
    arguments = [f"--{name}={getattr(options, name)}" for name, _ in numbers]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder, options)
        names = [*options.sides, *(["base"] if options.base else [])]
        sides = []
        for name in names:  # one after the other: a start takes all cores
            sides.append(Side(name, folder, arguments, options.base.resolve() if name == "base" else here))
            sides[-1].hear()
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(options.rounds + 1):
            for side in sides:
                figures = side.round()
                print(f"{number} {side.name}: " + ", ".join(f"{k} {v:.2f}" for k, v in figures.items()), flush=True)
                if number:  # the first warms
                    rounds[side.name].append(figures)
        for side in sides:
            side.end()
    report(rounds, options)


def report(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Medians, and the others' ratios to the first side round by round."""
    first = next(iter(rounds))
    for name, measured in rounds.items():
        rate = options.questions * options.group / np.median([one["seconds"] for one in measured])
        line = (
            f"{name:<6}{rate:7.2f} trajectories/s, {np.median([one['cpu'] for one in measured]):6.2f} CPU s a round, "
        )
        line += f"holds {measured[0]['held']:.0f} to {measured[-1]['held']:.0f} MiB (first and last round), "
        own = [one["after"] - one["store"] for one in measured]
        line += f"after a round {own[0]:.0f} to {own[-1]:.0f} without Ray's store"
        for key, word in (("seconds", "time"), ("cpu", "CPU")):
            ratios = sorted(one[key] / own[key] for one, own in zip(measured, rounds[first], strict=True))
            if name != first:
                line += f"; {np.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times the {word} of {first}"
        print(line)


if __name__ == "__main__":
    main()
