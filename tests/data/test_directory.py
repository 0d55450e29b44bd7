"""A dataset directory: what is written is what is read, a directory with a manifest is complete."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace

import pytest

from cinema_verl.data import directory as module
from cinema_verl.data.canonical import ImageRef, Question, VideoRef
from cinema_verl.data.directory import (
    WORK,
    Rejection,
    Uids,
    check_unchanged,
    fingerprint,
    locate_questions,
    parts_of,
    question_at,
    read_questions,
    sole_writer,
    start_anew,
    write_dataset,
)
from cinema_verl.utils.files import Locked

REJECTIONS = [Rejection("made/x", "free_text", "prose, größer"), Rejection("made/y", "no_answer", "")]


def question(number, root):
    return Question(
        uid=f"made/{number}",
        source="made",
        source_id=str(number),
        split="train",
        license="made up",
        modality="frames",
        question="Frame 1: <image>\nFrame 2: <image>\nGrößer?",
        images=(
            ImageRef(str(root / "images" / "ab" / "a.png"), 28, 30, "a" * 64, "0" * 16),
            ImageRef("/elsewhere/b.png", 28, 30, "b" * 64, "1" * 16),
        ),
        answer_type="number",
        answer="7",
        video=VideoRef("x.mp4", 29.97, (0.0, 1.5)),
        answer_aliases=("seven",),
        tolerance=0.1,
        pass_rate=0.25,
        flags=("odd",),
    )


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_PART", 3)


def made(root, count=7):
    return [question(number, root) for number in range(count)]


def test_what_is_written_is_read(tmp_path, small_parts):
    manifest = write_dataset(tmp_path, made(tmp_path), REJECTIONS, {"command": ["made"]})
    assert list(read_questions(tmp_path)) == made(tmp_path)
    assert [part["rows"] for part in manifest["parts"]] == [3, 3, 1]
    for part in manifest["parts"]:
        assert hashlib.sha256((tmp_path / part["name"]).read_bytes()).hexdigest() == part["sha256"]
    assert manifest == json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["questions"], manifest["rejected"], manifest["command"]) == (7, 2, ["made"])
    assert manifest["rejected_by_reason"] == {"free_text": 1, "no_answer": 1}
    lines = (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Rejection(**json.loads(line)) for line in lines] == REJECTIONS


def test_a_directory_may_be_moved_with_its_pictures(tmp_path):
    (old := tmp_path / "old").mkdir()
    write_dataset(old, made(old), [], {})
    new = old.rename(tmp_path / "new")
    assert list(read_questions(new)) == made(new)


def test_a_file_alone_is_read_from_where_it_lies(tmp_path):
    write_dataset(tmp_path, made(tmp_path), [], {})
    alone = (tmp_path / "questions" / "part-00000.jsonl").rename(tmp_path / "alone.jsonl")
    assert list(read_questions(alone)) == made(tmp_path)


def test_a_question_is_found_again_at_its_place(tmp_path, small_parts):
    write_dataset(tmp_path, made(tmp_path), [], {})
    places = [place for _, place in locate_questions(tmp_path)]
    assert [question_at(place).uid for place in reversed(places)] == [f"made/{number}" for number in range(6, -1, -1)]
    assert question_at(places[4]) == made(tmp_path)[4]


def test_a_line_that_is_no_question_is_named(tmp_path):
    write_dataset(tmp_path, made(tmp_path, 2), [], {})
    part = tmp_path / "questions" / "part-00000.jsonl"
    good = part.read_text()
    for line, says in (("{half", "Expecting"), ('{"uid": "made/9"}', "not in canonical form")):
        part.write_text(good + line + "\n")
        with pytest.raises(ValueError, match=rf"part-00000\.jsonl, line 3: .*{says}"):
            list(read_questions(tmp_path))


def test_what_is_no_data_set_or_not_a_whole_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a JSONL file nor a dataset directory"):
        parts_of(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        parts_of(tmp_path / "nothing")
    write_dataset(tmp_path, made(tmp_path), [], {})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"is not complete, it has no manifest\.json"):
        parts_of(tmp_path)


def test_a_data_set_without_a_question_says_where_the_reasons_are(tmp_path):
    write_dataset(tmp_path, [], [Rejection("made/0", "no_images", "the row has neither image nor video")], {})
    with pytest.raises(FileNotFoundError, match=r"holds no questions: .*rejected\.jsonl"):
        parts_of(tmp_path)
    (tmp_path / "interrupted" / ".work").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="is not complete"):
        parts_of(tmp_path / "interrupted")


def test_a_failure_leaves_no_manifest_and_the_next_run_starts_anew(tmp_path, small_parts):
    def failing():
        yield from made(tmp_path, 5)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_dataset(tmp_path, failing(), [], {})
    assert not (tmp_path / "manifest.json").exists()
    for name in ("questions/part-00009.jsonl", "questions/.part-00009.jsonl.ab.tmp", "images/ab/.x.png.ab.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("left")
    (tmp_path / "images" / "ab" / "x.png").write_text("stays")
    assert start_anew(tmp_path) == tmp_path
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["images/ab/x.png"]


def test_a_whole_data_set_is_not_overwritten(tmp_path):
    write_dataset(tmp_path, made(tmp_path), [], {})
    with pytest.raises(FileExistsError, match="holds a complete data set"):
        start_anew(tmp_path)
    assert list(read_questions(tmp_path)) == made(tmp_path)


def test_equal_questions_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        root = tmp_path / name
        write_dataset(root, [replace(question, flags=()) for question in made(root)], REJECTIONS, {"seed": 1})
    for name in ("manifest.json", "rejected.jsonl", "questions/part-00000.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# --- Inputs that are what their manifest says, and stay so ---------------------------------------------------------


def test_a_fingerprint_is_the_hashes_of_the_parts(tmp_path, small_parts):
    manifest = write_dataset(tmp_path, made(tmp_path), [], {})
    found = fingerprint(tmp_path)
    assert found["path"] == str(tmp_path)
    assert [part["sha256"] for part in found["parts"]] == [part["sha256"] for part in manifest["parts"]]
    check_unchanged([found])
    alone = tmp_path / "questions" / "part-00000.jsonl"
    assert fingerprint(alone)["parts"] == found["parts"][:1], "a JSONL file has no manifest, and is one part"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda parts: (parts / "part-00001.jsonl").open("a").write("\n"), "part-00001"),
        (lambda parts: (parts / "part-00002.jsonl").unlink(), "part-00002"),
        (lambda parts: (parts / "part-00003.jsonl").write_text(""), "part-00003"),
    ],
)
def test_an_input_that_is_not_what_its_manifest_lists_is_refused(tmp_path, small_parts, change, name):
    write_dataset(tmp_path, made(tmp_path), [], {})
    before = fingerprint(tmp_path)
    change(tmp_path / "questions")
    with pytest.raises(ValueError, match=rf"{name}\.jsonl is not what manifest\.json lists"):
        fingerprint(tmp_path)
    with pytest.raises(ValueError, match="is not what"):
        check_unchanged([before])


def test_an_input_that_changes_while_it_is_read_leaves_no_manifest(tmp_path):
    write_dataset(tmp_path / "in", made(tmp_path / "in"), [], {})
    read = [fingerprint(tmp_path / "in")]

    def questions():
        yield from read_questions(tmp_path / "in")
        for path in (tmp_path / "in").rglob("*.json*"):  # another data set takes its place
            path.unlink()
        write_dataset(tmp_path / "in", made(tmp_path / "in", 3), [], {})

    with pytest.raises(ValueError, match="in changed while it was read: run the command again"):
        write_dataset(tmp_path / "out", questions(), [], {}, read)
    assert not (tmp_path / "out" / "manifest.json").exists()
    manifest = write_dataset(tmp_path / "out", [], [], {}, [fingerprint(tmp_path / "in")])
    assert manifest["inputs"] == [fingerprint(tmp_path / "in")]


def test_a_uid_comes_once():
    uids = Uids()
    uids.add("a/1")
    uids.add("a/2")
    assert len(uids) == 2
    with pytest.raises(ValueError, match="two questions have the uid 'a/1'"):
        uids.add("a/1")


# --- One writer ----------------------------------------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path):
    with sole_writer(tmp_path / "out") as directory:
        assert directory == tmp_path / "out"
        with pytest.raises(Locked, match=r"another run is writing to .*out: wait for it, or give another --output"):
            sole_writer(tmp_path / "out").__enter__()
        write_dataset(directory, made(directory), [], {})
    assert not (tmp_path / "out" / WORK).exists()


def test_an_output_with_a_file_in_its_way(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    for way in ("file", "link", "file/below"):
        with pytest.raises(NotADirectoryError, match=r"can be no folder: .* Give another --output"):
            sole_writer(tmp_path / way).__enter__()
    assert (tmp_path / "file").read_text() == ""


def test_a_writer_that_fails_leaves_nothing_but_work_to_go_on_with(tmp_path):
    with pytest.raises(OSError, match="full"), sole_writer(tmp_path / "out"):
        raise OSError("full")
    assert not (tmp_path / "out").exists()
    with suppress(OSError), sole_writer(tmp_path / "out") as directory:
        (directory / WORK / "plan.json").write_text("{}")
        raise OSError("full")
    assert (tmp_path / "out" / WORK / "plan.json").exists()
