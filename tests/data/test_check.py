"""Every defect of a row has its code, and a message that says what is wrong, where, and what to do."""

import logging
import os
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AddedToken

from cinema_verl.data import check
from cinema_verl.data.check import (
    SFT,
    DataError,
    Limits,
    TokenizerError,
    check_rows,
    check_tokenizer,
    inspect_image,
    inspect_rows,
    placed,
    raise_for,
    report,
)
from cinema_verl.data.faults import CODES, WARNINGS, Fault
from cinema_verl.data.schema import image_cell, rl_row, sft_rows
from cinema_verl.data.tokens import Patching, PromptCounter
from cinema_verl.demo.tiny_model import build_processor, build_tokenizer


@pytest.fixture(scope="module")
def counter():
    return PromptCounter(build_processor(build_tokenizer()))


@pytest.fixture
def pictures(tmp_path):
    """Two small PNG files, a cut one, one that is no image, and a thin one."""
    Image.effect_noise((56, 56), 50).save(tmp_path / "a.png")
    Image.effect_noise((84, 56), 50).save(tmp_path / "b.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-600])
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (400, 20)).save(tmp_path / "thin.png")
    return tmp_path


@pytest.fixture
def row(pictures):
    return rl_row(
        uid="q/7",
        index=7,
        split="train",
        data_source="digits/largest",
        ability="multi_image_reasoning",
        prompt=[{"role": "user", "content": "Image A: <image>\nImage B: <image>\nWhich is larger?"}],
        images=[image_cell(pictures / f"{name}.png", min_pixels=784, max_pixels=784 * 4) for name in "ab"],
        modality="multi",
        question="Which is larger?",
        answer="B",
        answer_type="mcq",
        options=("Image A", "Image B"),
    )


def _check(row, **options):
    return check_rows([row], **options)


def test_a_sound_row_has_no_problems(row, counter, pictures):
    assert _check(row, counter=counter, limits=Limits(tokens=100, root=pictures), decode=True) == []


# Each case: what is done to the sound row, the code, and what the message must say.
def _set(path, value):
    *parents, last = path.split(".")

    def change(row):
        for name in parents:
            row = row[int(name)] if name.isdigit() else row[name]
        row[int(last) if last.isdigit() else last] = value

    return change


def _delete(path):
    *parents, last = path.split(".")

    def change(row):
        for name in parents:
            row = row[name]
        del row[last]

    return change


def _picture(name):
    def change(row):
        row["images"][1]["image"] = os.path.join(os.path.dirname(row["images"][0]["image"]), name)

    return change


