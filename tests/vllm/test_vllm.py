"""verl's vLLM engine, driven through the plugin on a CPU: trained, stopped, resumed, validated, evaluated.

Not part of any other run of the tests: vLLM has pins of its own. `make test-vllm` makes the environment and runs this.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import psutil
import pytest

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.training.checkpoint import complete_steps

pytestmark = pytest.mark.vllm

SITE = Path(__file__).parent / "site"
STEPS = 3
SIGTERM_CODE = 143
TIME_LIMIT = 1800  # seconds; a run takes two to four minutes on two idle cores
ENGINE = (
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.free_cache_engine=false",  # its sleep needs a GPU
    "+actor_rollout_ref.rollout.enable_sleep_mode=false",
    "actor_rollout_ref.rollout.enforce_eager=true",  # compiling takes longer than the run
    "algorithm.rollout_correction.bypass_mode=false",  # compare the probabilities in every step
)
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "RAY_raylet_start_wait_time_s": "180",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    write_dataset(folder, Sizes(train=200, test=8, sft_train=0, sft_val=0))
    # vLLM for the CPU is distributed under another name than the one that verl asks for.
    version = f"{metadata.version('vllm-cpu')}+cpu"
    info = folder / "site" / f"vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return folder


def environment_of(folder):
    path = [str(SITE), str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)}


def start(folder, recipe, *overrides):
    command = [sys.executable, "-m", "verl.trainer.main_ppo", f"+recipe={recipe}", *ENGINE, *overrides]
    command.append(f"hydra.run.dir={folder}/hydra")
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment_of(folder), stdout=log, stderr=log)


def train(folder, *overrides):
    return start(
        folder,
        "cinema_cpu",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/test.parquet",
        "cinema.exploration_steps=2",
        "cinema.annealing_steps=1",
        "trainer.save_freq=100",
        "trainer.test_freq=100",
        f"trainer.default_local_dir={folder}/run",
        *overrides,
    )


def finish(process, folder):
    try:
        return process.wait(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.send_signal(signal.SIGKILL)
        pytest.fail(f"no end after {TIME_LIMIT} s:\n{said(folder)}")


def said(folder):
    return (folder / "log.txt").read_text(errors="replace")[-5000:]


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def trained(folder):
    """A run that is told to stop during its first steps, and is then started again."""
    process = train(folder, "trainer.val_before_train=false")
    deadline = time.monotonic() + TIME_LIMIT
    while not records(folder / "run" / "metrics.jsonl"):
        assert process.poll() is None, said(folder)
        assert time.monotonic() < deadline, said(folder)
        time.sleep(0.2)
    process.terminate()
    assert finish(process, folder) == SIGTERM_CODE, said(folder)
    (stopped_after,) = complete_steps(folder / "run")
    assert stopped_after < STEPS
    assert finish(train(folder), folder) == 0, said(folder)
    return folder / "run"


def test_a_run_that_was_stopped_goes_on_and_every_step_is_there_once(trained):
    history = records(trained / "metrics.jsonl")
    steps = [record["step"] for record in history if "cinema/acc" in record["data"]]
    assert steps == list(range(1, STEPS + 1))
    for record in history:
        if "cinema/acc" in record["data"]:
            assert record["data"]["training/rollout_probs_diff_max"] < 1e-3, "vLLM and the actor have other weights"
            assert 0 < record["data"]["cinema/acc"] < 1
    last = next(record["data"] for record in reversed(history) if record["step"] == STEPS)
    assert any(name.startswith("val-core/") for name in last)
    print({r["step"]: r["data"]["training/rollout_probs_diff_max"] for r in history if "cinema/acc" in r["data"]})


def test_trajectories_end_at_the_answer_and_those_of_a_question_differ(trained):
    groups = defaultdict(list)
    for step in range(1, STEPS + 1):
        for record in records(trained / "rollouts" / f"{step}.jsonl"):
            groups[step, record["uid"].split("_")[0]].append(record)
    assert len(groups) >= STEPS * 2
    for rollouts in groups.values():
        for one in rollouts:
            assert one["stop_reason"] in ("answer", "eos", "length")
            assert (one["stop_reason"] == "answer") == one["output"].endswith("</answer>"), one["output"]
            assert "<|" not in one["output"], "a vision token, or one of the chat"
        assert len({one["output"] for one in rollouts}) > 1, "each session draws from a seed of its own"


def test_the_policy_is_evaluated_over_its_images_and_over_others(folder, trained):
    process = start(
        folder,
        "cinema_evaluate_cpu",
        f"data.val_files={folder}/test.parquet",
        f"actor_rollout_ref.model.path={trained}/global_step_{STEPS}/actor/huggingface",
        "actor_rollout_ref.rollout.val_kwargs.n=2",
        f"trainer.validation_data_dir={folder}/evaluation",
    )
    assert finish(process, folder) == 0, said(folder)
    sources = {record["data_source"] for record in records(folder / "evaluation" / "0.jsonl")}
    assert {source.rpartition("@")[2] for source in sources} >= {"shuffled", "blank"}


def test_a_question_is_prefilled_on_one_of_two_replicas(folder):
    """By verl's routing each replica prefills each question; G replicas would, too."""
    command = [sys.executable, str(Path(__file__).parents[2] / "benchmarks" / "vllm_routing.py")]
    with open(folder / "log.txt", "ab") as log:
        done = subprocess.run(
            command, env=environment_of(folder), stdout=subprocess.PIPE, stderr=log, timeout=TIME_LIMIT
        )
    assert done.returncode == 0, said(folder)
    lines = [line for line in done.stdout.decode().splitlines() if line.startswith("{")]  # vLLM writes there, too
    sides = {one["side"]: one for one in map(json.loads, lines)}
    print(sides)
    assert (sides["ours"]["replicas a question"], sides["verl"]["replicas a question"]) == (1.0, 2.0)
    assert sides["ours"]["load"] == sides["verl"]["load"] == [32, 32]
    assert sides["ours"]["prompt tokens"] == sides["verl"]["prompt tokens"]
    assert sides["ours"]["prefilled"] <= 1.1 / 2 * sides["verl"]["prefilled"]
