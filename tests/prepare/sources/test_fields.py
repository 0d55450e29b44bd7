"""What a row may lack, and what its fields may hold: a draft, or a rejection that names the field."""

import json

import pytest

from cinema_verl.data import sources
from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Draft
from cinema_verl.prepare.sources import adapter, fields

from .conftest import convert, reason_of

NAN = float("nan")
JUNK = [None, "", " ", 7, -1.5, NAN, True, {}, [], [["x"]], [None], {"a": [1]}, b"\xff", "日本<image>\u200b", "\ud800"]


def detail_of(name, row):
    with pytest.raises(Rejected) as rejected:
        adapter(name).draft(row)
    assert rejected.value.reason == "bad_record"
    return rejected.value.detail


@pytest.mark.parametrize("name", sources.SHIPPED)
def test_a_row_without_a_field_that_every_row_has_is_rejected_by_its_name(name):
    for field in adapter(name).required:
        row = {key: value for key, value in adapter(name).example.items() if key != field}
        assert detail_of(name, row) == f"no field {field!r}"


@pytest.mark.parametrize("name", sources.SHIPPED)
def test_whatever_a_field_holds_the_row_is_a_draft_or_a_rejection(name):
    example = json.loads(json.dumps(adapter(name).example))
    drafts = 0
    for field in example:
        for value in JUNK:
            try:
                draft = adapter(name).draft({**example, field: value})
            except Rejected:
                continue
            assert isinstance(draft, Draft)
            assert draft.source_id.strip()
            drafts += 1
    assert drafts or name == "mmdu", "nothing was tried: the example itself is rejected"


@pytest.mark.parametrize(
    ("name", "field"),
    [("m4_instruct", "metadata"), ("openmmreasoner", "reward_model"), ("rl_parquet", "extra_info")],
)
def test_an_object_that_is_none_is_named(name, field):
    row = {**adapter(name).example, field: "text"}
    assert detail_of(name, row) == f"field {field!r}: expected an object, got str 'text'"


def test_nan_is_what_pandas_writes_for_nothing():
    nothing = {"id": NAN, "options": NAN, "split": NAN, "source": NAN, "video": NAN, "image": NAN, "pass_rate": NAN}
    assert convert("own", **nothing, answer="7") == convert("own", options=..., answer="7")
    assert reason_of("own", question=NAN) == "bad_record"
    assert reason_of("own", images=NAN) == "no_images"
    assert reason_of("own", images=["a.jpg", NAN]) == "bad_record"


@pytest.mark.parametrize(
    ("name", "field"), [("virl39k", "qid"), ("m4_instruct", "id"), ("video_r1", "problem_id"), ("emma", "pid")]
)
def test_an_id_of_nothing_is_no_id(name, field):
    for empty in ("", "  "):
        assert detail_of(name, {**adapter(name).example, field: empty}) == "the row's id is empty"


def test_options_are_no_question():
    assert reason_of("own", question="") == reason_of("own", question="<image><image>") == "no_question"


def test_numbers_and_nothing():
    row = {"number": "0.5", "nan": "nan", "empty": ""}
    assert [fields.number(row, name) for name in ("number", "nan", "empty", "absent")] == [0.5, None, None, None]
