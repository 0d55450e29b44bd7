"""Every source: its help shows the row that it reads, and that row converts, over made media; and the scripts."""

import json
import runpy
import sys
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cinema_verl.data.directory import read_questions
from cinema_verl.data.sources import BENCHMARK, SHIPPED, TRAIN
from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.prepare import sources
from cinema_verl.prepare.commands.prepare import main
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.sources import adapter

FOLDER = Path(__file__).parents[2] / "data_preprocess"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def test_an_adapter_says_what_the_table_says():
    assert list(SHIPPED.values()).count(TRAIN) == 16
    assert list(SHIPPED.values()).count(BENCHMARK) == 10
    for name, kind in SHIPPED.items():
        assert (adapter(name).name, adapter(name).benchmark) == (name, kind == BENCHMARK)
    modules = {path.stem for path in Path(sources.__file__).parent.glob("*.py") if "ADAPTER = " in path.read_text()}
    assert modules == set(SHIPPED), "a source that nobody would find"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"data_preprocess/{name}.py", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    command = "sets" if name == "cinema_sets" else name.replace("_", "-")
    assert "digits.py" in out if name == "digits" else f"cinema-verl {command} " in out


@pytest.mark.parametrize("name", SHIPPED)
def test_help_of_a_source(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    example = json.dumps(dict(adapter(name).example), ensure_ascii=False, indent=2)
    assert "\n".join(f"  {line}" for line in example.splitlines()) in out
    assert adapter(name).license in out
    assert adapter(name).about.strip() in out
    assert f"cinema-verl prepare {name} " in out


@pytest.mark.parametrize("name", SHIPPED)
def test_adapters_are_small(name):
    """A new source is under 60 lines beside what it says to its users: what is longer belongs to what they share."""
    source = Path(sources.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    assert len(source.split('"""', 2)[2].strip().splitlines()) < 60


# --- Each example, from its file to a dataset directory -------------------------------------------------------------


def media_of(value):
    """The relative paths of pictures and videos that a row names, wherever they stand in it."""
    if isinstance(value, dict):
        return [path for item in value.values() for path in media_of(item)]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in media_of(item)]
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return media_of(json.loads(value))
        except ValueError:
            return []
    suffix = PurePosixPath(value).suffix if isinstance(value, str) and "\n" not in value else ""
    return [value] if suffix in (".jpg", ".png", ".mp4") else []


# Where a row's video is, for sources that do not write it as a path.
VIDEOS = {
    "llava_video_178k": "0_30_s_academic_v0_1/academic_source/kitchen/v8.mp4",
    "video_mme": "aB3_xyz.mp4",
    "videommmu": "Business/dev_Accounting_9.mp4",
}
EXPECTED = {  # (images, modality, answer type, answer) of each example
    "m4_instruct": (2, "multi", "yesno", "Yes"),
    "mantis_instruct": (2, "multi", "mcq", "B"),
    "virl39k": (2, "multi", "mcq", "A"),
    "mm_eureka": (1, "single", "number", r"\frac{3}{2}"),
    "mmk12": (1, "single", "number", "120"),
    "geometry3k": (1, "single", "latex", r"3 \sqrt { 2 }"),
    "mmr1": (1, "single", "number", "4"),
    "openmmreasoner": (1, "single", "text", "mantle"),
    "video_r1": (8, "frames", "mcq", "B"),
    "video_r1_cot": (8, "frames", "mcq", "B"),
    "videorft_cot": (8, "frames", "mcq", "B"),
    "videorft_rl": (8, "frames", "mcq", "B"),
    "llava_video_178k": (8, "frames", "mcq", "B"),
    "own": (2, "multi", "mcq", "B"),
    "rl_parquet": (2, "multi", "mcq", "B"),
    "muirbench": (3, "multi", "mcq", "B"),
    "mmiu": (2, "multi", "mcq", "B"),
    "mv_math": (3, "multi", "mcq", "B"),
    "emma": (3, "multi", "mcq", "A"),
    "mirb": (2, "multi", "number", "5"),
    "mvbench": (8, "frames", "mcq", "B"),
    "video_mme": (8, "frames", "mcq", "C"),
    "videommmu": (9, "frames", "mcq", "C"),
    "mathvista": (1, "single", "number", "2.4"),
    "mathvision": (1, "single", "mcq", "D"),
}


@pytest.fixture
def source(tmp_path, make_picture, make_video):
    """`source(name)`: a folder with one file of the example's row, and the media that it names."""

    def source(name, **changes):
        row = {**adapter(name).example, **changes}
        folder = tmp_path / name
        paths = [path.removeprefix("file://").lstrip("/") for path in media_of(row)]
        for number, path in enumerate([*paths, *([VIDEOS[name]] if name in VIDEOS else [])]):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".mp4":
                make_video(target)
            else:
                target.write_bytes(make_picture(number, kind="JPEG" if target.suffix == ".jpg" else "PNG"))
        folder.mkdir(exist_ok=True)
        _write_row(folder / _file_name(adapter(name).patterns[0]), row)
        return folder

    return source


def _file_name(pattern):
    """A name that the pattern fits."""
    name = pattern.removeprefix("**/").replace(".json*", ".json")
    return name.replace("*", "x" if name.startswith("*") else "")


def _write_row(path, row):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps([row] if path.suffix == ".json" else row, ensure_ascii=False) + "\n")


