"""Drafts become questions over files that are made here; whatever is wrong with one has a name."""

import http.server
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinema_verl.data.canonical import REASONS, Rejected
from cinema_verl.data.directory import read_questions
from cinema_verl.prepare.convert import MAX_PIXELS, Converter, ConvertSettings
from cinema_verl.prepare.draft import Draft, Media
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.sources import adapter
from cinema_verl.prompts import messages

IMAGE = Media("image", path="a.png")
DRAFT = Draft(
    source_id="1", split="train", question="<image>\nHow many?", media=(IMAGE,), answer_type="number", answer="3"
)


@pytest.fixture
def root(tmp_path, make_picture):
    root = tmp_path / "source"
    root.mkdir()
    for number, name in enumerate("abcd"):
        (root / f"{name}.png").write_bytes(make_picture(number))
    return root


@pytest.fixture
def convert(root, tmp_path):
    """`convert(draft, max_images=2)`: the question, with these settings."""

    def convert(draft, **settings):
        return Converter(adapter("own"), ConvertSettings(media_root=str(root), **settings), tmp_path / "out").question(
            draft
        )

    return convert


def reason_of(convert, draft, **settings):
    with pytest.raises(Rejected) as rejected:
        convert(draft, **settings)
    return rejected.value.reason


def images(count, question):
    return replace(DRAFT, question=question, media=tuple(Media("image", path=f"{name}.png") for name in "abcd"[:count]))


# --- Images ---------------------------------------------------------------------------------------------------------


def test_one_image(convert, tmp_path):
    question = convert(DRAFT)
    (image,) = question.images
    assert (question.uid, question.modality, question.question) == ("own/1", "single", "<image>\nHow many?")
    assert Path(image.path).is_relative_to(tmp_path / "out" / "images")
    assert (image.width, image.height) == (64, 48)
    assert question.vision_tokens == 4  # 64x48 px are 2 by 2 tokens of 28 px
    assert question.text_tokens == 0  # not counted without a processor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image><image> Same?", "Image 1: <image>\nImage 2: <image>\nSame?"),
        ("<image>\n<image>\nSame?", "Image 1: <image>\nImage 2: <image>\nSame?"),
        ("Look: <image> <image>", "Look:\nImage 1: <image>\nImage 2: <image>"),
        ("Is <image> like <image>?", "Is <image> like <image>?"),
        ("Image A: <image>\nImage B: <image>\nSame?", "Image A: <image>\nImage B: <image>\nSame?"),
    ],
)
def test_images_are_named_where_the_source_does_not_name_them(convert, text, expected):
    question = convert(images(2, text))
    assert (question.question, question.modality) == (expected, "multi")


def test_images_keep_their_order_and_may_come_twice(convert):
    question = convert(
        replace(images(3, "<image><image><image> Which?"), media=(IMAGE, Media("image", path="b.png"), IMAGE))
    )
    first, second, third = question.images
    assert first == third != second


def test_embedded_images_need_no_file(convert, make_picture):
    embedded = replace(DRAFT, media=(Media("image", data=make_picture(0)),))
    assert convert(embedded).images == convert(DRAFT).images


def test_images_are_stored_within_the_cap_and_counted_as_stored(convert, root, make_picture):
    (root / "a.png").write_bytes(make_picture(0, 2000, 1000))
    (image,) = convert(DRAFT).images
    assert (image.width, image.height) == (1092, 532)
    small = convert(DRAFT, max_pixels=28 * 28 * 8)
    assert (small.images[0].width, small.images[0].height) == (112, 56)
    assert small.vision_tokens == 8


def test_a_modality_that_the_row_states_is_kept(convert):
    assert convert(replace(images(2, "<image><image> What moved?"), modality="frames")).modality == "frames"


# --- Videos ---------------------------------------------------------------------------------------------------------


def film(**media):
    return replace(DRAFT, media=(Media("video", **media),))


def greys(question):
    """Which frames the images are: frame i is of level 8 i."""
    return [round(float(np.asarray(Image.open(image.path)).mean()) / 8) for image in question.images]


