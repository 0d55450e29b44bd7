"""Rows of each training source's shape, made up: good ones, its traps, its rejections."""

import json
from dataclasses import replace

import pytest

from cinema_verl.prepare.draft import Media
from cinema_verl.prepare.sources import adapter

from .conftest import convert, reason_of


def chat(*said, keys=("from", "value"), names=("human", "gpt")):
    return [{keys[0]: names[i % 2], keys[1]: text} for i, text in enumerate(said)]


def test_m4_reports_its_datasets_apart():
    draft = convert("m4_instruct")
    assert (draft.source, draft.source_id, draft.split) == ("m4_instruct/nlvr2", "17", "train")
    assert (draft.answer_type, draft.answer, len(draft.media)) == ("yesno", "Yes", 2)
    assert convert("m4_instruct", id=..., sample_id=3).source_id == "3"


def test_m4_video_rows_have_one_video():
    for changes in ({"video": "a/x.mp4", "image": ...}, {"image": ["a/x.MP4"]}, {"image": "a/x.mp4"}):
        draft = convert("m4_instruct", conversations=chat("<image>\nHow many jumps?", "3"), **changes)
        assert [medium.kind for medium in draft.media] == ["video"]
        assert (draft.question, draft.answer_type) == ("<image>\nHow many jumps?", "number")


def test_m4_choices_in_a_field_of_their_own():
    draft = convert(
        "m4_instruct", choice_list=["a lake", "a wood"], conversations=chat("<image><image>What?", "a wood")
    )
    assert (draft.options, draft.answer) == (("a lake", "a wood"), "B")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"conversations": chat("<image><image>Describe.", "Two men stand beside a lake and talk.")}, "free_text"),
        ({"conversations": chat("<image>Same?", "Yes")}, "placeholders"),
        ({"image": [], "conversations": chat("Same?", "Yes")}, "no_images"),
        ({"conversations": chat("<image><image>", "Yes")}, "no_question"),
        ({"conversations": chat("<image><image>Same?", "")}, "no_answer"),
        ({"conversations": "hello"}, "bad_record"),
        ({"image": 7}, "bad_record"),
    ],
)
def test_m4_rejections(changes, reason):
    assert reason_of("m4_instruct", **changes) == reason


def test_mantis_images_may_be_embedded():
    draft = convert("mantis_instruct", images=[{"bytes": b"one", "path": "a.jpg"}, {"bytes": None, "path": "./b.jpg"}])
    assert draft.media == (Media("image", data=b"one"), Media("image", path="b.jpg"))
    assert (draft.options, draft.answer) == (("the first", "the second"), "B")


def test_mantis_later_turns_are_left_out():
    turns = chat(
        "<image>How many?", "4", "<image>And here?", "5", keys=("role", "content"), names=("user", "assistant")
    )
    draft = convert("mantis_instruct", conversation=turns)
    assert (draft.answer, len(draft.media), draft.flags) == ("4", 1, ("first_of_2_turns",))


def test_mmdu_is_free_text():
    assert reason_of("mmdu") == "free_text"
    short = convert(
        "mmdu", conversations=chat("<ImageHere> <ImageHere> How many?", "Two.", names=("user", "assistant"))
    )
    assert (short.question, short.answer) == ("<image> <image> How many?", "Two")


@pytest.mark.parametrize("name", ["video_r1", "video_r1_cot", "videorft_cot", "videorft_rl"])
def test_video_r1_and_its_kin(name):
    draft = convert(name, process="<think>long</think>")
    assert draft.media == (Media("video", path="kitchen/x.mp4"),)
    assert (draft.question, draft.options) == ("<image>\nWhat does the cook add last?", ("salt", "oil", "rice"))
    assert (draft.answer_type, draft.answer, draft.source) == ("mcq", "B", f"{name}/kitchen")


@pytest.mark.parametrize(
    ("kind", "solution", "answer_type"),
    [
        ("numerical", "<answer>3.5</answer>", "number"),
        ("OCR", "<answer>Mind the gap between train and platform</answer>", "ocr"),
        ("regression", "<answer>12.25</answer>", "regression"),
        ("free-form", "<answer>$\\sqrt{3}$</answer>", "latex"),
        ("free-form", "<answer>a kettle</answer>", "text"),
    ],
)
def test_video_r1_kinds(kind, solution, answer_type):
    draft = convert("video_r1", problem_type=kind, solution=solution, options=[], data_type="image", path="./a/b.png")
    assert draft.answer_type == answer_type
    assert draft.media == (Media("image", path="a/b.png"),)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem_type": "essay"}, "answer_type"),
        ({"solution": "<answer>D</answer>"}, "not_an_option"),
        ({"problem_type": "numerical", "solution": "<answer>many</answer>"}, "gold_unreadable"),
        ({"problem_type": "free-form", "solution": "<answer>Because the pan is still hot</answer>"}, "free_text"),
        ({"solution": None}, "bad_record"),
        ({"options": "A. salt"}, "bad_record"),
        ({"data_type": "film"}, "bad_record"),
        ({"options": ["A. salt"]}, "options"),
        ({"problem": "<image> and <image>?"}, "placeholders"),
    ],
)
def test_video_r1_rejections(changes, reason):
    assert reason_of("video_r1", **changes) == reason


