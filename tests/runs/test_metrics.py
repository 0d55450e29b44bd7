"""What is read of metrics, in whatever state their file is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.runs.metrics import number, read_metrics, records

from .conftest import file_with


def test_steps_are_sorted_and_what_is_missing_is_none(tmp_path):
    path = file_with(tmp_path, {"step": 2, "data": {"a": 2}}, {"step": 0, "data": {"b": 1.5}})
    metrics = read_metrics(path)
    assert metrics.steps == (0, 2)
    assert metrics.series == {"b": [1.5, None], "a": [None, 2.0]}
    assert metrics.notes == ()


def test_a_step_that_was_logged_twice_has_its_last_values(tmp_path):
    """A validation and its training step are two records; a resumed run repeats steps."""
    path = file_with(
        tmp_path, {"step": 1, "data": {"a": 1, "val": 5}}, {"step": 2, "data": {"a": 2}}, {"step": 1, "data": {"a": 3}}
    )
    assert read_metrics(path).series == {"a": [3.0, 2.0], "val": [5.0, None]}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b'{"step": 1, "data": {"a": 1', b"null", b"[]", b'{"step": "1", "data": {}}', b"\xff\xfe",
        b"[" * 100_000, b'{"step": true, "data": {}}', b'{"step": 1.5, "data": {}}', b'{"step": 1, "data": [1]}',
        b'{"data": {}}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    metrics = read_metrics(file_with(tmp_path, {"step": 1, "data": {"a": 1}}, line))
    assert metrics.series == {"a": [1.0]}
    (note,) = metrics.notes
    assert "line 2 not read" in note


def test_many_broken_lines_are_not_all_listed(tmp_path):
    (note, empty) = read_metrics(file_with(tmp_path, *[b"{"] * 9)).notes
    assert "9 lines (1, 2, 3, 4, 5, …) not read" in note
    assert "holds no record" in empty


def test_text_and_lists_are_no_series(tmp_path):
    path = file_with(tmp_path, {"step": 1, "data": {"text": "x", "list": [1], "flag": True, "a": 1}})
    assert read_metrics(path).series == {"a": [1.0]}


@given(
    lines=st.lists(
        st.binary(max_size=60) | st.sampled_from([b'{"step": 1, "data": {"a": NaN}}', b"1" * 60]), max_size=8
    )
)
def test_no_bytes_make_reading_metrics_fail(tmp_path_factory, lines):
    read_metrics(file_with(tmp_path_factory.mktemp("metrics"), *lines))


def test_metrics_of_earlier_versions_have_the_names_of_today(tmp_path):
    """A run that was resumed with a later version is one curve; what is below a name follows."""
    old, new = "cinema/dynamic_sampling/all_right", "cinema/dynamic_sampling/solve_all"
    path = file_with(
        tmp_path,
        {"step": 1, "data": {old: 0.5, "cinema/dynamic_sampling/all_wrong/squares": 0.25, f"{old}er": 1}},
        {"step": 2, "data": {new: 0.75}},
    )
    assert read_metrics(path).series == {
        new: [0.5, 0.75], "cinema/dynamic_sampling/solve_none/squares": [0.25, None], f"{old}er": [1.0, None],
    }  # fmt: skip


def test_records_are_those_of_whole_lines_in_the_order_of_the_file(tmp_path):
    path = file_with(tmp_path, {"step": 2, "data": {"a": 1}}, b"[1]", {"step": 1, "data": {}}, b'{"step": 3, "da')
    assert list(records(path)) == [(2, {"a": 1}), (1, {})]
    assert list(records(tmp_path / "not yet")) == []


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_is_itself(value):
    assert number(value) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", True, [], 10**400])
def test_what_is_no_number(value):
    assert number(value) is None