TEXT = "prompt.0.content"
CASES = [
    (_delete("extra_info"), "missing_column", ("'extra_info' is missing", "RL schema")),
    (_set("reward_model", None), "missing_column", ("'reward_model' is null", "RL schema")),
    (_set("prompt", "Which <image> <image>?"), "prompt_shape", ("not a list of {role, content}", "Write")),
    (_set(TEXT, [{"type": "text"}]), "prompt_shape", ("not a list of {role, content}", "<image> in the text")),
    (_set("images", None), "images_shape", ("images is null", "at least one")),
    (_set("images", []), "images_shape", ("images is empty", "at least one")),
    (_set("images.1", "/b.png"), "images_shape", ("image 2 of 2", "but str", "Store the file's path")),
    (_set("images.0.bytes", None), "images_shape", ("image 1 of 2", "'bytes'", "not its bytes")),
    (_set("images.1.max_pixels", 700), "images_shape", ("image 2 of 2", "max_pixels=700", "0 < min_pixels")),
    (_set("images.1.min_pixels", 0), "images_shape", ("image 2 of 2", "min_pixels=0", "0 < min_pixels")),
    (_set(TEXT, "One <image>?"), "image_placeholders", ("1 <image>", "2 image(s)", "Write one <image>")),
    (_set(TEXT, "<image> <image> <image>"), "image_placeholders", ("3 <image>", "2 image(s)", "'Image 2'")),
    (_set(TEXT, "<image> <image> <video>"), "video", ("1 <video>", "0 video(s)", "Store the frames")),
    (_set("videos", ["/v.mp4"]), "video", ("0 <video>", "1 video(s)", "Store the frames as images")),
    (_set(TEXT, "<image><image><|image_pad|>"), "special_token", ("<|image_pad|>", "Take it out")),
    (_delete("extra_info.num_images"), "num_images", ("num_images is missing", "Write 2")),
    (_set("extra_info.num_images", 3), "num_images", ("num_images is 3 for 2 image(s)", "Write 2")),
    (_set("extra_info.num_images", "2"), "num_images", ("num_images is '2'", "Write 2")),
    (_set("extra_info", "none"), "extra_info", ("not a struct", "RL schema")),
    (_set("extra_info.options_json", "A or B"), "extra_info", ("options_json", "not JSON", "write")),
    (_set("extra_info.tolerance", -1.0), "extra_info", ("tolerance", "correct it")),
    (_set("extra_info.answer_type", "essay"), "answer_type", ("'essay'", "mcq", "register the type")),
    (_delete("extra_info.answer_type"), "answer_type", ("unknown answer type", "Write one of them")),
    (_set("reward_model.ground_truth", 2), "ground_truth", ("ground_truth is 2, not text", "Write it as text")),
    (_set("reward_model.ground_truth", "Z"), "gold_unreadable", ("'Z'", "'mcq'", "Image A", "Correct")),
    (_set("images.0.image", "a.png"), "image_path", ("image 1 of 2, a.png", "not an absolute path", "Write")),
    (_set("images.0.image", "https://x/a.png"), "image_path", ("https://x/a.png", "local file", "Write one")),
    (_set("images.0.image", "/etc/hosts"), "image_outside_root", ("image 1 of 2, /etc/hosts", "Copy it there")),
    (_picture("c.png"), "image_missing", ("image 2 of 2", "c.png, does not exist", "mount the disk")),
    (_picture(""), "image_unreadable", ("image 2 of 2", "cannot be read: Is a directory", "permissions")),
    (_picture("text.png"), "image_corrupt", ("text.png, is not an image", "leave the row out")),
    (_picture("cut.png"), "image_corrupt", ("cut.png, cannot be decoded", "leave the row out")),
    (_picture("thin.png"), "image_size", ("400x20 px leaves nothing of a side", "very thin: raise max_pixels")),
    (_set(TEXT, "<image><image>" + "x" * 99), "prompt_too_long", (" 6 of 2 image(s)", "60", "max_prompt_length")),
    (_delete("agent_name"), "agent_name", ("agent_name is None", "default_agent_loop=cinema")),
    (_set("agent_name", "tool_agent"), "agent_name", ("agent_name is 'tool_agent'", "Write 'cinema'")),
]


@pytest.mark.parametrize(("change", "code", "says"), CASES, ids=[f"{i}-{case[1]}" for i, case in enumerate(CASES)])
def test_defect_is_named(row, pictures, counter, change, code, says):
    change(row)
    problems = _check(row, counter=counter, limits=Limits(tokens=60, root=pictures), decode=True)
    assert [problem.code for problem in problems] == [code]
    for words in says:
        assert words in problems[0].message


def _last(text, role="assistant"):
    return _set("messages.1", {"role": role, "content": text})


def _single(row):
    row["images"] = row["images"][:1]
    row["messages"][0]["content"] = "<image> Which?"