def test_a_video_becomes_frames_with_their_times(convert, root, make_video):
    make_video(root / "x" / "v.mp4")
    question = convert(film(path="x/v.mp4"), frames=5)
    assert question.modality == "frames"
    assert question.question == "\n".join([*(f"Frame {i}: <image>" for i in range(1, 6)), "How many?"])
    assert greys(question) == [3, 9, 15, 21, 27]
    assert question.video.frame_times == pytest.approx((0.3, 0.9, 1.5, 2.1, 2.7))
    assert (question.video.path, question.video.fps) == ("x/v.mp4", pytest.approx(10))
    assert all(image.path.endswith(".jpg") for image in question.images)
    assert json.loads(json.dumps(question.to_json()))["video"]["frame_times"] == list(question.video.frame_times)


def test_a_part_of_a_video_and_a_rate(convert, root, make_video):
    make_video(root / "v.mp4")
    assert greys(convert(film(path="v.mp4", start=1.0, end=2.0), frames=2)) == [12, 17]
    assert greys(convert(film(path="v.mp4"), frames=None, fps=1.0)) == [0, 10, 20]
    assert greys(convert(film(path="v.mp4"), frames=None, fps=10.0, max_frames=3)) == [5, 15, 25]


def test_one_frame_is_a_single_image(convert, root, make_video):
    make_video(root / "v.mp4")
    question = convert(film(path="v.mp4"), frames=1)
    assert (question.modality, len(question.images)) == ("single", 1)
    assert question.video.frame_times == pytest.approx((1.5,))


def test_an_embedded_video(convert, tmp_path, make_video):
    data = make_video(tmp_path / "v.mp4").read_bytes()
    question = convert(film(data=data), frames=5)
    assert greys(question) == [3, 9, 15, 21, 27]
    assert question.video.path == ""


def test_a_folder_of_frames(convert, root, make_picture):
    (root / "frames").mkdir()
    for number in range(1, 13):
        (root / "frames" / f"{number}.jpg").write_bytes(make_picture(number, kind="JPEG"))
    question = convert(film(path="frames"), frames=4, folder_fps=3.0)
    assert question.video.frame_times == pytest.approx((1 / 3, 4 / 3, 7 / 3, 10 / 3))
    assert [Path(image.path).read_bytes() for image in question.images] == [
        make_picture(number, kind="JPEG") for number in (2, 5, 8, 11)
    ], "frames that are files already are not encoded again"


