"""Canonical questions to the parquet of reinforcement learning: all files or none, the same bytes each time."""

import errno
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.data.directory import contents_of, write_dataset
from cinema_verl.data.schema import RL_SCHEMA
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.export import Export, to_parquet
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.sources import adapter

SCRIPT = Path(__file__).parents[2] / "data_preprocess" / "to_parquet.py"


def question(number, **changes):
    made = Question(
        uid=f"made/{number:05d}",
        source="made",
        source_id=f"{number:05d}",
        split="train",
        license="made up",
        modality="multi",
        question="Image 1: <image>\nImage 2: <image>\nSame?",
        images=tuple(ImageRef(f"/pictures/{number}-{place}.png", 28, 28, "0" * 64, "0" * 16) for place in range(2)),
        answer_type="mcq",
        answer="B",
        options=("yes", "no"),
    )
    return replace(made, **changes)


@pytest.fixture
def dataset(tmp_path):
    """Of 300 questions: 280 of split train, 20 of split test."""
    write_dataset(tmp_path / "set", [question(n, split="test" if n >= 280 else "train") for n in range(300)], [], {})
    return tmp_path / "set"


def rows(path):
    return pq.read_table(path).to_pylist()


def uids(*paths):
    return [row["extra_info"]["uid"] for path in paths for row in rows(path)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_question_is_a_row_of_the_schema(dataset, tmp_path):
    written = to_parquet([dataset], tmp_path / "rl", Export())
    assert {Path(path).name: count for path, count in written.items()} == {
        "test-00000.parquet": 20,
        "train-00000.parquet": 280,
    }
    for path in written:
        assert pq.read_schema(path).equals(RL_SCHEMA)
    first = rows(tmp_path / "rl" / "train-00000.parquet")[0]
    assert [message["role"] for message in first["prompt"]] == ["system", "user"]
    assert first["prompt"][1]["content"].endswith("Same?\nA. yes\nB. no")
    assert first["images"][1] == {"image": "/pictures/0-1.png", "min_pixels": 3136, "max_pixels": 602112}
    assert first["reward_model"]["ground_truth"] == "B"
    assert first["extra_info"]["num_images"] == 2
    assert [row["extra_info"]["index"] for row in rows(tmp_path / "rl" / "train-00000.parquet")] == list(range(280))


def test_equal_inputs_give_equal_bytes(dataset, tmp_path):
    for name in ("one", "two"):
        to_parquet([dataset], tmp_path / name, Export(val_fraction=0.2, rows_per_file=100))
    assert (
        names(tmp_path / "one")
        == names(tmp_path / "two")
        == [
            "test-00000.parquet",
            *(f"train-0000{number}.parquet" for number in range(3)),
            "val-00000.parquet",
        ]
    )
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_files_follow_one_another(dataset, tmp_path):
    to_parquet([dataset], tmp_path / "rl", Export(rows_per_file=120))
    files = sorted((tmp_path / "rl").glob("train-*"))
    assert [pq.read_metadata(file).num_rows for file in files] == [120, 120, 40]
    assert uids(*files) == [f"made/{number:05d}" for number in range(280)]
    assert rows(files[2])[0]["extra_info"]["index"] == 0


def test_validation_is_drawn_by_uid(dataset, tmp_path):
    to_parquet([dataset], tmp_path / "rl", Export(val_fraction=0.2))
    held = set(uids(tmp_path / "rl" / "val-00000.parquet"))
    assert 35 < len(held) < 80  # 56 on average, 6.7 the standard deviation
    assert not held & set(uids(tmp_path / "rl" / "train-00000.parquet"))
    assert set(uids(tmp_path / "rl" / "test-00000.parquet")) == {f"made/{number:05d}" for number in range(280, 300)}
    assert rows(tmp_path / "rl" / "val-00000.parquet")[0]["extra_info"]["split"] == "val"

    more = [question(number) for number in range(200, 400)]  # other questions come, some go
    write_dataset(tmp_path / "more", more, [], {})
    to_parquet([tmp_path / "more"], tmp_path / "rl2", Export(val_fraction=0.2))
    kept = set(uids(tmp_path / "rl2" / "val-00000.parquet"))
    both = {f"made/{number:05d}" for number in range(200, 280)}
    assert kept & both == held & both

    to_parquet([dataset], tmp_path / "rl3", Export(val_fraction=0.2, seed=1))
    assert set(uids(tmp_path / "rl3" / "val-00000.parquet")) != held


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": "C"}, "'made/00299': the gold answer 'C' is not a correct answer to itself"),
        ({"uid": "made/00000"}, "two questions have the uid 'made/00000'"),
    ],
)
def test_a_question_that_cannot_be_written_leaves_nothing(tmp_path, change, says):
    write_dataset(tmp_path / "set", [*(question(n) for n in range(299)), question(299, **change)], [], {})
    with pytest.raises(ValueError, match=says):
        to_parquet([tmp_path / "set"], tmp_path / "rl", Export(rows_per_file=100))
    assert names(tmp_path) == ["set"]


def test_what_is_there_is_not_overwritten(dataset, tmp_path):
    (tmp_path / "rl").mkdir()
    to_parquet([dataset], tmp_path / "rl", Export())  # an empty folder is welcome
    with pytest.raises(FileExistsError, match="is not empty: give --overwrite"):
        to_parquet([dataset], tmp_path / "rl", Export())