SFT_CASES = [
    (_delete("messages"), "missing_column", ("'messages' is missing", "SFT schema")),
    (_set("messages.1.content", None), "prompt_shape", ("not a list of {role, content}",)),
    (_last("<think>image <image></think><answer>B</answer>"), "image_placeholders", ("3 <image>", "'Image 2'")),
    (_last("more", role="user"), "no_trajectory", ("'user'", "nothing to learn", "as 'assistant'")),
    (_last("B"), "trajectory_format", ("breaks the format rule (", "one <answer>")),
    (_single, "trajectory_format", ("global", "no <global> over one image")),
    (
        _last("<think>" + "x" * 99 + "</think><answer>B</answer>"),
        "prompt_too_long",
        ("over the limit of 130", "data.max_length"),
    ),
]


@pytest.fixture
def sft_row(row):
    text = "<global>Two shapes.</global><answer>B</answer>"
    return sft_rows(uid="q/7", prompt=row["prompt"], images=row["images"], trajectories=[text])[0]


def test_a_sound_sft_row_has_no_faults(sft_row, counter):
    (inspected,) = inspect_rows([sft_row], form=SFT, counter=counter, limits=Limits(tokens=130))
    assert inspected.faults == []
    assert inspected.vision_tokens == 4 + 2  # 28x28 pixels a token; 84x56 is shrunk below the row's 4 tokens: 2x1


@pytest.mark.parametrize(
    ("change", "code", "says"), SFT_CASES, ids=[f"{i}-{case[1]}" for i, case in enumerate(SFT_CASES)]
)
def test_a_defect_of_an_sft_row_is_named(sft_row, counter, change, code, says):
    change(sft_row)
    (inspected,) = inspect_rows([sft_row], form=SFT, counter=counter, limits=Limits(tokens=130))
    assert [fault.code for fault in inspected.faults] == [code]
    assert all(words in inspected.faults[0].message for words in says)
    assert [fault.uid for fault in placed(inspected, "sft.parquet", 3)] == ["q/7"]


def test_every_code_has_a_case():
    images = {"too_many_images"}  # its own test
    assert {case[1] for case in CASES + SFT_CASES} | images == set(CODES)


def test_more_images_than_the_engine_takes(row):
    assert check_rows([row], limits=Limits(images=2)) == []
    problems = check_rows([row], limits=Limits(images=1))
    assert [problem.code for problem in problems] == ["too_many_images"]
    assert "2 images, over the limit of 1. Raise actor_rollout_ref.rollout.limit_images" in problems[0].message


def test_without_a_processor_images_are_counted_and_text_is_not(row):
    patching = Patching(patch_size=14, merge_size=2, min_pixels=784, max_pixels=784 * 100)
    (inspected,) = inspect_rows([row], patching=patching, limits=Limits(tokens=6))
    assert (inspected.text_tokens, inspected.vision_tokens) == (0, 4 + 2)
    assert inspected.faults == []
    (inspected,) = inspect_rows([row], patching=patching, limits=Limits(tokens=5))
    assert [fault.code for fault in inspected.faults] == ["prompt_too_long"]


def test_chat_template_that_refuses_is_a_prompt_problem(row):
    class Strict(PromptCounter):
        def render(self, messages, **_):
            raise check.jinja2.TemplateError("roles must alternate")

    problems = _check(row, counter=Strict(build_processor(build_tokenizer())))
    assert [(p.code, "roles must alternate" in p.message) for p in problems] == [("prompt_shape", True)]


def test_header_check_passes_over_a_cut_file(row):
    _picture("cut.png")(row)
    assert _check(row) == []
    assert [problem.code for problem in _check(row, decode=True)] == ["image_corrupt"]


def test_all_problems_of_all_rows_are_collected_in_order(row, pictures):
    broken = {**row, "images": [], "agent_name": None, "extra_info": {**row["extra_info"], "uid": "q/8"}}
    rows = [row] * 600 + [broken] + [row] * 600 + [broken]
    problems = check_rows(rows, locate=lambda position: ("train.parquet", position + 1000))
    assert [(p.row, p.code, p.uid, p.file) for p in problems] == [
        (row, code, "q/8", "train.parquet") for row in (1600, 2201) for code in ("images_shape", "agent_name")
    ]