def test_frames_of_a_video_are_not_counted_as_images_of_a_row(convert, root, make_video):
    make_video(root / "v.mp4")
    assert len(convert(film(path="v.mp4"), frames=5, max_images=2).images) == 5


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ({"path": "none.mp4"}, "path_missing"),
        ({"path": "../v.mp4"}, "path_outside"),
        ({"path": "https://example.com/v.mp4"}, "path_url"),
        ({"path": "a.png"}, "video_format"),
        ({"path": "empty"}, "video_no_frames"),
        ({"path": "v.mp4", "start": 9.0}, "video_no_frames"),
        ({"path": "half.mp4"}, "video_format"),
        ({"data": b"no video"}, "video_format"),
    ],
)
def test_videos_that_are_rejected(convert, root, make_video, media, reason):
    data = make_video(root / "v.mp4").read_bytes()
    (root / "half.mp4").write_bytes(data[: len(data) // 2])
    (root / "empty").mkdir()
    assert reason_of(convert, film(**media)) == reason


# --- Token counts ---------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_prompt_that_verl_builds(convert, tmp_path):
    """Against the model's own processor, run on the pixels."""
    from cinema_verl.demo.tiny_model import build_processor, build_tokenizer

    processor, model = build_processor(build_tokenizer()), str(tmp_path / "model")
    processor.save_pretrained(model)
    draft = replace(images(2, "<image><image> Which?"), options=("left", "right"), answer_type="mcq", answer="B")
    question = convert(draft, processor=model)
    chat = [
        {
            "role": message["role"],
            "content": [
                {"type": "image"} if piece == "<image>" else {"type": "text", "text": piece}
                for piece in re.split("(<image>)", message["content"])
                if piece
            ],
        }
        for message in messages(question.prompt, "cinema")
    ]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(image.path) for image in question.images])
    assert question.vision_tokens + question.text_tokens == len(inputs["input_ids"][0])
    assert question.vision_tokens == sum(int(np.prod(grid)) // 4 for grid in np.asarray(inputs["image_grid_thw"]))

    length = question.vision_tokens + question.text_tokens
    assert convert(draft, processor=model, max_prompt_tokens=length) == question
    with pytest.raises(Rejected, match=f"prompt_too_long: {length} tokens"):
        convert(draft, processor=model, max_prompt_tokens=length - 1)


def test_images_are_shrunk_to_whole_tokens_of_the_model_that_will_see_them(convert, root, make_picture, tmp_path):
    """Qwen3-VL's are 32 pixels a side; what was shrunk for 28 it would resample."""
    from cinema_verl.demo.tiny_model import build_processor, build_tokenizer

    processor = build_processor(build_tokenizer())
    processor.image_processor.patch_size = 16
    processor.save_pretrained(tmp_path / "qwen3")
    (root / "a.png").write_bytes(make_picture(1, 200, 200))

    def size(**settings):
        (image,) = convert(DRAFT, max_pixels=100 * 100, **settings).images
        return image.width, image.height

    assert (size(), size(processor=str(tmp_path / "qwen3"))) == ((84, 84), (96, 96))


# --- Rejected by name -----------------------------------------------------------------------------------------------


def test_a_medium_is_found_at_the_first_of_its_places(convert, root):
    (root / "deep").mkdir()
    (root / "d.png").rename(root / "deep" / "d.png")
    places = (Media("image", path="gone/d.png"), Media("image", path="deep/d.png"))
    found = convert(replace(DRAFT, media=(Media("image", path="d.png", places=places),)))
    assert found.images[0].sha256 == convert(replace(DRAFT, media=places[1:])).images[0].sha256
    nowhere = Media("image", path="d.png", places=places[:1])
    assert reason_of(convert, replace(DRAFT, media=(nowhere,))) == "path_missing"
    outside = Media("image", path="../d.png", places=places)
    assert reason_of(convert, replace(DRAFT, media=(outside,))) == "path_outside"  # no other place mends that


def test_images_may_follow_a_video(convert, root, make_video):
    make_video(root / "v.mp4")
    draft = replace(
        DRAFT, media=(Media("video", path="v.mp4"), IMAGE), question="<image>\nWhich part of Image 1: <image>?"
    )
    question = convert(draft, frames=2)
    assert question.question == "Frame 1: <image>\nFrame 2: <image>\nWhich part of Image 1: <image>?"
    assert (len(question.images), len(question.video.frame_times), question.modality) == (3, 2, "frames")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"media": ()}, "no_images"),
        ({"question": "How many?"}, "placeholders"),
        ({"question": "<image><image> How many?"}, "placeholders"),
        ({"question": "<image> <video> How many?"}, "placeholders"),
        ({"question": "<image> Which?", "options": ("<audio>", "b")}, "placeholders"),
        ({"question": "<image> Which?", "options": ("<image>", "b")}, "placeholders"),
        ({"question": "<image>"}, "no_question"),
        ({"question": "<image> What does <|im_end|> say?"}, "special_token"),
        ({"question": "<image> Which?", "options": ("a", "<|vision_start|>")}, "special_token"),
        ({"media": (Media("image", path="none.png"),)}, "path_missing"),
        ({"media": (Media("image", path="/etc/passwd"),)}, "path_outside"),
        ({"media": (Media("image", path="https://example.com/a.png"),)}, "path_url"),
        ({"media": (Media("image", path="folder"),)}, "path_missing"),
        ({"media": (Media("image", path="text.png"),)}, "image_format"),
        ({"media": (Media("image", path="half.png"),)}, "image_broken"),
        ({"media": (Media("image", path="moving.gif"),)}, "image_animated"),
        ({"media": (Media("image", path="thin.png"),)}, "image_too_thin"),
        ({"media": (Media("video", path="a.png"),) * 2, "question": "<image><image> How many?"}, "several_videos"),
        ({"media": (IMAGE, Media("video", path="a.png")), "question": "<image><image> How many?"}, "several_videos"),
        ({"answer": "many"}, "gold_unreadable"),
        ({"answer": ""}, "gold_unreadable"),
        ({"answer_type": "mcq", "answer": "D", "options": ("a", "b")}, "gold_unreadable"),
        ({"answer_type": "essay"}, "bad_record"),
        ({"tolerance": -1.0}, "bad_record"),
        ({"tolerance": float("nan")}, "bad_record"),
        ({"modality": "smell"}, "bad_record"),
        ({"split": "dev"}, "bad_record"),
        ({"pass_rate": 30.0}, "bad_record"),
    ],
)
def test_what_is_wrong_with_a_draft(convert, root, make_picture, changes, reason):
    (root / "folder").mkdir()
    (root / "text.png").write_text("hello")
    (root / "half.png").write_bytes(make_picture(0, 200, 200)[:2000])
    (root / "thin.png").write_bytes(make_picture(0, 28, 28 * 201))
    Image.new("L", (60, 60)).save(root / "moving.gif", save_all=True, append_images=[Image.new("L", (60, 60), 9)])
    assert reason_of(convert, replace(DRAFT, **changes)) == reason


