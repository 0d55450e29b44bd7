"""The whole of it on a CPU: both stages, killed in the middle, resumed, through verl's own entry point."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.runs.locate import RUN
from cinema_verl.schedule import AnnealingSchedule
from cinema_verl.training.checkpoint import complete_steps
from cinema_verl.training.log_probs import GAP
from cinema_verl.training.stop_signal import EXIT_CODE

from .conftest import finish, kill, log_of

SCHEDULE = AnnealingSchedule(exploration_steps=2, annealing_steps=2)
SECOND_STAGE = (
    "cinema.stages.exploitation.n=4",
    "cinema.stages.exploitation.temperature=0.7",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
)
TIME_LIMIT = 900  # seconds; a run takes about one minute


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_dataset(folder, Sizes(train=200, test=16, sft_train=0, sft_val=0))
    return folder


def start(folder: Path, data: Path, *overrides: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        "+recipe=cinema_cpu",
        f"data.train_files={data}/train.parquet",
        f"data.val_files={data}/test.parquet",
        f"cinema.exploration_steps={SCHEDULE.exploration_steps}",
        f"cinema.annealing_steps={SCHEDULE.annealing_steps}",
        "trainer.save_freq=1",
        "trainer.test_freq=-1",
        f"trainer.default_local_dir={folder}/checkpoints",
        f"trainer.validation_data_dir={folder}/validation",
        f"hydra.run.dir={folder}/hydra",
        *overrides,
    ]
    environment = os.environ | {"VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl")}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def records(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_run_killed_in_the_middle_resumes_on_the_same_schedule(tmp_path, data):
    process = start(tmp_path, data, *SECOND_STAGE)
    deadline = time.monotonic() + TIME_LIMIT
    tracker = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    while not (tracker.exists() and tracker.read_text() == "2"):
        assert process.poll() is None, log_of(tmp_path)[-5000:]
        assert time.monotonic() < deadline, log_of(tmp_path)[-5000:]
        time.sleep(0.05)
    kill(process)
    seen = [record["step"] for record in records(tmp_path) if "cinema/acc" in record["data"]]
    assert seen[-1] < SCHEDULE.total_steps

    assert finish(start(tmp_path, data, *SECOND_STAGE), tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]

    rollouts = tmp_path / "checkpoints" / "rollouts"
    assert [len((rollouts / f"{step}.jsonl").read_text().splitlines()) for step in (1, 3, 4)] == [64, 32, 32]
    history = {record["step"]: record["data"] for record in records(tmp_path) if "cinema/acc" in record["data"]}
    steps = [record["step"] for record in records(tmp_path) if "cinema/acc" in record["data"]]
    # verl saves a step before it logs it: the kill may have come in between, and takes no step from the history.
    assert steps == [1, 2, 3, 4]
    validation = next(record["data"] for record in records(tmp_path) if record["step"] == 0)
    assert validation["cinema/image_dependence"] > 0, "the validation before training is part of the history, and looks"
    gaps = {step: metrics[GAP] for step, metrics in history.items() if GAP in metrics}
    assert len(gaps) >= 2, "compared in the first step of each start, and so in both stages, at their temperatures"
    assert max(gaps.values()) < 1e-4, "rollout engine and actor disagree"
    for step, metrics in history.items():
        assert metrics["cinema/diversity_coefficient"] == pytest.approx(SCHEDULE(step))
        assert metrics["cinema/stage"] == SCHEDULE.stage(step)
        assert metrics["actor/entropy"] > 0
        assert 0 < metrics["cinema/acc"] < 1
        for name in ("format", "pattern_entropy", "unique_patterns", "diversity_advantage_share"):
            assert f"cinema/{name}" in metrics
        assert metrics["cinema/dynamic_sampling/mixed"] > 0
        assert metrics["cinema/dynamic_sampling/kept_groups"] == 8
        if SCHEDULE.stage(step) == 1:
            assert metrics["cinema/dynamic_sampling/generated_groups"] == 8, "exploration takes every group"

    import verl  # noqa: F401  its plugin makes transformers' image processors importable beside a CPU torch
    from transformers import AutoModelForImageTextToText

    policy = tmp_path / "checkpoints" / "global_step_4" / "actor" / "huggingface"
    AutoModelForImageTextToText.from_pretrained(policy)


@pytest.mark.slow
def test_sigterm_ends_the_step_and_saves_and_the_same_command_goes_on(tmp_path, data):
    process = start(tmp_path, data, "trainer.save_freq=100")
    deadline = time.monotonic() + TIME_LIMIT
    while not any("cinema/acc" in record["data"] for record in records(tmp_path)):
        assert process.poll() is None, log_of(tmp_path)[-5000:]
        assert time.monotonic() < deadline, log_of(tmp_path)[-5000:]
        time.sleep(0.05)
    process.terminate()
    assert finish(process, tmp_path, TIME_LIMIT) == EXIT_CODE, log_of(tmp_path)[-5000:]
    (saved,) = complete_steps(tmp_path / "checkpoints")
    assert saved < SCHEDULE.total_steps
    assert records(tmp_path)[-1]["step"] == saved

    process = start(tmp_path, data, "trainer.save_freq=100")
    while len(json.loads((tmp_path / "checkpoints" / RUN).read_text())["starts"]) < 2:
        assert process.poll() is None, log_of(tmp_path)[-5000:]
        assert time.monotonic() < deadline, log_of(tmp_path)[-5000:]
        time.sleep(0.05)
    (tmp_path / "second").mkdir()
    second = start(tmp_path / "second", data, f"trainer.default_local_dir={tmp_path}/checkpoints")
    assert finish(second, tmp_path / "second", TIME_LIMIT) == 1
    assert "another run is at work" in log_of(tmp_path / "second")
    assert finish(process, tmp_path, TIME_LIMIT) == 0, log_of(tmp_path)[-5000:]

    steps = [record["step"] for record in records(tmp_path) if "cinema/acc" in record["data"]]
    assert steps == list(range(1, SCHEDULE.total_steps + 1))
    said = log_of(tmp_path)
    assert f"cinema-verl report {tmp_path}/checkpoints\n" in said
    assert f"actor_rollout_ref.model.path={tmp_path}/checkpoints/global_step_4/actor/huggingface" in said


def test_a_dataset_with_a_missing_image_stops_before_the_first_step(tmp_path, data):
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "train.parquet").to_pylist()
    rows[3]["images"][0]["image"] = str(tmp_path / "gone.png")
    from cinema_verl.data.schema import RL_SCHEMA, write_parquet

    write_parquet(rows, RL_SCHEMA, tmp_path / "train.parquet")
    process = start(tmp_path, data, f"data.train_files={tmp_path}/train.parquet")
    assert finish(process, tmp_path, TIME_LIMIT) != 0
    assert "gone.png" in log_of(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("global_step_*"))
