"""A folder of parquet and images that is moved, through verl's own doors."""

import io
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image
from verl.trainer.ppo.utils import create_rl_dataset

from cinema_verl.data.check import DataError
from cinema_verl.data.movable import absolute, is_relative
from cinema_verl.prepare.commands.prepare import main as prepare
from cinema_verl.prepare.commands.to_parquet import main as to_parquet

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def moved(tmp_path, make_picture):
    """(folder that was moved, the bytes of its rows' images): what it was made of is gone."""
    source = tmp_path / "mine"
    source.mkdir()
    for number in range(4):
        (source / f"{number}.png").write_bytes(make_picture(number))
    rows = [
        {"id": str(n), "question": "Are they alike?", "answer": "no", "images": [f"{n}.png", f"{(n + 1) % 4}.png"]}
        for n in range(4)
    ]
    (source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert prepare(["own", "--input", str(source), "--output", str(tmp_path / "set"), "--workers", "0"]) == 0
    given = ["--input", str(tmp_path / "set"), "--output", str(tmp_path / "rl"), "--copy-images"]
    assert to_parquet([*given, "--rows-per-file", "3"]) == 0
    shutil.rmtree(tmp_path / "set")
    shutil.rmtree(source)
    (tmp_path / "elsewhere").mkdir()
    return Path(shutil.move(tmp_path / "rl", tmp_path / "elsewhere" / "rl"))


def create(files, processor, max_samples=-1, **options):
    config = OmegaConf.create(
        {
            "custom_cls": {"path": "pkg://cinema_verl.data.dataset", "name": "CinemaDataset"},
            "max_prompt_length": 2000,
            "filter_overlong_prompts": False,
            "shuffle": True,
            "seed": 3,
            **options,
        }
    )
    files = [str(file) for file in files]
    return create_rl_dataset(files, config, processor.tokenizer, processor, max_samples=max_samples)


def test_a_moved_folder_is_read_by_the_data_set(moved, processor, make_picture):
    files = sorted(moved.glob("*.parquet"))
    assert [path.name for path in files] == ["train-00000.parquet", "train-00001.parquet"]
    assert len(list((moved / "images").glob("*/*.png"))) == 4, "each image once"
    cells = [cell for file in files for row in pq.read_table(file).to_pylist() for cell in row["images"]]
    assert all(is_relative(cell["image"]) for cell in cells)
    data_set = create(files, processor, cinema_checks="full", cinema_image_root=str(moved))
    for row in data_set:
        number = int(row["extra_info"]["uid"].removeprefix("own/"))
        shown = [part["image"] for message in row["raw_prompt"] for part in message["content"] if "image" in part]
        expected = [make_picture(number), make_picture((number + 1) % 4)]
        for path, data in zip(shown, expected, strict=True):
            picture = Image.open(path["image"] if isinstance(path, dict) else path)
            assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_files_of_two_folders_each_with_its_own_images(moved, processor):
    other = moved.parent.parent / "other"
    shutil.copytree(moved, other)
    files = [moved / "train-00000.parquet", other / "train-00001.parquet"]
    paths = [cell["image"] for row in create(files, processor).rows() for cell in row["images"]]
    assert [Path(path).is_relative_to(other) for path in paths] == [False] * 6 + [True] * 2


def test_a_fault_is_found_at_its_place_in_a_selection_in_another_mode(moved, processor):
    """Maps over the rows forget which of them were selected."""
    for picture in (moved / "images").glob("*/*"):
        picture.unlink()
    files = sorted(moved.glob("*.parquet"))
    with pytest.raises(DataError) as caught:
        create(files, processor, max_samples=2, cinema_prompt_mode="direct")
    places = {(Path(fault.file).name, fault.row, fault.uid) for fault in caught.value.faults}
    assert {fault.code for fault in caught.value.faults} == {"image_missing"}
    uids = {
        (file.name, n): row["extra_info"]["uid"]
        for file in files
        for n, row in enumerate(pq.read_table(file).to_pylist())
    }
    assert len(places) == 2
    assert all(uids[file, row] == uid for file, row, uid in places)


def test_what_is_relative():
    assert is_relative("images/ab/a.png")
    assert not any(map(is_relative, ("/a.png", "file:///a.png", "", None, 3)))
    cells = [{"image": "a.png", "min_pixels": 1}, {"image": "/b.png"}, {"bytes": b"x"}, None]
    assert absolute(cells, "/data")[0] == {"image": "/data/a.png", "min_pixels": 1}
    assert absolute(cells, "/data")[1:] == cells[1:]
    assert absolute(None, "/data") is None
