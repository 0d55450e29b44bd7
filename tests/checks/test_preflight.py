"""What `cinema-verl preflight` says of data is what the run would find; what it counts is counted by hand here."""

import json
import shutil
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.sft_trainer import create_sft_dataset
from verl.utils.tokenizer import hf_processor

from cinema_verl.checks import host_memory, preflight
from cinema_verl.checks import report as reports
from cinema_verl.checks.compose import compose
from cinema_verl.data.check import DataError
from cinema_verl.data.movable import pack
from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA, image_cell, rl_row, sft_rows, write_parquet
from cinema_verl.data.tokens import QWEN2_5_VL, Patching
from cinema_verl.demo.tiny_model import build_tokenizer
from cinema_verl.prompts import system_prompt
from cinema_verl.registration.command_line import RL_TRAINER, SFT_TRAINER
from cinema_verl.training.refusal import Facts
from cinema_verl.training.verdict import refusals

TRAJECTORY = "<focus>A is dark.</focus><answer>B</answer>"
ABSENT = "nobody/no-such-model"


pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def rows(tmp_path):
    """rows(name, images) -> RL rows, one for each number of images; every image is 56x56 pixels, 4 tokens."""
    Image.effect_noise((56, 56), 50).save(tmp_path / "a.png")

    def rows(name, images):
        made = []
        for index, number in enumerate(images):
            text = "".join(f"Image {i + 1}: <image>\n" for i in range(number)) + "Which is it?"
            made.append(
                rl_row(
                    uid=f"{name}/{index}",
                    index=index,
                    split="train",
                    data_source="mine/odd" if index % 2 else "mine/even",
                    ability="reading",
                    prompt=[{"role": "user", "content": text}],
                    images=[image_cell(tmp_path / "a.png", min_pixels=784, max_pixels=7840)] * number,
                    modality="single" if number == 1 else "multi",
                    question=text,
                    answer="B",
                    answer_type="mcq",
                    options=["this", "that"],
                )
            )
        return made

    return rows


@pytest.fixture
def write(tmp_path, rows):
    """write(name, images, change=None) -> path of a file; `change` spoils the rows before they are written."""

    def write(name, images=(1, 2, 2, 4), change=None):
        made = rows(name, images)
        if change is not None:
            change(made)
        path = tmp_path / f"{name}.parquet"
        write_parquet(made, RL_SCHEMA, path)
        return path

    return write


@cache
def composed(recipe):
    config, findings = compose(recipe, [])
    assert config is not None, findings
    return config


@pytest.fixture
def call(tiny_model):
    """call(*overrides, recipe=, model=, …) -> (exit code, report as JSON values, report as text).

    As `preflight.main` does it, but for one composition a recipe: composing takes longer than looking.
    """

    def call(*overrides, recipe="cinema_cpu", model=tiny_model, **options):
        rl = "cold_start" not in recipe
        key = "actor_rollout_ref.model.path" if rl else "model.path"
        small = ["data.train_batch_size=1"] if rl else []
        given = OmegaConf.from_dotlist([f"{key}={model}", *small, *map(str, overrides)])
        base = composed(recipe).copy()
        OmegaConf.set_struct(base, False)  # as a + before a key does
        config = OmegaConf.merge(base, given)
        program = RL_TRAINER if rl else SFT_TRAINER
        summary = preflight.examine(config, program, **{"here": False, **options})
        report = json.loads(json.dumps(summary))
        return int(not report["ok"]), report, reports.text_report(report)

    return call


def files(train, val):
    return f"data.train_files={train}", f"data.val_files={val}"


def wrong(report):
    return {finding["what"]: finding["detail"] for finding in report["findings"] if finding["ok"] is False}


