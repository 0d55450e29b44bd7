"""A user's own rows, as people have them: absolute paths, orders and sets in every form, files inside the rows."""

import base64
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cinema_verl.data.canonical import Rejected
from cinema_verl.data.directory import read_questions
from cinema_verl.prepare.commands.prepare import main
from cinema_verl.prepare.convert import check_draft
from cinema_verl.prepare.media import images
from cinema_verl.prepare.media.images import ImageStore, is_heic
from cinema_verl.prepare.sources import adapter
from cinema_verl.verify import verify


@pytest.fixture
def mine(tmp_path, make_picture):
    """A folder for rows, and pictures in another one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.png").write_bytes(make_picture(number))
    return tmp_path / "mine"


def prepared(folder, rows, *more):
    """The questions, and the rejections by reason."""
    if rows is not None:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = folder.parent / "out"
    main(["own", "--input", str(folder), "--output", str(output), "--workers", "0", *more])
    rejected = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    return list(read_questions(output)), {row["reason"]: row["detail"] for row in rejected}


def drafted(**row):
    draft = adapter("own").draft({"question": "Which?", "images": ["a.jpg", "b.jpg"], **row})
    check_draft(draft)
    return draft


def rejected(**row):
    with pytest.raises(Rejected) as found:
        drafted(**row)
    return found.value


# --- Absolute paths -------------------------------------------------------------------------------------------------


def row_of(*paths, **more):
    return {"question": "Are they alike?", "images": [str(path) for path in paths], "answer": "yes", **more}


def test_absolute_paths_below_the_media_root_or_an_allowed_one(mine):
    photos = mine.parent / "photos"
    rows = [row_of(photos / "0.png", photos / "1.png")]
    for option in ("--media-root", "--allow-root"):
        questions, refused = prepared(mine, rows, option, str(photos), "--overwrite")
        assert (len(questions), refused) == (1, {}), option
        assert len(questions[0].images) == 2


def test_relative_and_absolute_paths_and_file_urls_together(mine, make_picture):
    photos = mine.parent / "photos"
    (mine / "here.png").write_bytes(make_picture(7))
    rows = [row_of("here.png", photos / "0.png"), row_of(mine / "here.png", f"file://{photos}/1.png")]
    questions, refused = prepared(mine, rows, "--allow-root", str(photos))
    assert (len(questions), refused) == (2, {})


def test_absolute_paths_in_parquet_of_datasets(mine):
    photos = mine.parent / "photos"
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([[{"bytes": None, "path": str(photos / f"{n}.png")} for n in range(2)]], pa.list_(image))
    pq.write_table(pa.table({"question": ["Are they alike?"], "images": images, "answer": ["yes"]}), mine / "a.parquet")
    questions, refused = prepared(mine, None, "--allow-root", str(photos))
    assert (len(questions), refused) == (1, {})


def test_what_lies_outside_is_refused_with_the_option_that_would_allow_it(mine, make_picture):
    photos = mine.parent / "photos"
    (mine / "here.png").write_bytes(make_picture(7))
    (mine / "link.png").symlink_to(photos / "0.png")
    rows = [row_of("here.png"), row_of(photos / "0.png"), row_of("link.png", id="link"), row_of("../photos/0.png")]
    questions, refused = prepared(mine, rows)
    assert len(questions) == 1
    assert list(refused) == ["path_outside"]
    lines = (mine.parent / "out" / "rejected.jsonl").read_text().splitlines()
    details = [json.loads(line)["detail"] for line in lines]
    assert f"--allow-root {photos}" in details[0]
    assert "is a link to" in details[1]
    assert "--allow-root" in details[1]
    assert "has '..'" in details[2]
    questions, refused = prepared(mine, rows, "--allow-root", str(photos), "--overwrite")
    assert len(questions) == 3, "the link leads into an allowed folder now"
    assert "has '..'" in refused["path_outside"]


def test_an_allowed_root_holds_its_own_links_only(mine):
    photos, secret = mine.parent / "photos", mine.parent / "secret.png"
    secret.write_bytes((photos / "0.png").read_bytes())
    (photos / "out.png").symlink_to(secret)
    rows = [row_of(photos / "0.png"), row_of(photos / "out.png"), row_of(f"{photos}/../secret.png")]
    rows.append(row_of(f"{photos}2/0.png"))
    (mine.parent / "photos2").mkdir()
    (mine.parent / "photos2" / "0.png").write_bytes(secret.read_bytes())
    questions, _ = prepared(mine, rows, "--allow-root", str(photos))
    assert len(questions) == 1


def test_an_allowed_root_that_is_a_link(mine):
    (mine.parent / "link").symlink_to(mine.parent / "photos")
    rows = [row_of(mine.parent / "link" / "0.png"), row_of(mine.parent / "photos" / "1.png")]
    questions, refused = prepared(mine, rows, "--allow-root", str(mine.parent / "link"))
    assert (len(questions), refused) == (2, {})


def test_an_allowed_root_must_be_there(mine, capsys):
    with pytest.raises(SystemExit) as ended:
        prepared(mine, [row_of("a.png")], "--allow-root", "/nowhere/at/all")
    assert ended.value.code == 2
    assert "/nowhere/at/all is not a folder" in capsys.readouterr().err


def test_only_absolute_paths_without_a_root_stop_the_run_with_the_option(mine, capsys):
    rows = [row_of(mine.parent / "photos" / "0.png", id=str(n)) for n in range(25)]
    (mine / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["own", "--input", str(mine), "--output", str(mine.parent / "out"), "--workers", "0"]) == 1
    assert "--allow-root" in capsys.readouterr().err


# --- Orders and sets ------------------------------------------------------------------------------------------------

FOUR = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
ORDERS = (
    ([3, 2, 1, 4], "3 > 2 > 1 > 4", "1, 2, 3, 4"),
    (["3", "2", "1", "4"], "3, 2, 1, 4", "4, 1, 2, 3"),
    ("[3, 2, 1, 4]", "Image 3, Image 2, Image 1, Image 4", "3, 2, 4, 1"),
    ("BADC", "B, A, D, C", "A, B, C, D"),
    ("b, a, d, c", "BADC", "ABCD"),
    ("2, 3, 4, 1", "2 -> 3 -> 4 -> 1", "1, 2, 3, 4"),
    ("2 3 4 1", "[2, 3, 4, 1]", "2, 3, 1, 4"),
    ("4231", "4, 2, 3, 1", "1, 2, 3, 4"),
)


@pytest.mark.parametrize("stated", ["ordering", ""])
@pytest.mark.parametrize(("gold", "correct", "incorrect"), ORDERS)
def test_an_order_in_every_form(gold, correct, incorrect, stated):
    draft = drafted(question="Put the images in the order of time.", images=FOUR, answer=gold, answer_type=stated)
    assert draft.answer_type == "ordering"
    assert verify(correct, draft.answer, "ordering") is True
    assert verify(incorrect, draft.answer, "ordering") is False


def test_an_order_of_two_images_or_of_the_options():
    assert drafted(question="Sort them by size.", answer="2,1").answer_type == "ordering"
    draft = drafted(question="Arrange the steps.", images=["a.jpg"], options=["cut", "wash", "fry"], answer="B, A, C")
    assert (draft.answer_type, draft.answer) == ("ordering", "B, A, C")
    draft = drafted(question="将步骤按顺序排列。", images=["a.jpg"], options=["切", "洗", "炒"], answer="BAC")
    assert draft.answer_type == "ordering"


@pytest.mark.parametrize("gold", ["B, A, C", "2, 1, 3", ["wash", "cut", "fry"]])
@pytest.mark.parametrize(
    "row",
    [
        {"question": "Arrange the steps.", "options": ["cut", "wash", "fry"]},
        {"question": "Arrange the steps.\nA. cut\nB. wash\nC. fry"},
    ],
)
def test_an_order_of_options_is_met_by_letters_numbers_and_texts(row, gold):
    draft = drafted(**row, images=["a.jpg"], answer=gold, answer_type="ordering")
    assert draft.options == ("cut", "wash", "fry")
    for answer in ("B, A, C", "BAC", "2, 1, 3", "wash, cut, fry", "B. wash -> A. cut -> C. fry"):
        assert verify(answer, draft.answer, "ordering", options=draft.options) is True, answer
    for answer in ("A, B, C", "cut, wash, fry", "B. cut, A. wash, C. fry"):
        assert verify(answer, draft.answer, "ordering", options=draft.options) is False, answer


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("Which of them show a house?", "2,1"),  # a set of images, the solutions of an equation, an order?
        ("Which of them show a house?", "BA"),
        ("In which order were the first two taken?", "C, A"),  # a part of an order
        ("Which of them show a house?", [1, 2]),
        ("Which of them show a house?", ["a house", "the house"]),
    ],
)
def test_what_only_the_writer_can_know_is_rejected_with_the_way_out(question, gold):
    images = ["a.jpg", "b.jpg", *(["c.jpg"] if "order" in question else [])]
    found = rejected(question=question, images=images, answer=gold)
    assert found.reason == "answer_type"
    assert "state answer_type: ordering" in found.detail


@pytest.mark.parametrize(
    ("row", "answer_type"),
    [
        ({"question": "How many are there in order to fill both?", "answer": "21"}, "number"),
        ({"question": "Sort them: which number is first?", "answer": "42"}, "number"),
        ({"question": "Solve for x.", "answer": "3, 5"}, "latex"),
        ({"question": "Sort them.", "answer": "2,1", "options": ["1,2", "2,1"]}, "mcq"),
        ({"question": "Which letter?", "answer": "B", "options": ["x", "y"]}, "mcq"),
        ({"question": "Which are in order?", "answer": "A, C", "options": ["x", "y", "z"]}, "mcq_multi"),
        ({"question": "Which two?", "answer": "A, B", "options": ["x", "y"]}, "mcq_multi"),
        ({"question": "What is it?", "answer": "CAB"}, "text"),
        ({"question": "Solve it.", "answer": "2,1", "answer_type": "latex"}, "latex"),
    ],
)
def test_what_is_no_order(row, answer_type):
    assert drafted(**row).answer_type == answer_type


def test_an_order_that_cannot_be_read_is_rejected():
    assert rejected(answer=["1", "1"], answer_type="ordering").reason == "gold_unreadable"
    assert rejected(answer=["cut, then wash", "fry"], answer_type="ordering").reason == "gold_unreadable"
    assert rejected(answer=[], answer_type="ordering").reason == "no_answer"
    assert rejected(answer=[{"a": 1}], answer_type="ordering").reason == "bad_record"


@pytest.mark.parametrize("stated", ["mcq_multi", ""])
@pytest.mark.parametrize("gold", [["A", "C"], ["x", "z"], ["C", "x"], '["A", "C"]', "A, C", "AC"])
def test_a_set_of_options_in_every_form(gold, stated):
    draft = drafted(options=["x", "y", "z"], answer=gold, answer_type=stated)
    assert (draft.answer_type, draft.answer) == ("mcq_multi", "A, C")
    assert verify("C and A", draft.answer, "mcq_multi", options=draft.options) is True
    assert verify("A", draft.answer, "mcq_multi", options=draft.options) is False


def test_a_set_whose_options_the_question_lists():
    draft = drafted(question="Which?\nA. cat\nB. dog\nC. cow", answer=["C", "A"], answer_type="mcq_multi")
    assert (draft.answer_type, draft.answer) == ("mcq_multi", "A, C")


def test_a_list_of_one_is_its_item_and_an_unknown_item_is_named():
    assert drafted(options=["x", "y", "z"], answer=["B"]).answer == "B"
    found = rejected(options=["x", "y", "z"], answer=["x", "w"])
    assert found.reason == "not_an_option"
    assert "'w' is none of" in found.detail


def test_prose_is_free_text_and_stating_text_admits_it():
    prose = "The harbour was built first, and the tower came after the war"
    found = rejected(answer=prose)
    assert found.reason == "free_text"
    assert "answer_type: text" in found.detail
    assert (drafted(answer=prose, answer_type="text").answer_type) == "text"


# --- Files inside the rows ------------------------------------------------------------------------------------------


def uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_data_uris_are_pictures(mine, make_picture):
    rows = [row_of(uri(make_picture(3)), uri(make_picture(4, kind="JPEG"), "image/jpeg"))]
    questions, refused = prepared(mine, rows)
    assert (len(questions), refused) == (1, {})
    assert len({image.sha256 for image in questions[0].images}) == 2


def test_data_uris_in_csv(mine, make_picture):
    cells = ";".join(uri(make_picture(seed)) for seed in (3, 4))
    (mine / "rows.csv").write_text(f'question,images,answer\nAre they alike?,"{cells}",yes\n')
    questions, refused = prepared(mine, None)
    assert (len(questions), refused) == (1, {})
    assert len(questions[0].images) == 2


def test_a_data_uri_is_a_video(mine, make_video):
    data = make_video(mine / "v.mp4").read_bytes()
    questions, refused = prepared(mine, [{"question": "What?", "video": uri(data, "video/mp4"), "answer": "cat"}])
    assert (len(questions), refused) == (1, {})
    assert questions[0].video.path == "", "not the whole file in the question"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("data:image/png;base64,%%%", "image_broken"),
        ("data:image/png;base64,", "image_broken"),
        (uri(b"no picture at all"), "image_format"),
        ("data:,no%20picture", "image_format"),
    ],
)
def test_data_uris_that_hold_no_picture(mine, make_picture, body, reason):
    _, refused = prepared(mine, [row_of(body), row_of(uri(make_picture(1)))])
    assert list(refused) == [reason]


def test_a_data_uri_is_limited_before_it_is_decoded(mine, make_picture, monkeypatch):
    from cinema_verl.prepare.media import paths

    assert paths.inline_bytes("data:;base64," + base64.b64encode(b"x" * 100).decode(), 100) == b"x" * 100
    monkeypatch.setattr(paths.base64, "b64decode", None)
    with pytest.raises(Rejected) as found:
        paths.inline_bytes("data:;base64," + "A" * 1000, 100)
    assert found.value.reason == "image_too_large"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_heic_is_rejected_with_its_way_out(mine, make_picture, monkeypatch):
    """Where pillow-heif is not there; where it is, its format is taken away."""
    monkeypatch.setattr(images, "_FORMATS", tuple(name for name in images._FORMATS if name != "HEIF"))
    _, refused = prepared(mine, [row_of(uri(HEIC)), row_of(uri(make_picture(1)))])
    assert "pip install pillow-heif" in refused["image_format"]


def test_heic_that_cannot_be_read_by_pillow_heif_is_not_told_to_install_it(mine, make_picture):
    pytest.importorskip("pillow_heif")
    _, refused = prepared(mine, [row_of(uri(HEIC)), row_of(uri(make_picture(1)))])
    assert not any("pip install" in detail for detail in refused.values())


def test_what_is_heic():
    assert is_heic(HEIC[:64])
    assert is_heic(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic")
    assert not is_heic(b"\0\0\0\x1cftypavif\0\0\0\0mif1avif")
    assert not is_heic(b"\0\0\0\x18ftypisom\0\0\0\0isommp42")
    assert not is_heic(b"\x89PNG\r\n")


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path):
    """A stand-in for the package registers an opener, and its format is one that is read."""
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', PngImagePlugin.PngImageFile, lambda head: head[4:8] == b'ftyp')\n"
    )
    code = "from cinema_verl.prepare.media import images; assert 'HEIF' in images._FORMATS"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(tmp_path), "PATH": ""})


def test_heic_itself(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    from io import BytesIO

    from PIL import Image

    heif.register_heif_opener()
    buffer = BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, "HEIF")
    found = ImageStore(tmp_path, 100_000).put(buffer.getvalue())
    assert (found.width, found.height, found.path[-4:]) == (64, 48, ".jpg")


@pytest.mark.parametrize("row", [{}, {"answer": None}, {"answer": "  "}])
def test_a_row_without_an_answer_is_rejected_as_such(row):
    with pytest.raises(Rejected) as rejected:
        adapter("own").draft({"question": "How many?", "image": "a.png", **row}, "rows.jsonl")
    assert rejected.value.reason == "no_answer"
