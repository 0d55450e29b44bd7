import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl import verify
from cinema_verl.data.canonical import ImageRef, Question, Rejected, VideoRef, lists_options
from cinema_verl.data.schema import RL_SCHEMA
from cinema_verl.prepare.mix_spec import MixSpec
from cinema_verl.prepare.sources import gold_answers
from cinema_verl.verify import registry

IMAGE = ImageRef(path="/data/images/ab/abc.png", width=56, height=28, sha256="abc", phash="00ff00ff00ff00ff")
QUESTION = Question(
    uid="own/1",
    source="own",
    source_id="1",
    split="train",
    license="mine",
    modality="multi",
    question="Image 1: <image>\nImage 2: <image>\nWhich is larger?",
    images=(IMAGE, IMAGE),
    answer_type="mcq",
    answer="B",
    options=("the first", "the second"),
)


def test_the_prompt_lists_the_options():
    assert QUESTION.prompt.endswith("Which is larger?\nA. the first\nB. the second")


@pytest.mark.parametrize(
    "form", ["A. the first\nB. the second", "(A) the first (B) the second", "A: the first, B: the second"]
)
def test_options_that_the_question_lists_are_not_listed_twice(form):
    question = replace(QUESTION, question=f"<image><image>Which?\n{form}")
    assert question.prompt == question.question


def test_an_option_named_in_passing_is_not_a_list_of_options():
    assert not lists_options("Is it A. the first thing you see?", ("the first", "the second"))


def test_the_rl_row_carries_what_the_reward_needs():
    row = QUESTION.rl_row(7, min_pixels=784, max_pixels=1568)
    assert set(row) == set(RL_SCHEMA.names)
    assert row["data_source"] == "own"
    assert row["ability"] == "multi_image"
    assert row["images"] == [{"image": IMAGE.path, "min_pixels": 784, "max_pixels": 1568}] * 2
    assert row["reward_model"]["ground_truth"] == "B"
    assert row["extra_info"]["index"] == 7
    assert row["prompt"][1]["content"] == QUESTION.prompt


@given(
    root=st.sampled_from(["/data", "/elsewhere"]),
    tolerance=st.none() | st.floats(0, 1),
    flags=st.lists(st.text(), max_size=2).map(tuple),
    video=st.none() | st.just(VideoRef("a.mp4", 29.97, (0.0, 0.5))),
)
def test_json_round_trip(root, tolerance, flags, video):
    question = replace(QUESTION, tolerance=tolerance, flags=flags, video=video)
    text = json.dumps(question.to_json(Path(root)))
    assert ("/data/images" in text) == (root == "/elsewhere")  # relative inside the dataset, absolute outside
    assert Question.from_json(json.loads(text), Path(root)) == question


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "audio"}, "audio"),
        ({"answer_type": "essay"}, "essay"),
        ({"split": "dev"}, "split 'dev' is none of train, val, test"),
        ({"pass_rate": 30}, "pass_rate 30 is not from 0 to 1"),
        ({"colour": "red"}, "it has colour.*`cinema-verl prepare own`"),
        ({"images": [{"path": "a.png"}]}, "own/1"),
    ],
)
def test_what_is_not_canonical_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        Question.from_json({**QUESTION.to_json(), **change})


def test_a_missing_field_is_named():
    record = QUESTION.to_json()
    del record["answer"]
    with pytest.raises(ValueError, match="answer"):
        Question.from_json(record)


def test_a_rejection_has_a_known_reason():
    assert str(Rejected("no_images", "the list is empty")) == "no_images: the list is empty"
    with pytest.raises(KeyError):
        Rejected("because", "x")


@pytest.fixture
def roman(monkeypatch):
    """An answer type that somebody registered after everything was imported."""
    monkeypatch.setattr(registry, "CHECKERS", dict(registry.CHECKERS))
    monkeypatch.setattr(verify, "CHECKERS", registry.CHECKERS)
    assert "roman" not in verify.answer_types()
    verify.register("roman", lambda answer, gold: verify.Verdict(answer.strip().upper() == gold.text, "compared"))


def test_a_registered_answer_type_is_known_everywhere(roman, tmp_path):
    question = replace(QUESTION, answer_type="roman", answer="XIV", options=())
    assert question.rl_row(0, min_pixels=784, max_pixels=784)["extra_info"]["answer_type"] == "roman"
    assert gold_answers.read("XIV", answer_type="roman") == gold_answers.Gold("roman", "XIV")
    spec = MixSpec.of({"size": 10, "answer_type": {"roman": 0.5}})
    assert spec.cell_of(question) == ("roman",)


def test_without_it_the_type_is_refused_everywhere():
    for refuse in (
        lambda: replace(QUESTION, answer_type="roman"),
        lambda: MixSpec.of({"size": 10, "answer_type": {"roman": 0.5}}),
    ):
        with pytest.raises(ValueError, match=r"'roman'.* mcq, "):
            refuse()
    with pytest.raises(Rejected, match=r"'roman' is unknown; known are mcq"):
        gold_answers.read("XIV", answer_type="roman")