def test_a_sound_run_is_counted(write, call):
    code, report, out = call(*files(write("train"), write("val", [1])))
    assert code == 0
    assert out.endswith("The run would get through its data.")
    train, val = report["files"]
    assert (train["rows"], train["looked_at"], train["with_problems"], val["rows"]) == (4, 4, 0, 1)
    assert train["images"] == {"p50": 2, "p95": 4, "p99": 4, "max": 4}
    assert train["vision_tokens"] == {"p50": 8, "p95": 16, "p99": 16, "max": 16}
    tokenizer = build_tokenizer()
    one = len(tokenizer("Image 2: ").input_ids)
    assert train["text_tokens"]["max"] - train["text_tokens"]["p50"] >= 2 * (one - 1)
    assert train["tokens"]["max"] == train["text_tokens"]["max"] + 16
    assert report["shares"]["source"] == {"mine/even": 2, "mine/odd": 2}
    assert report["shares"]["modality"] == {"multi": 3, "single": 1}
    assert report["problems"] == {}


def test_images_beside_a_file_that_was_moved(write, call, tmp_path):
    """As the data set that is named reads them: ours finds them, verl's own does not."""
    pack([write("train"), write("val", [1])], tmp_path / "packed")
    moved = shutil.move(tmp_path / "packed", tmp_path / "node")
    (tmp_path / "a.png").unlink()
    given = files(f"{moved}/train.parquet", f"{moved}/val.parquet")
    code, report, _ = call(*given)
    assert (code, report["problems"]) == (0, {})
    code, report, _ = call(*given, "data.custom_cls.path=null")
    assert code == 1
    assert set(report["problems"]) == {"image_path"}


def test_lengths_are_what_verl_builds(write, call, tiny_model):
    """The longest prompt, to the token: the processor over the real image."""
    _, report, _ = call(*files(write("train", [3]), write("val", [1])))
    processor = hf_processor(str(tiny_model))
    content = [
        part for i in range(3) for part in ({"type": "text", "text": f"Image {i + 1}: "}, {"type": "image"}, "\n")
    ]
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "Which is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = [Image.effect_noise((56, 56), 50).convert("RGB")] * 3
    ids = processor(text=[text], images=images, min_pixels=784, max_pixels=7840)["input_ids"][0]
    assert report["files"][0]["tokens"]["max"] == len(ids)


def _gone(rows):
    rows[1]["images"] = [{**rows[1]["images"][0], "image": "/no/such.png"}]
    rows[1]["prompt"][0]["content"], rows[1]["extra_info"]["num_images"] = "<image>", 1


def _unreadable(rows):
    rows[2]["reward_model"]["ground_truth"] = "Z"


def _elsewhere(rows):
    rows[0]["agent_name"] = "tool_agent"


SPOILT = {"image_missing": (_gone, 1, 1), "gold_unreadable": (_unreadable, 1, 2), "agent_name": (_elsewhere, 0, 0)}


@pytest.mark.parametrize("code", SPOILT)
def test_a_bad_row_is_named_with_file_and_row(write, call, code):
    change, exit_code, row = SPOILT[code]
    path = write("train", change=change)
    returned, report, out = call(*files(path, write("val")))
    assert returned == exit_code
    assert report["problems"][code]["count"] == 1
    assert report["problems"][code]["first"][0]["row"] == row
    assert f"{path}, row {row} (train/{row}): " in out
    assert report["files"][0]["with_problems"] == exit_code


@pytest.mark.parametrize("code", [None, *SPOILT])
def test_the_verdict_is_the_runs(write, call, tiny_model, code):
    """What passes constructs the run's data set, and what does not, does not."""
    path = write("train", change=SPOILT[code][0] if code else None)
    returned, _, _ = call(*files(path, path))
    config = composed("cinema_cpu")
    processor = hf_processor(str(tiny_model))
    try:
        create_rl_dataset([str(path)], config.data, processor.tokenizer, processor)
    except DataError:
        assert returned == 1
    else:
        assert returned == 0