def test_too_many_images(convert):
    assert reason_of(convert, images(3, "<image><image><image> Which?"), max_images=2) == "too_many_images"
    assert len(convert(images(3, "<image><image><image> Which?"), max_images=None).images) == 3


def test_a_file_above_any_picture_is_not_read(convert, root, monkeypatch):
    with open(root / "a.png", "r+b") as file:
        file.truncate((1 << 28) + 1)  # sparse
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    assert reason_of(convert, DRAFT) == "image_too_large"


def test_what_may_not_be_read_is_the_machines_fault(convert, monkeypatch):
    def read_bytes(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(PermissionError, match=r"a\.png"):
        convert(DRAFT)


def test_a_row_that_is_nested_without_end_is_a_bad_record(root, tmp_path):
    deep = [1]
    for _ in range(5000):
        deep = [deep]
    converter = Converter(adapter("own"), ConvertSettings(media_root=str(root)), tmp_path / "out")
    for field in ("images", "question", "options", "tolerance"):
        with pytest.raises(Rejected, match="bad_record"):
            converter.draft({"question": "How many?", "answer": "3", "image": "a.png", field: deep})


def test_a_row_over_which_an_adapter_stumbles_is_a_bad_record(root, tmp_path):
    converter = Converter(adapter("rl_parquet"), ConvertSettings(media_root=str(root)), tmp_path / "out")
    for row in ({}, {"extra_info": None}, {"extra_info": {}, "prompt": 3}):
        with pytest.raises(Rejected, match="bad_record"):
            converter.draft(row)


# --- A whole file ---------------------------------------------------------------------------------------------------

ROWS = [  # what becomes of it, and the row
    ("", {"id": "good", "question": "How many?", "image": "a.png", "answer": "3"}),
    (
        "",
        {"id": "pair", "question": "Which?", "images": ["a.png", "b.png"], "options": ["left", "right"], "answer": "B"},
    ),
    ("duplicate_uid", {"id": "good", "question": "Again?", "image": "a.png", "answer": "4"}),
    ("bad_record", {"id": "typo", "question": "How many?", "image": "a.png", "anwser": "3", "answer": "3"}),
    ("bad_record", {"id": "type", "question": ["How many?"], "image": "a.png", "answer": "3"}),
    ("bad_record", {"id": "split", "question": "How many?", "image": "a.png", "answer": "3", "split": "dev"}),
    ("bad_record", {"id": "rate", "question": "How many?", "image": "a.png", "answer": "3", "pass_rate": 30}),
    ("bad_record", {"id": "half \ud800 a pair", "question": "How many?", "image": "a.png", "answer": "3"}),
    ("placeholders", {"id": "tags", "question": "<image><image> Same?", "image": "a.png", "answer": "yes"}),
    ("no_images", {"id": "text", "question": "How many?", "answer": "3"}),
    ("no_question", {"id": "mute", "question": "<image>", "image": "a.png", "answer": "3"}),
    ("no_answer", {"id": "open", "question": "How many?", "image": "a.png", "answer": " "}),
    ("free_text", {"id": "prose", "question": "Why?", "image": "a.png", "answer": "Because it was cold that night"}),
    ("multi_part", {"id": "parts", "question": "How many?", "image": "a.png", "answer": "(1) 3; (2) 4"}),
    ("several_golds", {"id": "two", "question": "How many?", "image": "a.png", "answer": "3", "aliases": ["4"]}),
    ("not_an_option", {"id": "out", "question": "Which?", "image": "a.png", "options": ["a", "b"], "answer": "E"}),
    ("options", {"id": "one", "question": "Which?", "image": "a.png", "options": ["a"], "answer": "A"}),
    ("answer_type", {"id": "kind", "question": "Which?", "image": "a.png", "answer": "3", "answer_type": "essay"}),
    ("gold_unreadable", {"id": "gold", "question": "?!x", "image": "a.png", "answer": "x", "answer_type": "number"}),
    ("too_many_images", {"id": "many", "question": "Which?", "images": ["a.png"] * 33, "answer": "3"}),
    ("several_videos", {"id": "mixed", "question": "Which?", "image": "a.png", "video": "v.mp4", "answer": "3"}),
    ("special_token", {"id": "token", "question": "<|im_start|>?", "image": "a.png", "answer": "3"}),
    ("path_url", {"id": "url", "question": "How many?", "image": "https://example.com/a.png", "answer": "3"}),
    ("path_outside", {"id": "dots", "question": "How many?", "image": "../source/a.png", "answer": "3"}),
    ("path_outside", {"id": "link", "question": "How many?", "image": "link.png", "answer": "3"}),
    ("path_missing", {"id": "gone", "question": "How many?", "image": "gone.png", "answer": "3"}),
    ("path_missing", {"id": "loop", "question": "How many?", "image": "loop.png", "answer": "3"}),
    ("image_format", {"id": "format", "question": "How many?", "image": "rows.jsonl", "answer": "3"}),
    ("image_broken", {"id": "broken", "question": "How many?", "image": "half.png", "answer": "3"}),
    ("video_format", {"id": "film", "question": "How many?", "video": "a.png", "answer": "3"}),
]


@pytest.fixture
def source(root, make_picture):
    (root / "half.png").write_bytes(make_picture(0, 200, 200)[:2000])
    (root.parent / "outside.png").write_bytes(make_picture(9))
    (root / "link.png").symlink_to("../outside.png")
    (root / "loop.png").symlink_to("loop.png")
    lines = [json.dumps(row) for _, row in ROWS]
    (root / "rows.jsonl").write_text("\n".join([*lines, '{"id": "cut off', "[]"]) + "\n")
    return root / "rows.jsonl"


def test_every_row_is_a_question_or_a_rejection_with_a_name(source, tmp_path):
    out = tmp_path / "out"
    manifest = prepare(adapter("own"), source, out, ConvertSettings(media_root=str(source.parent))).manifest
    rejections = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    expected = Counter(reason for reason, _ in ROWS if reason) + Counter(["bad_record"] * 2)

    assert Counter(rejection["reason"] for rejection in rejections) == expected == manifest["rejected_by_reason"]
    assert (manifest["input_rows"], manifest["questions"], manifest["rejected"]) == (len(ROWS) + 2, 2, len(ROWS))
    assert manifest["input_rows"] == manifest["questions"] + manifest["rejected"]
    assert all(rejection["detail"] and rejection["reason"] in REASONS for rejection in rejections)
    assert {"own/gone", "own/dots", "own/rows.jsonl, line 32"} <= {rejection["uid"] for rejection in rejections}
    assert [question.uid for question in read_questions(out)] == ["own/good", "own/pair"]
    for question in read_questions(out):
        assert question.rl_row(0, min_pixels=3136, max_pixels=MAX_PIXELS)["prompt"]


# --- Downloads ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(root):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_fetched_from_named_hosts_alone(convert, pictures, capfd):
    draft = replace(DRAFT, media=(Media("image", path=f"{pictures}/a.png"),))
    assert reason_of(convert, draft) == "path_url"
    assert reason_of(convert, draft, allow_download=("example.com",)) == "download_refused"
    assert capfd.readouterr().err == "", "the server was asked"
    assert convert(draft, allow_download=("127.0.0.1",)).images == convert(DRAFT).images
    missing = replace(DRAFT, media=(Media("image", path=f"{pictures}/none.png"),))
    assert reason_of(convert, missing, allow_download=("127.0.0.1",)) == "download_failed"


def test_of_what_was_fetched_a_finished_run_keeps_the_pictures_alone(root, pictures, tmp_path):
    row = {"question": "How many?", "answer": "3", "image": f"{pictures}/a.png"}
    (root / "rows.jsonl").write_text(json.dumps(row))
    settings = ConvertSettings(media_root=str(root), allow_download=("127.0.0.1",))
    assert prepare(adapter("own"), root, tmp_path / "out", settings).manifest["questions"] == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"images", "manifest.json", "questions", "rejected.jsonl"}