def test_one_defect_does_not_hide_another(row, counter):
    del row["reward_model"]
    _picture("c.png")(row)
    row["prompt"][0]["content"] += "<|im_end|>"
    codes = [problem.code for problem in _check(row, counter=counter)]
    assert codes == ["missing_column", "image_missing", "special_token"]


KEYS = ("role", "content", "image", "num_images", "answer_type", "ground_truth", "options_json", "tolerance", "uid")
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("mcq"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=8,
)
COLUMNS = ("prompt", "images", "reward_model", "extra_info", "videos", "data_source")


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(COLUMNS), json_like))
def test_nothing_in_a_row_makes_the_check_raise(counter, row):
    assert check_rows([row], counter=counter), "no such row is sound"
    (inspected,) = inspect_rows([{**row, "messages": row.get("prompt")}], form=SFT, counter=counter)
    assert inspected.faults, "nor is it for fine-tuning"


def test_each_file_is_opened_once(row, monkeypatch):
    opened = []
    monkeypatch.setattr(check, "inspect_image", lambda path, **_: opened.append(path) or check.ImageSize(56, 56))
    check_rows([row] * 2000)
    assert sorted(opened) == [cell["image"] for cell in row["images"]]


def test_a_link_out_of_the_root_is_outside(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "a.png").symlink_to(pictures / "a.png")
    assert inspect_image(str(root / "a.png"), root=root).code == "image_outside_root"
    assert inspect_image(f"file://{pictures}/a.png", root=pictures) == (56, 56)


def test_a_decompression_bomb_is_named(pictures, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fault = inspect_image(str(pictures / "a.png"))
    assert fault.code == "image_size"
    assert "refused by Pillow" in fault.message


# --- The error ----------------------------------------------------------------------------------------------


def _problem(row, code="num_images"):
    return Fault(code, "what, where. What to do", row, f"q/{row}", "train.parquet")


def test_report_counts_and_shows_the_first_few():
    text = report([*map(_problem, range(5)), _problem(9, "image_missing"), _problem(9, "agent_name")])
    assert text == "\n".join(
        [
            "6 rows with faults:",
            "  num_images: 5",
            *(f"    train.parquet, row {i} (q/{i}): what, where. What to do" for i in range(3)),
            "    ... and 2 more",
            "  image_missing: 1",
            "    train.parquet, row 9 (q/9): what, where. What to do",
            "  agent_name: 1",
            "    train.parquet, row 9 (q/9): what, where. What to do",
        ]
    )


def test_warnings_are_logged_and_stop_nothing(caplog):
    assert frozenset({"agent_name", "trajectory_format"}) == WARNINGS
    with caplog.at_level(logging.WARNING):
        raise_for([_problem(3, "agent_name")])
    assert "row 3 (q/3)" in caplog.text


def test_error_holds_every_problem_and_survives_ray():
    problems = [*map(_problem, range(5)), _problem(3, "agent_name")]
    with pytest.raises(DataError, match="num_images: 5") as caught:
        raise_for(problems)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.faults == tuple(problems[:5])
    assert str(again) == str(caught.value)


# --- The tokenizer ------------------------------------------------------------------------------------------


def test_tags_as_ordinary_tokens_or_plain_text_pass():
    check_tokenizer(build_tokenizer())


def test_a_tag_that_is_a_special_token_is_refused():
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("</think>", special=True)]})
    with pytest.raises(TokenizerError, match=r"</think> as a special token: it would vanish .* special=False"):
        check_tokenizer(tokenizer)


def test_a_tag_that_does_not_come_back_is_refused():
    class Lossy:
        def encode(self, text, add_special_tokens):
            return [0]

        def decode(self, ids, skip_special_tokens=False):
            return "<unk>"

    with pytest.raises(TokenizerError, match=r"turns <global> into '<unk>'.*byte-level"):
        check_tokenizer(Lossy())