def test_problems_add_up_over_files(write, call):
    paths = [write(name, change=_unreadable) for name in ("one", "two")]
    code, report, _ = call(f"data.train_files=[{paths[0]},{paths[1]}]", f"data.val_files={write('val')}")
    assert code == 1
    assert report["problems"]["gold_unreadable"]["count"] == 2
    assert [first["file"] for first in report["problems"]["gold_unreadable"]["first"]] == list(map(str, paths))
    assert wrong(report) == {"checks": "2 rows that the run cannot train on"}


def test_prompts_and_images_over_the_limits(write, call):
    limits = ("data.max_prompt_length=40", "actor_rollout_ref.rollout.limit_images=3")
    code, report, out = call(*files(write("train"), write("val", [1])), *limits)
    train = report["files"][0]
    longest = sum(1 for row in (train["tokens"]["p50"], train["tokens"]["max"]) if row > 40)
    assert longest
    assert code == 1
    assert train["over_limit"] == {"tokens": report["problems"]["prompt_too_long"]["count"], "images": 1}
    assert "over limit_images=3: 1 rows (25.00%)" in out
    assert "too_many_images" not in report["problems"]  # this recipe's engine takes any number
    _, report, _ = call(*files(write("train"), write("val", [1])), *limits, recipe="cinema")
    assert report["problems"]["too_many_images"]["count"] == 1


def _write_text(path, text="no parquet"):
    path.write_text(text)
    return path


def _empty(path):
    pq.write_table(RL_SCHEMA.empty_table(), path)
    return path


def _other_schema(path, rows):
    table = pa.Table.from_pylist(rows("other", [1]), schema=RL_SCHEMA)
    pq.write_table(table.set_column(2, "ability", pa.array([3])), path)
    return path


FILES = {
    "does not exist": lambda tmp, rows: tmp / "gone.parquet",
    "cannot be read": lambda tmp, rows: _write_text(tmp / "text.parquet"),
    "has no rows": lambda tmp, rows: _empty(tmp / "empty.parquet"),
    "cannot be read:": lambda tmp, rows: _write_text(tmp / "text.jsonl"),
    "mixed.jsonl cannot be read": lambda tmp, rows: _write_text(
        tmp / "mixed.jsonl", '{"q": [null]}\n{"q": "b"}\nno JSON\n'
    ),
    "does not read": lambda tmp, rows: _write_text(tmp / "rows.csv"),
    "not a file of this machine": lambda tmp, rows: "hdfs://x/a.parquet",
    "is a folder": lambda tmp, rows: (tmp / "rows.parquet").mkdir() or tmp / "rows.parquet",
    "differ in ability": lambda tmp, rows: _other_schema(tmp / "other.parquet", rows),
}


@pytest.mark.parametrize("says", FILES)
def test_files_that_the_run_could_not_read(tmp_path, write, rows, call, says):
    other = FILES[says](tmp_path, rows)
    code, report, _ = call(f"data.train_files=[{write('train')},{other}]", f"data.val_files={write('val')}")
    assert code == 1
    assert says in wrong(report)["train"]


def _without_uids(rows):
    for row in rows:
        row["extra_info"]["uid"] = ""


def _one_name(rows):
    rows[2]["extra_info"]["uid"] = rows[0]["extra_info"]["uid"]


@pytest.mark.parametrize(
    ("change", "says"), [(_without_uids, "no extra_info.uid: 4"), (_one_name, "row 2 is val/0, as")]
)
def test_validation_that_could_not_tell_its_questions_apart(write, call, change, says):
    """As the trainer finds it, which asks about other images only where `cinema.image_conditions` says so."""
    given = files(write("train", change=_without_uids), write("val", change=change))
    code, report, _ = call(*given)
    assert code == 1
    assert says in wrong(report)["val"]
    code, report, _ = call(*given, "cinema.image_conditions=[]")
    assert code == 0
    assert "leak" not in {finding["what"] for finding in report["findings"]}  # rows without a name are not the same