@pytest.mark.parametrize("name", EXPECTED)
def test_the_example_becomes_a_question(source, tmp_path, name):
    out, folder = tmp_path / "out", source(name)
    manifest = prepare(adapter(name), folder, out, ConvertSettings(media_root=str(folder))).manifest
    assert (manifest["input_rows"], manifest["questions"], manifest["rejected"]) == (1, 1, 0), (
        out / "rejected.jsonl"
    ).read_text()
    (question,) = read_questions(out)
    assert (len(question.images), question.modality, question.answer_type, question.answer) == EXPECTED[name]
    assert question.license == adapter(name).license
    assert question.split == ("test" if SHIPPED[name] == BENCHMARK else "train")
    assert (question.video is not None) == (question.modality == "frames")
    assert question.rl_row(0, min_pixels=3136, max_pixels=602112)["reward_model"]["ground_truth"] == question.answer


def test_every_example_but_one_is_tested_here(source, tmp_path):
    """MMDU's is what its rows are: free text, which no rule can verify."""
    assert set(EXPECTED) == set(SHIPPED) - {"mmdu"}
    folder = source("mmdu")
    manifest = prepare(adapter("mmdu"), folder, tmp_path / "out", ConvertSettings(media_root=str(folder))).manifest
    assert manifest["rejected_by_reason"] == {"free_text": 1}


# --- The command ----------------------------------------------------------------------------------------------------


def run(name, *arguments):
    return main([str(argument) for argument in (name, *arguments, "--workers", 0)])


def test_a_run_says_what_became_of_the_rows(source, tmp_path, capsys):
    assert run("virl39k", "--input", source("virl39k"), "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "1 rows = 1 questions + 0 rejected" in out
    assert str(tmp_path / "out" / "rejected.jsonl") in out


@pytest.mark.parametrize("name", SHIPPED)
def test_a_file_of_another_source_stops_at_once_and_names_the_field(source, tmp_path, capsys, name):
    folder = tmp_path / "input"
    folder.mkdir()
    _write_row(folder / _file_name(adapter(name).patterns[0]), {"colour": "red"})
    assert run(name, "--input", folder, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"no field {', '.join(map(repr, adapter(name).required))}; found 'colour'" in error
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_wrong_media_root_stops_at_once(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"question": f"Is it {n}?", "answer": "yes", "image": f"{n}.jpg"}) + "\n" for n in range(60))
    )
    assert run("own", "--input", tmp_path / "rows.jsonl", "--output", tmp_path / "out") == 1
    assert "Is --media-root right?" in capsys.readouterr().err


# --- The digits -----------------------------------------------------------------------------------------------------


def test_the_digits_come_in_as_questions(tmp_path):
    """By way of their parquet: asked in the same words, over the same pictures, with the same gold."""
    write_dataset(tmp_path / "digits", Sizes(train=40, test=0, sft_train=0, sft_val=0), seed=0)
    arguments = ("--input", tmp_path / "digits" / "train.parquet", "--media-root", "/")
    assert run("rl_parquet", *arguments, "--output", tmp_path / "out") == 0
    rows = pq.read_table(tmp_path / "digits" / "train.parquet").to_pylist()
    questions = list(read_questions(tmp_path / "out"))
    assert len(questions) == len(rows) == 40
    for number, (question, row) in enumerate(zip(questions, rows, strict=True)):
        again = question.rl_row(number, min_pixels=784, max_pixels=784)
        assert again["prompt"][-1] == row["prompt"][-1]
        assert again["data_source"] == row["data_source"]
        assert again["reward_model"] == row["reward_model"]
        for name in ("answer_type", "aliases_json", "modality", "num_images", "split"):
            assert again["extra_info"][name] == row["extra_info"][name]
        for new, old in zip(again["images"], row["images"], strict=True):
            assert Path(new["image"]).read_bytes() == Path(old["image"]).read_bytes()


# --- One's own ------------------------------------------------------------------------------------------------------


def test_own_rows_as_json_lines_csv_and_a_saved_dataset_are_the_same_question(tmp_path, make_picture):
    import datasets

    for number, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(make_picture(number, kind="JPEG"))
    row = {"id": "q1", "question": "Which was taken later?", "answer": "the second"}
    lists = {"images": ["a.jpg", "b.jpg"], "options": ["the first", "the second"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row | lists))
    (tmp_path / "rows.csv").write_text(
        "id,question,answer,images,options,tolerance\n"
        f"q1,{row['question']},{row['answer']},a.jpg;b.jpg,the first; the second,\n"
    )
    features = datasets.Features(
        dict.fromkeys(row, datasets.Value("string"))
        | {"images": datasets.Sequence(datasets.Image()), "options": datasets.Sequence(datasets.Value("string"))}
    )
    embedded = {"images": [{"bytes": (tmp_path / name).read_bytes(), "path": None} for name in lists["images"]]}
    datasets.Dataset.from_list([row | lists | embedded], features=features).save_to_disk(tmp_path / "saved")

    found = []
    for number, name in enumerate(("rows.jsonl", "rows.csv", "saved")):
        out = tmp_path / f"out{number}"
        assert run("own", "--input", tmp_path / name, "--output", out) == 0
        found += [question.to_json(out) for question in read_questions(out)]
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    assert (found[0]["uid"], found[0]["answer"], len(found[0]["images"])) == ("own/q1", "B", 2)
