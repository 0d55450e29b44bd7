"""The same questions over other images: what changes, what stays, and who is left out."""

import base64
import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cinema_verl.evaluate.perturb import grey, sample, under
from cinema_verl.runs.conditions import CONDITIONS, source_under, split_source

QUESTIONS = st.lists(
    st.tuples(st.sampled_from(["m/a", "m/b", "n"]), st.lists(st.sampled_from("pqrstu"), min_size=1, max_size=4)),
    min_size=1,
    max_size=12,
)


def row(number: int, images: list[str], source: str = "m/a") -> dict:
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": "<image>" * len(images)}],
        "images": [{"image": f"/{name}.png", "min_pixels": 784, "max_pixels": 784} for name in images],
        "reward_model": {"style": "rule", "ground_truth": str(number)},
        "extra_info": {"uid": f"q{number}", "index": number, "num_images": len(images)},
    }


def shown(row: dict) -> list[str]:
    return [cell["image"][1:-4] for cell in row["images"]]


def rows_of(questions) -> list[dict]:
    return [row(number, images, source) for number, (source, images) in enumerate(questions)]


@given(QUESTIONS, st.sampled_from(["shuffled", "reordered"]))
def test_only_images_and_source_change(questions, condition):
    rows = rows_of(questions)
    before = {row["extra_info"]["uid"]: row for row in rows}
    for changed in under(condition, rows, rows, seed=0):
        original = before[changed["extra_info"]["uid"]]
        assert changed.keys() == original.keys()
        assert [name for name in changed if changed[name] != original[name]] == ["data_source", "images"] or (
            shown(changed) == shown(original)
        )
        assert len(changed["images"]) == len(original["images"])
        assert split_source(changed["data_source"]) == (original["data_source"], condition)


@given(QUESTIONS)
def test_shuffled_shows_no_questions_own_sequence(questions):
    rows = rows_of(questions)
    changed = {row["extra_info"]["uid"]: shown(row) for row in under("shuffled", rows, rows, seed=3)}
    everything = {name for row in rows for name in shown(row)}
    for row in rows:
        if everything - set(shown(row)):
            assert sorted(changed[row["extra_info"]["uid"]]) != sorted(shown(row))
        else:
            assert sorted(changed.get(row["extra_info"]["uid"], [])) != sorted(shown(row))


@given(QUESTIONS)
def test_reordered_has_the_same_images_in_another_sequence(questions):
    rows = rows_of(questions)
    changed = {row["extra_info"]["uid"]: shown(row) for row in under("reordered", rows, rows, seed=3)}
    for row in rows:
        own = shown(row)
        if len(set(own)) == 1:
            assert row["extra_info"]["uid"] not in changed
        else:
            assert changed[row["extra_info"]["uid"]] != own
            assert Counter(changed[row["extra_info"]["uid"]]) == Counter(own)


@given(QUESTIONS, st.randoms())
def test_the_order_of_the_rows_changes_nothing(questions, random):
    rows = rows_of(questions)
    again = list(rows)
    random.shuffle(again)
    for condition in ("shuffled", "reordered"):
        first = {row["extra_info"]["uid"]: row for row in under(condition, rows, rows, seed=1)}
        assert {row["extra_info"]["uid"]: row for row in under(condition, again, again, seed=1)} == first
    assert sample(rows, 3, 0) == sample(again, 3, 0)


def test_questions_of_a_kind_exchange_their_images():
    rows = [row(n, [f"a{n}", f"b{n}"]) for n in range(5)] + [row(n, [f"c{n}"]) for n in range(5, 8)]
    changed = under("shuffled", rows, rows, seed=0)
    given_out = sorted(tuple(shown(row)) for row in changed)
    assert given_out == sorted(tuple(shown(row)) for row in rows)  # each question's images are shown once, together


def test_many_questions_over_one_video_are_shown_another():
    rows = [row(n, ["v1", "v2"]) for n in range(6)] + [row(6, ["w1", "w2"])]
    changed = {row["extra_info"]["uid"]: shown(row) for row in under("shuffled", rows, rows, seed=0)}
    assert all(set(changed[f"q{n}"]) == {"w1", "w2"} for n in range(6))
    assert set(changed["q6"]) == {"v1", "v2"}


def test_a_question_alone_cannot_be_shown_anothers_images():
    assert under("shuffled", [row(0, ["a", "b"])], [row(0, ["a", "b"])], seed=0) == []


def test_blank_is_grey_of_the_same_size(tmp_path):
    Image.effect_noise((40, 28), 50).save(tmp_path / "x.png")
    question = row(0, ["x"])
    question["images"][0]["image"] = str(tmp_path / "x.png")
    (changed,) = under("blank", [question], [question], seed=0)
    (cell,) = changed["images"]
    assert (cell["min_pixels"], cell["max_pixels"]) == (784, 784)
    image = Image.open(io.BytesIO(base64.b64decode(cell["image"].split(",")[1])))
    assert image.size == (40, 28)
    assert image.convert("RGB").getcolors() == [(40 * 28, (127, 127, 127))]
    assert question["images"][0]["image"] == str(tmp_path / "x.png")  # the row itself is as it was


def test_qwen_reads_a_grey_image_like_a_file():
    import verl  # noqa: F401  its plugin makes torchvision importable beside a CPU torch
    from qwen_vl_utils import fetch_image

    assert fetch_image({"image": grey(56, 84), "min_pixels": 28 * 28, "max_pixels": 10**6}).size == (56, 84)


@given(st.text(max_size=20), st.sampled_from(CONDITIONS))
def test_a_source_says_its_condition(source, condition):
    assert split_source(source_under(source, condition)) == (source, condition)
    assert split_source(source + "@elsewhere") == (source + "@elsewhere", "true")


def test_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match=r"unknown image condition 'upside_down'; known: shuffled, reordered, blank"):
        under("upside_down", [], [], seed=0)