def test_an_evaluation_is_one_set_of_known_sources(write, call):
    val = write("val")
    given = (*files(val, val), "data.train_batch_size=8")  # no batch is drawn
    code, report, out = call(*given, recipe="cinema_evaluate_cpu")
    assert code == 1
    assert "unknown data_source: 4" in wrong(report)["val"]
    code, report, out = call(*given, "cinema.other_sources=[mine]", recipe="cinema_evaluate_cpu")
    assert code == 0
    assert [file["split"] for file in report["files"]] == ["val"]
    assert [item["what"] for item in report["host_memory"]] == ["a validation batch"]
    assert report["shares"]["modality"] == {"multi": 3, "single": 1}
    assert "by source, of the val rows looked at" in out
    assert "leak" not in out
    train = write("train")  # verl reads it all the same
    other = (*files(train, val), "cinema.other_sources=[mine]")
    _, report, _ = call(*other, recipe="cinema_evaluate_cpu")
    assert [file["split"] for file in report["files"]] == ["train", "val"]


def test_fewer_rows_than_a_batch(write, call):
    given = files(write("train"), write("val", [1]))
    code, report, _ = call(*given, "data.train_batch_size=5")
    assert code == 1
    said = "4 training rows, fewer than data.train_batch_size=5: not one step"
    assert wrong(report) == {"data.train_batch_size": said}
    assert call(*given, "data.train_batch_size=4")[0] == 0
    assert call(*given, "data.train_batch_size=4", "data.train_max_samples=3")[0] == 1


def test_prompts_are_counted_in_the_mode_of_the_run(write, call, tiny_model):
    path = write("train")
    _, plain, _ = call(*files(path, path))
    given = (*files(path, path), "data.cinema_prompt_mode=direct", "data.max_prompt_length=10000")
    _, report, _ = call(*given)
    tokenizer, direct = build_tokenizer(), system_prompt("direct")
    added = report["files"][0]["tokens"]["max"] - plain["files"][0]["tokens"]["max"]
    assert added >= len(tokenizer(direct).input_ids)
    code, report, _ = call(*files(path, path), "data.cinema_prompt_mode=direct", f"data.max_prompt_length={added}")
    assert code == 1
    config = OmegaConf.merge(composed("cinema_cpu"), OmegaConf.from_dotlist(["data.cinema_prompt_mode=direct"]))
    config.data.max_prompt_length = added
    processor = hf_processor(str(tiny_model))
    with pytest.raises(DataError) as caught:
        create_rl_dataset([str(path)], config.data, processor.tokenizer, processor)
    assert len(caught.value.faults) * 2 == report["problems"]["prompt_too_long"]["count"]


@pytest.mark.parametrize("option", ["cinema_checks=quick", "cinema_prompt_mode=loud"])
def test_options_that_the_data_set_refuses(write, call, option):
    code, report, _ = call(*files(write("train"), write("val")), f"data.{option}")
    assert code == 1
    assert set(wrong(report)) == {f"data.{option.partition('=')[0]}"}


def test_columns_that_one_file_lacks_are_filled(tmp_path, write, call, tiny_model):
    both = [write("one"), tmp_path / "two.parquet"]
    pq.write_table(pq.read_table(both[0]).drop_columns(["ability"]), both[1])
    code, _, _ = call(f"data.train_files=[{both[0]},{both[1]}]", f"data.val_files={write('val')}")
    assert code == 0
    processor = hf_processor(str(tiny_model))
    data = composed("cinema_cpu").data
    assert len(create_rl_dataset(list(map(str, both)), data, processor.tokenizer, processor)) == 8


