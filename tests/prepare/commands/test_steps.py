"""`cinema-verl mix`, `decontaminate` and `to-parquet`: one writer at a time, whole inputs, failures in one line."""

import json
from dataclasses import replace

import pytest

from cinema_verl import cli
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.data.directory import check_unchanged, fingerprint, read_questions, sole_writer, write_dataset
from cinema_verl.prepare import decontaminate, mix
from cinema_verl.prepare.export import Export, to_parquet
from cinema_verl.utils.files import Locked

STEPS = ("mix", "decontaminate", "to-parquet")


@pytest.fixture
def questions(tmp_path):
    """A dataset directory of ten questions over the same picture."""
    picture = ImageRef(str(tmp_path / "a.png"), 28, 28, "0" * 64, "0" * 16)
    first = Question(
        uid="made/0",
        source="made",
        source_id="0",
        split="train",
        license="made up",
        modality="single",
        question="<image>What is 0 and 1?",
        images=(picture,),
        answer_type="number",
        answer="1",
    )
    made = [replace(first, uid=f"made/{n}", source_id=str(n), question=f"<image>What is {n} and 1?") for n in range(10)]
    write_dataset(tmp_path / "in", made, [], {})
    (tmp_path / "mix.yaml").write_text("size: 4\n")
    return tmp_path / "in"


def run(step, questions, output, *given):
    more = ["--spec", str(questions.parent / "mix.yaml")] if step == "mix" else []
    return cli.main([step, "--input", str(questions), "--output", str(output), *more, *given])


@pytest.mark.parametrize("step", STEPS)
def test_an_input_that_is_not_what_its_manifest_lists_is_refused(questions, tmp_path, capsys, step):
    with open(questions / "questions" / "part-00000.jsonl", "a") as part:
        part.write("\n")
    assert run(step, questions, tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{step}: {questions}/questions/part-00000.jsonl is not what manifest.json lists")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", STEPS)
def test_the_second_of_two_runs_into_one_output_is_refused(questions, tmp_path, capsys, monkeypatch, step):
    """The second begins where the first is reading its input, and the first ends as if it had been alone."""
    second = []

    def meanwhile(path):
        if not second:
            second.append(None)
            second[0] = run(step, questions, tmp_path / "out")
        return fingerprint(path)

    for module in (mix, decontaminate):
        monkeypatch.setattr(module, "fingerprint", meanwhile)
    monkeypatch.setattr("cinema_verl.prepare.export.fingerprint", meanwhile)
    assert run(step, questions, tmp_path / "out") == 0
    assert second == [1]
    output = tmp_path / "out"
    assert (
        f"{step}: another run is writing to {output}: wait for it, or give another --output" in capsys.readouterr().err
    )
    left = {path.name for path in output.iterdir()} | {path.name for path in tmp_path.iterdir()}
    assert not [name for name in left if name.startswith(".")]


@pytest.mark.parametrize("step", STEPS)
def test_a_folder_that_any_other_command_writes_to_is_refused(questions, tmp_path, capsys, step):
    with sole_writer(tmp_path / "out"):
        assert run(step, questions, tmp_path / "out", "--overwrite") == 1
    assert f"{step}: another run is writing to {tmp_path}/out: wait for it" in capsys.readouterr().err


def test_what_came_into_the_folder_while_its_rows_were_written_is_not_replaced(
    questions, tmp_path, monkeypatch, capsys
):
    """A training that was started there takes no lock of preparation's."""

    def meanwhile(read):
        (tmp_path / "out" / "global_step_7").mkdir()
        return check_unchanged(read)

    monkeypatch.setattr("cinema_verl.prepare.export.check_unchanged", meanwhile)
    assert run("to-parquet", questions, tmp_path / "out", "--overwrite") == 1
    assert "holds global_step_7, which is not of such a folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["global_step_7"]


