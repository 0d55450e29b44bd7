"""Rows that verl could not train on are refused by name, before they are written."""

import pyarrow.parquet as pq
import pytest

from cinema_verl.data.schema import (
    RL_SCHEMA,
    SFT_SCHEMA,
    RowError,
    image_cell,
    parquet_writer,
    rl_row,
    sft_rows,
    write_parquet,
)

PROMPT = [{"role": "user", "content": "Image A: <image>\nImage B: <image>\nWhich is larger?"}]
IMAGES = [image_cell(f"/data/{name}.png", min_pixels=784, max_pixels=784) for name in "ab"]


def _rl(**changes):
    arguments = {
        "uid": "q/7",
        "index": 7,
        "split": "train",
        "data_source": "digits/largest",
        "ability": "multi_image_reasoning",
        "prompt": PROMPT,
        "images": IMAGES,
        "modality": "multi",
        "question": "Which is larger?",
        "answer": "B",
        "answer_type": "mcq",
        "options": ("Image A", "Image B"),
    }
    return rl_row(**(arguments | changes))


def test_rl_row_survives_the_file(tmp_path):
    row = _rl()
    write_parquet([row], RL_SCHEMA, tmp_path / "train.parquet")
    table = pq.read_table(tmp_path / "train.parquet")
    assert table.schema.equals(RL_SCHEMA)
    assert table.to_pylist() == [row]
    assert row["extra_info"]["num_images"] == 2
    assert row["extra_info"]["options_json"] == '["Image A", "Image B"]'
    assert row["agent_name"] == "cinema"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": IMAGES[:1], "modality": "single"}, r"2 <image> placeholder\(s\) for 1 image"),
        ({"images": []}, "images is empty"),
        ({"images": [image_cell("a.png", min_pixels=784, max_pixels=784), IMAGES[1]]}, "absolute path"),
        ({"images": [image_cell("/a.png", min_pixels=785, max_pixels=784), IMAGES[1]]}, "0 < min_pixels <= max_pixels"),
        ({"images": [{**IMAGES[0], "bytes": None}, IMAGES[1]]}, r"image 1 of 2 .*'bytes'.* not its bytes"),
        ({"prompt": []}, "not a list of {role, content}"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "not a list of {role, content}"),
        ({"prompt": [{"role": "user", "content": "<video> <image> <image>"}]}, "Store the frames as images"),
        ({"modality": "video"}, "unknown modality"),
        ({"modality": "single"}, "exactly one image"),
        ({"answer": 7}, "is not text"),
        ({"answer": " "}, "not a correct answer to itself"),
        ({"data_source": None}, "column 'data_source' is null"),
        ({"prompt": [{**PROMPT[0], "name": "x"}]}, r"prompt\[0\].*unknown keys: name"),
    ],
)
def test_bad_rl_rows_are_refused_by_name(changes, says):
    with pytest.raises(RowError, match=says) as caught:
        _rl(**changes)
    assert "'q/7'" in str(caught.value)


GOOD = "<focus>B shows 9</focus><answer>B</answer>"
OTHER = "<global>growing</global><answer>B</answer>"


def test_sft_rows_repeat_the_prompt_and_name_the_pattern(tmp_path):
    rows = sft_rows(uid="q/7", prompt=PROMPT, images=IMAGES, trajectories=(GOOD, OTHER))
    assert [row["trajectory"] for row in rows] == [0, 1]
    assert [row["pattern"] for row in rows] == ["focus>answer", "global>answer"]
    assert rows[0]["messages"] == [*PROMPT, {"role": "assistant", "content": GOOD}]
    write_parquet(rows, SFT_SCHEMA, tmp_path / "sft.parquet")
    assert pq.read_table(tmp_path / "sft.parquet").to_pylist() == rows


@pytest.mark.parametrize(
    ("trajectories", "says"),
    [
        ((GOOD, GOOD), "share the pattern focus>answer"),
        ((GOOD, "<focus>see <image></focus><answer>B</answer>"), "'Image 2' where you mean the words"),
        (
            (GOOD, "<answer>B</answer>"),
            r"trajectory 1': the trajectory breaks .*starts_with_answer",
        ),
        ((GOOD, "<think></think><answer>B</answer>"), "empty_body"),
    ],
)
def test_bad_trajectories_are_refused(trajectories, says):
    with pytest.raises(RowError, match=says):
        sft_rows(uid="q/7", prompt=PROMPT, images=IMAGES, trajectories=trajectories)


def test_global_is_refused_over_a_single_image():
    prompt = [{"role": "user", "content": "<image> Even?"}]
    with pytest.raises(RowError, match="global_on_single_image"):
        sft_rows(uid="q/7", prompt=prompt, images=IMAGES[:1], trajectories=(OTHER,))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet([_rl()], RL_SCHEMA, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="no rows"):
        write_parquet([], RL_SCHEMA, path)
    with pytest.raises((TypeError, ValueError)):
        write_parquet([_rl() | {"prompt": 3}], RL_SCHEMA, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_streamed_file_has_the_same_bytes_however_its_rows_come(tmp_path):
    rows = [_rl() | {"data_source": f"made/{number}"} for number in range(10)]
    for name, batches in (("one", [rows]), ("each", [[row] for row in rows]), ("some", [rows[:3], [], iter(rows[3:])])):
        with parquet_writer(tmp_path / f"{name}.parquet", RL_SCHEMA, rows_per_group=4) as write:
            assert sum(map(write, batches)) == 10
    file = pq.ParquetFile(tmp_path / "one.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4, 4, 2]
    assert file.read().to_pylist() == rows
    assert file.schema_arrow == RL_SCHEMA
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_stream_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "train.parquet"
    write_parquet([_rl()], RL_SCHEMA, path)
    before = path.read_bytes()

    def rows():
        yield from (_rl(), _rl())
        raise KeyError("the third question")

    with pytest.raises(KeyError), parquet_writer(path, RL_SCHEMA, rows_per_group=1) as write:
        write(rows())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