@pytest.mark.parametrize("path", ["~/train.parquet", "rows-*.parquet"])
def test_verl_expands_neither_home_nor_patterns(tmp_path, monkeypatch, write, call, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write("train")
    write("rows-0")
    code, report, _ = call(*files(path, write("val")))
    assert code == 1
    assert wrong(report)["train"] == f"{path} does not exist"
    code, report, _ = call(*files(write("train"), write("val")), model="~/model")
    assert "expands ~" in wrong(report)["actor_rollout_ref.model.path"]


def test_a_file_that_is_damaged_in_the_middle(write, call):
    path = write("train", [1] * 50)
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)  # the pages of the first columns; the footer is whole
    path.write_bytes(content)
    code, report, _ = call(*files(path, write("val")))
    assert code == 1
    assert f"{path} cannot be read after 0 rows" in wrong(report)["train"]
    assert report["files"][0]["images"] is None


def test_what_the_configuration_itself_would_do(write, call):
    train = write("train")
    code, report, _ = call(f"data.train_files={train}", "data.val_files=[]", "data.filter_overlong_prompts=true")
    assert code == 1
    assert set(wrong(report)) == {"val", "data.filter_overlong_prompts"}
    code, report, _ = call(*files(train, train), "data.val_max_samples=3")
    notes = {finding["what"]: finding["detail"] for finding in report["findings"] if finding["ok"] is None}
    assert code == 0
    assert notes["leak"].startswith("4 uids")
    assert notes["val"] == "data.val_max_samples=3: the run uses some of the 4 rows; all count here"


def test_without_the_model_images_are_estimated_and_the_report_says_so(write, call):
    code, report, out = call(*files(write("train"), write("val")), model=ABSENT)
    assert code == 0
    assert report["text_counted"] is False
    assert report["files"][0]["text_tokens"] is None
    assert report["files"][0]["vision_tokens"]["max"] == 16
    assert "ESTIMATES" in out.splitlines()[1]
    assert "text is NOT counted" in out
    assert "over data.max_prompt_length=160 by images alone: 0 rows" in out


def test_a_folder_that_is_no_model_is_a_failure(tmp_path, write, call):
    code, report, _ = call(*files(write("train"), write("val")), model=tmp_path)
    assert code == 1
    assert wrong(report) == {
        "actor_rollout_ref.model.path": f"{tmp_path} holds no config.json: not a Hugging Face model"
    }


def test_a_sample_is_the_same_each_time_and_names_the_right_rows(write, call):
    def spoil_all(rows):
        for row in rows:
            row["reward_model"]["ground_truth"] = "Z"

    path = write("train", [1, 2] * 30, spoil_all)
    _, report, out = call(*files(path, write("val")), sample=20)
    assert report["files"][0]["looked_at"] == report["files"][0]["with_problems"] == 20
    for first in report["problems"]["gold_unreadable"]["first"]:
        assert first["uid"] == f"train/{first['row']}"
    assert f"{path}, 60 rows, 20 looked at" in out
    assert call(*files(path, write("val")), sample=20)[1] == report


def test_full_decodes_every_image(tmp_path, write, call):
    path = write("train")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:-600])
    assert call(*files(path, path))[0] == 0
    code, report, _ = call(*files(path, path), decode=True)
    assert code == 1
    assert report["problems"]["image_corrupt"]["count"] == 2 * (1 + 2 + 2 + 4)
    assert call(*files(path, path), "data.cinema_checks=full")[1] == report  # as the run would


def test_rows_of_json_as_verl_reads_them(tmp_path, rows, call):
    path = tmp_path / "rows.jsonl"
    made = rows("json", [1, 2])
    made[1]["reward_model"]["ground_truth"] = "Z"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    code, report, _ = call(*files(path, path))
    assert code == 1
    assert report["files"][0]["images"]["max"] == 2
    assert report["problems"]["gold_unreadable"]["first"][0]["row"] == 1