def test_llava_video_image_stands_for_the_video():
    draft = convert("llava_video_178k")
    assert draft.media == (Media("video", path="0_30_s_academic_v0_1/academic_source/kitchen/v8.mp4"),)
    assert draft.question.startswith("<image>\nWhat is poured")
    assert draft.answer == "B"
    another = convert("llava_video_178k", conversations=chat("<image>\nHow many bowls?", "Three."))
    assert another.source_id != draft.source_id  # one id, two questions in two files
    caption = chat("<image>\nDescribe.", "A cook pours flour into a bowl and stirs it for a while.")
    assert reason_of("llava_video_178k", conversations=caption) == "free_text"


@pytest.mark.parametrize(
    "suffix",
    [
        "\nPlease provide your answer by stating the letter followed by the full option.",
        "\nAnswer with the option's letter from the given choices directly.",
        "\nPlease respond with only the letter of the correct answer.",
    ],
)
def test_llava_video_the_form_of_the_answer_is_no_part_of_the_question(suffix):
    question = "<image>\nWhat is poured into the bowl?\nA. Milk.\nB. Flour."
    draft = convert("llava_video_178k", conversations=chat(question + suffix, "B. Flour."))
    assert draft.question == question
    assert (draft.options, draft.answer) == (("Milk.", "Flour."), "B")


def test_llava_video_a_question_about_choosing_is_one():
    question = "<image>\nGive the letter on the door."
    assert convert("llava_video_178k", conversations=chat(question, "K")).question == question


def test_virl39k_pass_rate():
    draft = convert("virl39k")
    assert (draft.pass_rate, draft.answer, draft.options) == (0.5, "A", ("the first", "the second"))
    assert convert("virl39k", PassRate_32BTrained=-1.0).pass_rate is None
    assert convert("virl39k", PassRate_32BTrained=0.0).pass_rate == 0.0


@pytest.mark.parametrize(
    ("answer", "answer_type"),
    [
        (r"\boxed{17^\circ}", "number"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", "latex"),
        (r"\boxed{Yes}", "yesno"),
        (r"\boxed{mitosis}", "text"),
    ],
)
def test_virl39k_answers(answer, answer_type):
    draft = convert("virl39k", question="<image><image>What?", answer=answer)
    assert draft.answer_type == answer_type
    assert "boxed" not in draft.answer


def test_mm_eureka_in_both_layouts():
    draft = convert("mm_eureka")
    assert (draft.question, draft.media) == ("<image>Find $x$.", (Media("image", path="geo/41.png"),))
    assert (draft.answer_type, draft.answer) == ("number", r"\frac{3}{2}")
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "Find $x$."}]
    other = convert("mm_eureka", message=..., conversations=turns, image_urls=["file:///geo/41.png"])
    assert (other.question, other.media) == ("<image>\nFind $x$.", draft.media)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"message": "{"}, "bad_record"),
        ({"message": "[]"}, "bad_record"),
        ({"message": ...}, "bad_record"),
        ({"message": json.dumps([{"role": "user", "content": "What is 1 + 1?"}])}, "no_images"),
    ],
)
def test_mm_eureka_rejections(changes, reason):
    assert reason_of("mm_eureka", **changes) == reason


def test_mmk12_cites_its_image_by_number():
    assert convert("mmk12").question.startswith("As shown in <image>, the beam")
    twice = convert("mmk12", question="In <image1>, and again in <image1>: what?")
    assert twice.question == "<image>\nIn Image 1, and again in Image 1: what?"


@pytest.mark.parametrize("name", ["geometry3k", "mmr1"])
def test_rows_without_an_id_are_named_by_their_content(name):
    image = {"bytes": b"one", "path": None}
    first, same = convert(name, images=[image]), convert(name, images=[image])
    other = convert(name, images=[{"bytes": b"two", "path": None}])
    assert first.source_id == same.source_id != other.source_id  # "Find x." is asked of many diagrams
    assert reason_of(name, answer="(1) 30 (2) 40") == "multi_part"


def test_openmmreasoner_lists_of_golds_are_aliases():
    draft = convert("openmmreasoner")
    assert (draft.answer, draft.aliases, draft.source) == ("mantle", ("the mantle",), "openmmreasoner/tqa_train")
    assert draft.question == "<image>Which layer lies below the crust?"
    assert reason_of("openmmreasoner", reward_model={"ground_truth": "['3', 'mantle']"}) == "several_golds"
    assert reason_of("openmmreasoner", reward_model=None) == "bad_record"