def test_a_full_disk_is_named(dataset, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/\.rl\.partial/"):
        to_parquet([dataset], tmp_path / "rl", Export())
    assert names(tmp_path) == ["set"]


def test_no_questions_and_no_data_set(dataset, tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(ValueError, match="verl cannot train on an empty file"):
        to_parquet([tmp_path / "none.jsonl"], tmp_path / "rl", Export())
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        to_parquet([tmp_path / "nowhere"], tmp_path / "rl", Export())
    (dataset / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="is not complete"):
        to_parquet([dataset], tmp_path / "rl", Export())


def test_kill_9_leaves_no_half_output(tmp_path):
    write_dataset(tmp_path / "set", [question(number) for number in range(2000)], [], {})
    command = [sys.executable, str(SCRIPT), "--input", str(tmp_path / "set"), "--output", str(tmp_path / "rl")]
    command += ["--rows-per-file", "200"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / ".rl.partial" / "train-00001.parquet").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert contents_of(tmp_path / "rl") == []
    subprocess.run(command, check=True, capture_output=True)
    to_parquet([tmp_path / "set"], tmp_path / "calm", Export(rows_per_file=200))
    assert names(tmp_path) == ["calm", "rl", "set"]
    for name in names(tmp_path / "calm"):
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "rl" / name).read_bytes()


def test_verl_reads_it(make_source, tmp_path, monkeypatch):
    from datasets import config as datasets_config
    from omegaconf import OmegaConf
    from verl.trainer.ppo.utils import create_rl_dataset
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from cinema_verl.demo.tiny_model import build_processor, build_tokenizer

    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = make_source(20)
    prepare(adapter("own"), source, tmp_path / "set", ConvertSettings(media_root=str(source)))
    written = to_parquet([tmp_path / "set"], tmp_path / "rl", Export(val_fraction=0.3))
    processor = build_processor(build_tokenizer())
    config = OmegaConf.create(
        {
            "custom_cls": {"path": "pkg://cinema_verl.data.dataset", "name": "CinemaDataset"},
            "max_prompt_length": 2000,
            "filter_overlong_prompts": False,
            "cinema_checks": "full",
            "cinema_image_root": str(tmp_path / "set" / "images"),
        }
    )
    files = list(written)
    ours = create_rl_dataset(files, config, processor.tokenizer, processor)
    plain = RLHFDataset(files, processor.tokenizer, config, processor)
    assert len(ours) == len(plain) == sum(written.values()) == 14
    assert [ours[number] for number in range(14)] == [plain[number] for number in range(14)]


def test_the_script(dataset, tmp_path, run):
    given = [str(SCRIPT), "--input", str(dataset), "--output", str(tmp_path / "rl"), "--val-fraction", "0.2"]
    done = run(*given)
    assert done.returncode == 0, done.stderr
    rl = tmp_path / "rl"
    assert f"       20 rows  {rl}/test-00000.parquet\n" in done.stdout
    assert f"data.train_files=[{rl}/train-00000.parquet]\n" in done.stdout
    assert f"data.val_files=[{rl}/val-00000.parquet]\n" in done.stdout
    again = run(*given)
    assert (again.returncode, again.stderr) == (
        1,
        f"to-parquet: {rl} is not empty: give --overwrite to replace it, or another --output\n",
    )
    assert "--val-fraction must be at least 0 and under 1" in run(*given, "--val-fraction", "1").stderr


def test_a_folder_is_replaced_where_that_is_asked_for(dataset, tmp_path):
    to_parquet([dataset], tmp_path / "rl", Export(rows_per_file=100))
    before = names(tmp_path / "rl")
    written = to_parquet([dataset], tmp_path / "rl", Export(), overwrite=True)
    assert names(tmp_path / "rl") == [Path(path).name for path in written] != before
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_folder_with_anything_else_in_it_is_not_replaced(dataset, tmp_path):
    to_parquet([dataset], tmp_path / "rl", Export())
    (tmp_path / "rl" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds thesis\.txt, which is not of such a folder"):
        to_parquet([dataset], tmp_path / "rl", Export(), overwrite=True)
    assert (tmp_path / "rl" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("fraction", "splits", "says"),
    [
        (1e-6, ("train",), r"holds out none of 5 questions of split train.*--val-fraction 0\.\d+ would hold out"),
        (1 - 1e-9, ("train",), "holds out all 5 questions"),
        (0.5, ("test",), "no question is of split train"),
    ],
)
def test_a_share_that_holds_out_nothing_or_everything_is_refused(tmp_path, fraction, splits, says):
    write_dataset(tmp_path / "few", (question(n, split=splits[n % len(splits)]) for n in range(5)), [], {})
    with pytest.raises(ValueError, match=says):
        to_parquet([tmp_path / "few"], tmp_path / "rl", Export(val_fraction=fraction))
    assert not (tmp_path / "rl").exists()


def test_the_share_that_the_refusal_names_holds_out_one(tmp_path):
    write_dataset(tmp_path / "few", (question(n) for n in range(5)), [], {})
    with pytest.raises(ValueError, match="would hold out") as refused:
        to_parquet([tmp_path / "few"], tmp_path / "rl", Export(val_fraction=1e-6))
    share = float(re.search(r"--val-fraction (0\.\d+) would", str(refused.value))[1])
    written = to_parquet([tmp_path / "few"], tmp_path / "rl", Export(val_fraction=share))
    assert written[str(tmp_path / "rl" / "val-00000.parquet")] >= 1