@pytest.fixture
def sft(tmp_path, rows):
    def sft(name, change=None):
        made = [
            row
            for asked in rows(name, [2, 3])
            for row in sft_rows(
                uid=asked["extra_info"]["uid"],
                prompt=asked["prompt"],
                images=asked["images"],
                trajectories=[TRAJECTORY, TRAJECTORY.replace("focus", "think")],
            )
        ]
        if change is not None:
            change(made)
        write_parquet(made, SFT_SCHEMA, tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    return sft


def test_cold_start_rows(sft, call):
    small = ("data.train_batch_size=4", "data.micro_batch_size_per_gpu=4")
    arguments = (f"data.train_files={sft('cold')}", *small)
    code, report, _ = call(*arguments, recipe="cinema_cold_start_cpu")
    assert code == 0
    assert report["shares"]["pattern"] == {"focus>answer": 2, "think>answer": 2}
    assert report["files"][0]["vision_tokens"]["max"] == 12
    longest = report["files"][0]["tokens"]["max"]
    # The limit is over question and trajectory together.
    assert call(*arguments, f"data.max_length={longest}", recipe="cinema_cold_start_cpu")[0] == 0
    code, report, _ = call(*arguments, f"data.max_length={longest - 1}", recipe="cinema_cold_start_cpu")
    assert code == 1
    assert report["problems"]["prompt_too_long"]["count"] == 2


def test_lengths_of_cold_start_rows_are_what_verl_builds(sft, call, tiny_model):
    path = sft("cold")
    _, report, _ = call(f"data.train_files={path}", "data.train_batch_size=4", recipe="cinema_cold_start_cpu")
    config = composed("cinema_cold_start_cpu")
    processor = hf_processor(str(tiny_model))
    data_set = create_sft_dataset([str(path)], config.data, processor.tokenizer, processor)
    lengths = sorted(len(data_set[i]["input_ids"]) for i in range(4))
    assert report["files"][0]["tokens"] == {"p50": lengths[1], "p95": lengths[3], "p99": lengths[3], "max": lengths[3]}


def test_cold_start_rows_that_teach_nothing(sft, call):
    def cut(rows):
        rows[0]["messages"].pop()
        rows[1]["messages"][-1]["content"] = "B"

    arguments = (f"data.train_files={sft('cold', cut)}", "data.train_batch_size=16")
    code, report, _ = call(*arguments, recipe="cinema_cold_start_cpu")
    assert code == 1
    assert {code: found["count"] for code, found in report["problems"].items()} == {
        "no_trajectory": 1,
        "trajectory_format": 1,
    }
    said = "4 training rows, fewer than data.train_batch_size=16: not one step"
    assert wrong(report)["data.train_batch_size"] == said


def test_the_command(write, tiny_model, tmp_path, capsys):
    path = write("train")
    spoilt = write("spoilt", change=_gone)
    common = ["--json", str(tmp_path / "r.json"), "--gallery", str(tmp_path / "g.html"), "--show", "3"]
    for train, code in ((path, 0), (spoilt, 1)):
        overrides = [*files(train, path), f"actor_rollout_ref.model.path={tiny_model}", "data.train_batch_size=4"]
        assert preflight.main(["+recipe=cinema_cpu", *overrides, *common]) == code
        report = json.loads((tmp_path / "r.json").read_text())
        assert report["ok"] == (code == 0)
        assert capsys.readouterr().out.startswith(reports.text_report(report))
        assert (tmp_path / "g.html").read_text().count("<article") == 3


def test_the_report_is_there_even_if_its_files_cannot_be_written(write, tiny_model, tmp_path, capsys):
    (tmp_path / "file").touch()
    path = write("train")
    overrides = [*files(path, path), f"actor_rollout_ref.model.path={tiny_model}", "data.train_batch_size=4"]
    assert preflight.main(["+recipe=cinema_cpu", *overrides, "--gallery", str(tmp_path / "file" / "g.html")]) == 2
    said = capsys.readouterr()
    assert "The run would get through its data." in said.out
    assert "could not be written" in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data.train_files=/a.parquet"], "name one recipe"),
        (["+recipe=cinema", "+recipe=cinema_cpu"], "name one recipe"),
        (["+recipe=cinemma"], "Could not find 'recipe/cinemma'"),
        (["+recipe=cinema", "data.trian_files=/a.parquet"], "trian_files"),
        (["+recipe=cinema", "--sample", "0"], "not positive"),
        ([], "required"),
    ],
)
def test_a_command_line_that_no_run_could_have(arguments, says, capsys):
    with pytest.raises(SystemExit) as exit_:
        preflight.main(arguments)
    assert exit_.value.code == 2
    assert says in capsys.readouterr().err