def test_openmmreasoner_content_in_parts():
    parts = [{"type": "image"}, {"type": "text", "text": "Which layer lies below the crust?"}]
    assert convert("openmmreasoner", prompt=[{"role": "user", "content": parts}]) == replace(
        convert("openmmreasoner"), source_id=convert("openmmreasoner").source_id
    )
    for wrong in (7, [7], [{"type": "audio"}], [{"type": "text"}]):
        assert reason_of("openmmreasoner", prompt=[{"role": "user", "content": wrong}]) == "bad_record"


@pytest.mark.parametrize(
    "images",
    [["a.jpg", "b.jpg"], "a.jpg; b.jpg", "a.jpg;b.jpg", [{"bytes": None, "path": "a.jpg"}, {"path": "./b.jpg"}]],
)
def test_own_images_in_every_form(images):
    draft = convert("own", images=images)
    assert draft.media == (Media("image", path="a.jpg"), Media("image", path="b.jpg"))
    assert draft.question == "Image 1: <image>\nImage 2: <image>\nWhich was taken later?"
    assert (draft.options, draft.answer, draft.split, draft.source) == (
        ("the first", "the second"),
        "B",
        "train",
        "own",
    )


def test_own_as_csv_reads_every_column_from_text():
    row = dict.fromkeys(("images", "options", "video", "aliases", "answer_type", "tolerance", "source"), "")
    draft = adapter("own").convert(
        {**row, "question": "How wide?", "answer": "2.5", "image": "a.jpg", "tolerance": "0.1"}
    )
    assert (draft.answer_type, draft.tolerance, draft.media) == ("number", 0.1, (Media("image", path="a.jpg"),))
    draft = adapter("own").convert(
        {**row, "question": "What?", "answer": "cat", "image": "a.jpg", "aliases": "a tabby"}
    )
    assert draft.aliases == ("a tabby",)


def test_own_letters_and_texts_of_options():
    assert convert("own", options=["A. C", "B. A", "C. B"], answer="A").options == ("C", "A", "B")
    assert convert("own", options=["A", "B"], answer="a").answer == "A"
    assert convert("own", options=[4, 3, 2, 1], answer=2).answer == "C"
    assert convert("own", options="the first; the second;").answer == "B"


def test_own_questions_that_differ_in_their_options_have_ids_of_their_own():
    assert convert("own").source_id != convert("own", options=["the second", "the third"]).source_id


def test_own_videos_and_stated_columns():
    draft = convert("own", images=..., video="x.mp4", id="q1", split="test", source="kitchen", _mine="anything")
    assert draft.media == (Media("video", path="x.mp4"),)
    assert (draft.source_id, draft.split, draft.source) == ("q1", "test", "own/kitchen")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"anwser_type": "mcq"}, "bad_record"),
        ({"answer": "third"}, "not_an_option"),
        ({"options": ["C", "A", "B"], "answer": "A"}, "not_an_option"),  # the letter, or the text?
        ({"options": "the first;;the second"}, "options"),  # leaving the empty one out would move the letters
        ({"images": []}, "no_images"),
        ({"images": ["a.jpg", None, "b.jpg"]}, "bad_record"),
        ({"images": "a.jpg;;b.jpg"}, "bad_record"),
        ({"images": {"href": "x"}}, "bad_record"),
        ({"tolerance": "much"}, "bad_record"),
        ({"options": ..., "answer": "It was taken in the evening, I think"}, "free_text"),
        ({"options": ..., "answer_type": "guess"}, "answer_type"),
    ],
)
def test_own_rejections(changes, reason):
    assert reason_of("own", **changes) == reason


def test_rl_parquet_takes_the_prompt_as_it_is():
    """Options that it does not list are not listed now; those that it lists stay choices."""
    draft = convert("rl_parquet")
    assert draft.question == "Image A: <image>\nImage B: <image>\nWhich shows the larger digit?"
    assert (draft.options, draft.answer, draft.modality) == ((), "B", "multi")
    listed = [{"role": "user", "content": "<image><image>Which?\nA. Image A\nB. Image B"}]
    assert convert("rl_parquet", prompt=listed).options == ("Image A", "Image B")


@pytest.mark.parametrize(
    ("rate", "expected"), [(float("nan"), None), ("", None), (None, None), ("0.25", 0.25), (1, 1.0)]
)
def test_numbers_that_are_not_there(rate, expected):
    assert convert("own", pass_rate=rate).pass_rate == expected


def test_numbers_that_are_none():
    assert reason_of("own", pass_rate=float("inf")) == "bad_record"
    assert reason_of("own", tolerance=10**400) == "bad_record"
