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

from cinema_verl import cli
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


# --- Fine-tuning, and files of any kind -----------------------------------------------------------------------------


@pytest.fixture
def sft(tmp_path, make_picture):
    """The fine-tuning rows of two questions over two images each, packed and moved; what they were made of is gone."""
    from cinema_verl.data.schema import SFT_SCHEMA, image_cell, sft_rows, write_parquet

    here = tmp_path / "here"
    here.mkdir()
    rows = []
    for number in range(2):
        paths = [here / f"{number}{place}.png" for place in range(2)]
        for place, path in enumerate(paths):
            path.write_bytes(make_picture(10 * number + place))
        rows += sft_rows(
            uid=f"made/{number}",
            prompt=[{"role": "user", "content": "<image><image>Same?"}],
            images=[image_cell(path, min_pixels=784, max_pixels=100_000) for path in paths],
            trajectories=[
                "<think>They differ.</think>\n<answer>no</answer>",
                "<focus>Both.</focus>\n<answer>no</answer>",
            ],
        )
    write_parquet(rows, SFT_SCHEMA, here / "sft.parquet")
    assert cli.main(["pack", "--input", str(here / "sft.parquet"), "--output", str(tmp_path / "packed")]) == 0
    shutil.rmtree(here)
    (tmp_path / "node").mkdir()
    return Path(shutil.move(tmp_path / "packed", tmp_path / "node" / "sft"))


def tuned(files, processor):
    from verl.trainer.sft_trainer import create_sft_dataset

    chosen = {"path": "pkg://cinema_verl.data.sft_dataset", "name": "CinemaSFTDataset"}
    config = OmegaConf.create(
        {"custom_cls": chosen, "max_length": 2000, "truncation": "error", "pad_mode": "no_padding"}
    )
    config.enable_thinking_default = None
    return create_sft_dataset([str(file) for file in files], config, processor.tokenizer, processor)


def test_moved_rows_are_fine_tuned_on(sft, processor):
    data_set = tuned([sft / "sft.parquet"], processor)
    assert len(data_set) == 4
    assert all(data_set[n]["multi_modal_inputs"]["pixel_values"].shape[0] > 0 for n in range(4))
    next((sft / "images").glob("*/*")).unlink()
    with pytest.raises(FileNotFoundError, match="node/sft/images"):
        [data_set[n] for n in range(4)]


def test_moved_files_of_several_folders_are_refused(sft, processor):
    other = sft.parent / "other"
    shutil.copytree(sft, other)
    with pytest.raises(DataError, match="`cinema-verl pack` makes one of several"):
        tuned([sft / "sft.parquet", other / "sft.parquet"], processor)


def test_a_packed_folder_is_packed_again(moved, tmp_path):
    files = sorted(moved.glob("*.parquet"))
    given = [part for file in files for part in ("--input", str(file))]
    assert cli.main(["pack", *given, "--output", str(tmp_path / "again")]) == 0
    for file in files:
        assert pq.read_table(file).equals(pq.read_table(tmp_path / "again" / file.name))
    assert len(list((tmp_path / "again" / "images").glob("*/*"))) == 4


def test_what_cannot_be_packed_leaves_nothing(moved, tmp_path, capsys):
    import pyarrow as pa

    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    file = moved / "train-00000.parquet"
    for files, says in (
        ([tmp_path / "other.parquet"], "has no column of images"),
        ([file, file], "several files are called train-00000.parquet"),
        ([tmp_path / "none.parquet"], f"{tmp_path}/none.parquet does not exist"),
        ([tmp_path / "broken.parquet"], f"{tmp_path}/broken.parquet cannot be read as parquet"),
        ([tmp_path], f"{tmp_path} cannot be read as parquet"),
    ):
        given = [part for each in files for part in ("--input", str(each))]
        assert cli.main(["pack", *given, "--output", str(tmp_path / "new")]) == 1
        assert says in capsys.readouterr().err
    next((moved / "images").glob("*/*")).unlink()
    given = [part for each in sorted(moved.glob("*.parquet")) for part in ("--input", str(each))]
    assert cli.main(["pack", *given, "--output", str(tmp_path / "new")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == []


def test_what_is_relative():
    assert is_relative("images/ab/a.png")
    assert not any(map(is_relative, ("/a.png", "file:///a.png", "", None, 3)))
    cells = [{"image": "a.png", "min_pixels": 1}, {"image": "/b.png"}, {"bytes": b"x"}, None]
    assert absolute(cells, "/data")[0] == {"image": "/data/a.png", "min_pixels": 1}
    assert absolute(cells, "/data")[1:] == cells[1:]
    assert absolute(None, "/data") is None