# --- Host memory ----------------------------------------------------------------------------------------------


def test_bytes_of_a_row():
    # Qwen2.5-VL: a token is 2x2 patches of 14x14 pixels, 3 channels, 2 frames, 4 bytes; 84 bytes beside it.
    assert host_memory.row_bytes(1, 1, QWEN2_5_VL) == (4 * 14 * 14 * 3 * 2 * 4, 84) == (18_816, 84)
    qwen3 = Patching(patch_size=16, merge_size=2, min_pixels=1, max_pixels=10**9)
    assert host_memory.row_bytes(10, 25, qwen3) == (10 * 24_576, 25 * 84)


def test_a_group_has_its_images_once_and_each_rank_that_has_some_of_it_has_them_once():
    row, val = host_memory.Row(90.0, 10.0), host_memory.Row(4.0, 3.0)
    sizes = {"batch": 4, "group": 8, "val_batch": 50, "val_group": 3}
    found = host_memory.project_rl(row, val, **sizes, ranks=1, rounds=2)
    stored = 4 * (90 + 8 * 10)
    assert [item.bytes for item in found] == [stored, 2 * stored, 2 * stored, 50 * (4 + 3 * 3)]
    for ranks, held in ((2, 2), (8, 8), (64, 8)):
        found = host_memory.project_rl(row, None, **sizes, ranks=ranks, rounds=1)
        assert [item.bytes for item in found] == [stored, stored + 4 * (held * 90 + 8 * 10)]


def test_an_evaluation_trains_on_nothing():
    val = host_memory.Row(4.0, 3.0)
    found = host_memory.project_rl(None, val, batch=4, group=8, ranks=1, rounds=2, val_batch=50, val_group=3)
    assert [item.bytes for item in found] == [50 * (4 + 3 * 3)]


def test_what_loaders_prefetch_for_fine_tuning():
    assert [item.bytes for item in host_memory.project_sft(10.0, batch=4, workers=8)] == [40, 640]
    assert [item.bytes for item in host_memory.project_sft(10.0, batch=4, workers=0)] == [40]


def test_the_projection_follows_the_configuration(write, call):
    arguments = (*files(write("train", [2]), write("val", [1] * 10)), "data.train_batch_size=6")
    _, report, _ = call(*arguments, "actor_rollout_ref.rollout.n=5", "data.val_batch_size=4")
    text = {file["split"]: file["text_tokens"]["max"] for file in report["files"]}
    patching = Patching(patch_size=14, merge_size=2, min_pixels=784, max_pixels=12_544)
    train = host_memory.row_bytes(8, 8 + text["train"] + 64, patching).group(5)  # 64: data.max_response_length
    val = host_memory.row_bytes(4, 4 + text["val"] + 64, patching).group(4)
    assert [item["bytes"] for item in report["host_memory"]] == pytest.approx(
        [6 * train, 12 * train, 12 * train, 4 * val]
    )


# --- Beside the data ------------------------------------------------------------------------------------------


def test_the_verdict_is_the_one_that_the_run_is_started_with(write, call):
    """What the driver refuses before Ray is what preflight says, word for word."""
    given = (*files(write("train"), write("val", [1])), "trainer.total_training_steps=6", "data.train_batch_size=1")
    config = OmegaConf.merge(composed("cinema_cpu"), OmegaConf.from_dotlist(list(map(str, given))))
    code, report, out = call(*given)
    assert code == 1
    (refusal,) = refusals(config, Facts(rows={"train": 4, "val": 1}))
    assert wrong(report) == {refusal.key: refusal.what}
    assert refusal.advice in out


