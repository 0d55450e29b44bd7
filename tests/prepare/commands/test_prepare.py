"""`cinema-verl prepare`: one set of options and one help for every source."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cinema_verl.data import sources
from cinema_verl.data.directory import read_questions
from cinema_verl.data.tokens import Patching, PromptCounter
from cinema_verl.prepare.commands import prepare as prepare_module
from cinema_verl.prepare.commands import sets as sets_module
from cinema_verl.prepare.commands.prepare import main
from cinema_verl.prepare.convert import enlarging, load_counter
from cinema_verl.prepare.sources import adapter
from cinema_verl.prompts import messages

SCRIPTS = Path(__file__).parents[3] / "data_preprocess"


def own(source, output, *more, workers="0"):
    return main(["own", "--input", str(source), "--output", str(output), "--workers", workers, *more])


def test_a_run_says_what_became_of_every_row(make_source, tmp_path, capsys):
    assert own(make_source(20), tmp_path / "out") == 0
    said = capsys.readouterr()
    assert "20 rows = 14 questions + 6 rejected" in said.out
    for reason in ("bad_record", "duplicate_uid", "path_missing"):
        assert f"rejected         2  {reason}: " in said.out
    assert f"what was rejected, and why, is in {tmp_path}/out/rejected.jsonl" in said.out
    assert "own: 100%" in said.err, "the progress bar"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    paths = ["--input", f"{tmp_path}/source", "--output", f"{tmp_path}/out"]
    assert manifest["command"] == ["cinema-verl", "prepare", "own", *paths, "--workers", "0"]


def test_help_shows_the_row_that_is_expected(capsys):
    with pytest.raises(SystemExit):
        main(["virl39k", "--help"])
    said = capsys.readouterr().out
    assert adapter("virl39k").about.strip() in said
    assert adapter("virl39k").license in said
    for field in adapter("virl39k").example:
        assert f'"{field}"' in said
    for option in ("--input", "--output", "--media-root", "--allow-download", "--max-pixels", "--frames", "--workers"):
        assert option in said
    assert "602112" in said, "defaults are shown"


def test_help_lists_every_source(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for name in sources.names():
        assert f"  {name}" in said
        assert adapter(name).summary in said


def test_an_unknown_source_is_refused_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["virl39", "--input", "x"])
    assert ended.value.code == 2
    assert "virl39k" in capsys.readouterr().err


def test_settings_reach_the_questions(make_source, tmp_path):
    source = make_source(10, size=(400, 300))
    assert own(source, tmp_path / "out", "--max-pixels", "30000", "--split", "test", "--limit", "3") == 0
    questions = list(read_questions(tmp_path / "out"))
    assert len(questions) == 3
    assert {question.split for question in questions} == {"test"}
    assert all(image.width * image.height <= 30_000 for question in questions for image in question.images)


def test_media_may_lie_elsewhere(make_source, tmp_path):
    source = make_source(10)
    (tmp_path / "rows").mkdir()
    (source / "rows.jsonl").rename(tmp_path / "rows" / "rows.jsonl")
    assert own(tmp_path / "rows" / "rows.jsonl", tmp_path / "out", "--media-root", str(source)) == 0
    assert len(list(read_questions(tmp_path / "out"))) == 7


def test_prompts_are_counted_with_the_model_that_is_named(make_source, tmp_path, tiny_model):
    source = make_source(10)
    rows = (source / "rows.jsonl").read_text()
    (source / "rows.jsonl").write_text(rows.replace("Which is larger in 2?", "Which of the two is larger?"))
    assert own(source, tmp_path / "all", "--processor", str(tiny_model)) == 0
    questions = list(read_questions(tmp_path / "all"))
    counter: PromptCounter = load_counter(str(tiny_model))
    for question in questions:
        assert question.text_tokens == counter.text_tokens([counter.render(messages(question.prompt, "cinema"))])[0]
    longest = max(question.text_tokens + question.vision_tokens for question in questions)
    limit = str(longest - 1)
    assert own(source, tmp_path / "less", "--processor", str(tiny_model), "--max-prompt-tokens", limit) == 0
    manifest = json.loads((tmp_path / "less" / "manifest.json").read_text())
    assert manifest["rejected_by_reason"]["prompt_too_long"] == 1


def test_a_limit_below_what_the_processor_enlarges_to_is_warned_of():
    """Qwen3-VL's minimum is 65,536 px: 64 tokens of 32 px a side, for any picture."""
    patching = Patching(patch_size=16, merge_size=2, min_pixels=65_536, max_pixels=16_777_216)
    warning = enlarging(patching, 50_000)
    assert "65,536" in warning
    assert "64 tokens" in warning
    assert enlarging(patching, 65_536) is None