def test_rows_go_to_where_a_link_points(questions, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert run("to-parquet", questions, tmp_path / "out") == 0
    assert run("to-parquet", questions, tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["train-00000.parquet"]


@pytest.mark.parametrize("step", ["mix", "decontaminate"])
def test_the_manifest_says_what_was_read(questions, tmp_path, step):
    assert run(step, questions, tmp_path / "out") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["inputs"] == [fingerprint(questions)]
    assert manifest["command"][:2] == ["cinema-verl", step]


def test_the_functions_refuse_it_too(questions, tmp_path, monkeypatch):
    def second(path):
        with pytest.raises(Locked):
            to_parquet([questions], tmp_path / "rl", Export())
        return fingerprint(path)

    monkeypatch.setattr("cinema_verl.prepare.export.fingerprint", second)
    assert to_parquet([questions], tmp_path / "rl", Export()) == {str(tmp_path / "rl" / "train-00000.parquet"): 10}


@pytest.mark.parametrize("step", STEPS)
def test_an_output_is_replaced_only_where_that_is_asked_for(questions, tmp_path, capsys, step):
    assert run(step, questions, tmp_path / "out") == 0
    assert run(step, questions, tmp_path / "out") == 1
    assert "give --overwrite to replace it" in capsys.readouterr().err
    assert run(step, questions, tmp_path / "out", "--overwrite") == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("step", ["mix", "decontaminate"])
def test_an_input_is_never_overwritten(questions, tmp_path, capsys, step):
    before = (questions / "manifest.json").read_bytes()
    (tmp_path / "link").symlink_to(questions)
    for output in (questions, tmp_path / "link"):
        assert run(step, questions, output, "--overwrite") == 1
        assert "is an input and the output" in capsys.readouterr().err
    assert (questions / "manifest.json").read_bytes() == before


def test_what_cannot_be_made_leaves_what_was_there(questions, tmp_path):
    assert run("mix", questions, tmp_path / "out") == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    (tmp_path / "mix.yaml").write_text("size: 400\n")
    assert run("mix", questions, tmp_path / "out", "--overwrite") == 1
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_two_mixes_with_nothing_in_common(questions, tmp_path):
    assert run("mix", questions, tmp_path / "one") == 0
    assert run("mix", questions, tmp_path / "two", "--exclude", str(tmp_path / "one")) == 0
    one, two = ({question.uid for question in read_questions(tmp_path / name)} for name in ("one", "two"))
    assert (len(one), len(two), one & two) == (4, 4, set())
    rejected = [json.loads(line) for line in (tmp_path / "two" / "rejected.jsonl").read_text().splitlines()]
    assert {row["uid"] for row in rejected if row["reason"] == "excluded"} == one
    more = [f"--exclude={tmp_path / name}" for name in ("one", "two")]
    assert run("mix", questions, tmp_path / "three", *more) == 1, "two are left for a mix of four"


def test_only_the_splits_that_are_asked_for(questions, tmp_path, capsys):
    made = list(read_questions(questions))
    kept = [replace(question, split="test" if n < 7 else "train") for n, question in enumerate(made)]
    write_dataset(tmp_path / "splits", kept, [], {})
    (tmp_path / "mix.yaml").write_text("size: 3\nsplits: [train]\n")
    assert run("mix", tmp_path / "splits", tmp_path / "out") == 0
    assert {question.split for question in read_questions(tmp_path / "out")} == {"train"}
    (tmp_path / "mix.yaml").write_text("size: 3\nsplits: [training]\n")
    assert run("mix", tmp_path / "splits", tmp_path / "more") == 1
    assert "give a list of train, val, test" in capsys.readouterr().err


def test_a_mix_without_its_specification_says_what_to_begin_with(questions, tmp_path, capsys):
    assert cli.main(["mix", "--input", str(questions), "--spec", "gone.yaml", "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mix: --spec gone.yaml")
    assert "mix_example.yaml" in said


@pytest.mark.parametrize("step", STEPS)
def test_parquet_where_questions_are_wanted_names_the_command_that_converts(questions, tmp_path, capsys, step):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    arguments = [step, "--input", str(tmp_path / "train.parquet"), "--output", str(tmp_path / "out")]
    more = ["--spec", str(tmp_path / "mix.yaml")] if step == "mix" else []
    assert cli.main([*arguments, *more]) == 1
    assert f"cinema-verl prepare rl_parquet --input {tmp_path}/train.parquet" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prepare", "mix", "decontaminate", "to-parquet", "pack", "sets"])
def test_a_misspelt_option_gets_the_nearest(command, capsys):
    arguments = [command, "own"] if command == "prepare" else [command]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*arguments, "--input", "x", "--output", "y", "--overwrit", "--inptu=x"])
    said = capsys.readouterr().err
    assert "Did you mean --" in said or "required" in said