def test_a_name_that_verl_does_not_know_is_in_the_verdict(write, call):
    code, report, _ = call(*files(write("train"), write("val", [1])), "algorithm.adv_estimator=nothere")
    assert code == 1
    assert "not registered" in wrong(report)["algorithm.adv_estimator"]


def test_epochs_that_end_before_the_schedule_are_counted_over_the_files(write, call):
    code, report, _ = call(*files(write("train"), write("val", [1])), "trainer.total_epochs=2")
    assert code == 1
    assert "would end after 8 steps" in wrong(report)["trainer.total_epochs"]  # 4 rows, one a step, twice


def test_a_model_that_would_start_from_random_weights(write, call, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "lora")
    weights = load_file(tmp_path / "lora" / "model.safetensors")
    save_file({f"base_model.model.{n}": w for n, w in weights.items()}, tmp_path / "lora" / "model.safetensors")
    code, report, out = call(*files(write("train"), write("val", [1])), model=tmp_path / "lora")
    assert code == 1
    assert "would be random" in wrong(report)["actor_rollout_ref.model.path"]
    assert "merge them into their base model" in out


def test_a_family_that_verl_cannot_train_is_one_refusal(write, call, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "smolvlm"}')
    code, report, out = call(*files(write("train"), write("val", [1])), model=tmp_path)
    assert code == 1
    assert wrong(report) == {"actor_rollout_ref.model.path": "verl 0.9.1 cannot train smolvlm on images"}
    assert "Qwen2.5-VL" in out


def test_a_template_that_opens_think_is_found_in_the_prompt(write, call, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "thinks")
    template = tmp_path / "thinks" / "chat_template.jinja"
    plain = template.read_text()
    opens = "{% if not (enable_thinking is defined and enable_thinking is false) %}<think>\n{% endif %}"
    template.write_text(plain + "{% if add_generation_prompt %}" + opens + "{% endif %}")
    given = files(write("train"), write("val", [1]))
    code, report, out = call(*given, model=tmp_path / "thinks")
    assert code == 1
    assert "opens <think> for the policy" in wrong(report)["actor_rollout_ref.model.path"]
    assert "+data.apply_chat_template_kwargs.enable_thinking=false" in out
    code, _, _ = call(*given, "data.apply_chat_template_kwargs.enable_thinking=false", model=tmp_path / "thinks")
    assert code == 0


def test_this_machine_counts_unless_the_run_is_elsewhere(write, call):
    given = (*files(write("train"), write("val", [1])), "ray_kwargs.ray_init.num_cpus=4")
    code, report, _ = call(*given, here=True)
    assert code == 1
    assert set(wrong(report)) == {"ray_kwargs.ray_init.num_cpus"}
    assert {finding["what"] for finding in report["findings"] if finding["where"] == "machine"} >= {
        "host memory",
        "disk",
    }
    assert call(*given, here=False)[0] == 0


def test_fine_tuning_validates_however_few_rows_there_are(sft, call):
    given = (f"data.train_files={sft('cold')}", f"data.val_files={sft('few')}", "data.val_max_samples=2")
    small = ("data.train_batch_size=4", "data.micro_batch_size_per_gpu=4")
    _, report, _ = call(*given, *small, recipe="cinema_cold_start_cpu")
    assert "data.val_files" not in wrong(report)


def test_a_folder_that_holds_another_run_is_found_before_the_run_does(write, call, tmp_path):
    """What would end the run at its start: its folder has a run that was begun otherwise. Nothing is written there."""
    folder = tmp_path / "run"
    given = (*files(write("train"), write("val", [1])), f"trainer.default_local_dir={folder}")
    _, report, _ = call(*given, here=True)
    assert "trainer.default_local_dir" not in wrong(report)
    assert not folder.exists()
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n')
    code, report, _ = call(*given, here=True)
    assert code == 1
    assert str(folder) in wrong(report)["trainer.default_local_dir"]
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