@pytest.mark.parametrize("minimum", [3_136, 700_000])
def test_both_commands_warn_of_pictures_that_the_model_enlarges(minimum, tmp_path, tiny_model, capsys):
    """`sets` stores as large as 602,112 px."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    values["image_processor"]["size"] = {"shortest_edge": minimum, "longest_edge": 1_000_000}
    path.write_text(json.dumps(values))
    there = ["--output", str(tmp_path / "out"), "--processor", str(folder)]
    assert sets_module.main(["--downloads", str(tmp_path / "none"), *there]) == 1
    (tmp_path / "rows").mkdir()
    assert main(["own", "--input", str(tmp_path / "rows"), *there]) == 1
    warned = capsys.readouterr().err.count("warning: --max-pixels 602,112 is below the 700,000 pixels")
    assert warned == (2 if minimum == 700_000 else 0)


def test_a_model_of_another_family_is_no_processor_for_either_command(tmp_path, tiny_model, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    values["image_processor"]["image_processor_type"] = "SmolVLMImageProcessor"
    path.write_text(json.dumps(values | {"processor_class": "SmolVLMProcessor"}))
    there = ["--output", str(tmp_path / "out"), "--processor", str(folder)]
    for run, arguments in ((sets_module.main, ["--downloads", "d"]), (main, ["own", "--input", "d"])):
        with pytest.raises(SystemExit) as ended:
            run([*arguments, *there])
        assert ended.value.code == 2
        assert "Qwen2.5-VL" in capsys.readouterr().err


def test_the_model_is_read_where_nothing_else_was_imported(tiny_model):
    """As in a script's own process: these tests' has made torchvision importable already."""
    code = "import sys; from cinema_verl.prepare.convert import load_counter; load_counter(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tiny_model)], check=True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--max-prompt-tokens", "9"], "give --processor MODEL, too"),
        (["--processor", "/nowhere"], "--processor /nowhere"),
        (["--max-pixels", "783"], "under 784, one vision token"),
        (["--max-pixels", "1000", "--min-pixels", "2000"], "--min-pixels 2000 is over --max-pixels 1000"),
        (["--workers", "-1"], "-1 is negative"),
        (["--limit", "0"], "0 is not positive"),
        (["--fps", "0"], "0 is not a rate"),
        (["--fps", "1", "--frames", "4"], "not allowed with"),
    ],
)
def test_options_that_cannot_be_are_refused(make_source, tmp_path, capsys, more, says):
    with pytest.raises(SystemExit) as ended:
        own(make_source(10), tmp_path / "out", *more)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_failures_are_one_line_and_exit_1(make_source, tmp_path, capsys):
    source = make_source(10)
    for given, says in (
        ((tmp_path / "nowhere", tmp_path / "out"), f"own: {tmp_path}/nowhere does not exist\n"),
        ((tmp_path, tmp_path / "out"), f"own: {tmp_path} has no *.jsonl or *.json or *.csv or *.parquet; "),
        ((source, source / "rows.jsonl" / "out"), f"own: {source}/rows.jsonl/out can be no folder: "),
    ):
        assert own(*given) == 1
        said = capsys.readouterr().err
        assert said.startswith(says)
        assert said.count("\n") == 1
    own(source, tmp_path / "out")
    assert own(source, tmp_path / "out", "--limit", "3") == 1
    assert "limit was None and is 3" in capsys.readouterr().err


def test_a_mended_row_is_taken_into_the_same_folder(make_source, tmp_path, capsys):
    source = make_source(20)
    assert own(source, tmp_path / "out") == 0
    rows = (source / "rows.jsonl").read_text()
    (source / "rows.jsonl").write_text(rows.replace("{not JSON", rows.splitlines()[0].replace('"00000"', '"mended"')))
    assert own(source, tmp_path / "out") == 1
    assert "begin anew with --overwrite" in capsys.readouterr().err
    assert len(list(read_questions(tmp_path / "out"))) == 14, "what was there stays"
    assert own(source, tmp_path / "out", "--overwrite") == 0
    assert "own/mended" in {question.uid for question in read_questions(tmp_path / "out")}
    assert not (tmp_path / "out" / ".work").exists()


def test_a_mended_picture_is_taken_although_its_row_is_the_same(make_source, tmp_path, make_picture):
    source = make_source(10)
    (source / "0.jpg").write_bytes(b"broken")
    assert own(source, tmp_path / "out") == 0
    broken = len(list(read_questions(tmp_path / "out")))
    (source / "0.jpg").write_bytes(make_picture(0, kind="JPEG"))
    assert own(source, tmp_path / "out", "--overwrite") == 0
    assert len(list(read_questions(tmp_path / "out"))) == 7 > broken


def test_overwriting_that_is_interrupted_goes_on(make_source, tmp_path, monkeypatch, assert_same):
    from cinema_verl.prepare import pipeline, shards

    monkeypatch.setattr(pipeline, "ROWS_PER_SHARD", 5)
    source = make_source(40)
    assert own(source, tmp_path / "out") == 0
    with open(source / "rows.jsonl", "a") as file:
        file.write('{"id": "new", "question": "Which is new?", "answer": "yes", "images": ["0.jpg", "1.jpg"]}\n')
    made, real = [], shards.make_shard

    def make_shard(item, *, job):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(item["number"])
        return real(item, job=job)

    monkeypatch.setattr(pipeline, "make_shard", make_shard)
    assert own(source, tmp_path / "out", "--overwrite") == 1
    assert not (tmp_path / "out" / "manifest.json").exists(), "half of it is no data set"
    monkeypatch.setattr(
        pipeline, "make_shard", lambda item, *, job: (made.append(item["number"]), real(item, job=job))[1]
    )
    assert own(source, tmp_path / "out", "--overwrite") == 0
    assert sorted(made) == list(range(9)), "no shard was made twice"
    assert own(source, tmp_path / "calm") == 0
    assert_same(tmp_path / "out", tmp_path / "calm")


def test_an_input_of_which_nothing_is_left_is_a_failure(make_source, tmp_path, capsys):
    source = make_source(10)
    row = {"question": "Which?", "image": "0.jpg", "answer": ""}
    (source / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert own(source, tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "1 rows = 0 questions + 1 rejected" in said.out
    assert "own: no row became a question" in said.err.splitlines()[-1]


def test_an_interrupt_says_how_to_go_on(make_source, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "prepare", interrupt)
    assert own(make_source(10), tmp_path / "out") == 1
    assert capsys.readouterr().err == "own: interrupted; run the same command to go on from here\n"


@pytest.mark.slow
def test_a_script_with_workers(make_source, tmp_path, run):
    given = ("own", "--input", str(make_source(120)), "--output", str(tmp_path / "out"), "--workers", "2")
    done = run(str(SCRIPTS / "prepare.py"), *given, python=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "120 rows = 84 questions + 36 rejected" in done.stdout
    noise = [line for line in done.stderr.replace("\r", "\n").splitlines() if line and not line.startswith("own:")]
    assert noise == [], "nothing but the progress bar"
