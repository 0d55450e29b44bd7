"""Files of rows: the same rows come back whatever the format and however they are cut, and damage has a name."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import Rejected, SourceError
from cinema_verl.prepare import readers
from cinema_verl.prepare.readers import MAX_RECORD_BYTES, check_fields, contents, find_files, plan, read
from cinema_verl.prepare.sources import adapter

ROWS = [{"id": str(number), "question": f"Wie groß\nist {number}? 日本", "answer": "ja"} for number in range(23)]


def as_jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows):
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def as_csv(rows):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def as_parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=9)
    return buffer.getvalue()


FORMATS = {".jsonl": as_jsonl, ".json": as_json, ".csv": as_csv, ".parquet": as_parquet}


def write(tmp_path, suffix, content):
    (tmp_path / f"rows{suffix}").write_bytes(content)
    return f"rows{suffix}"


def all_rows(root, file, rows_per_span=4):
    """What the spans hold, each read alone and the last one first."""
    spans = plan(root, file, rows_per_span)
    assert [span.first for span in spans] == [sum(span.rows for span in spans[:i]) for i in range(len(spans))]
    found = [[row for _, row in read(root, span)] for span in reversed(spans)]
    return [row for rows in reversed(found) for row in rows]


def places(root, file, rows_per_span=2):
    """Where the rows are, by the span's own word; each span read alone."""
    return [place for span in plan(root, file, rows_per_span) for place, _ in read(root, span)]


def reasons(rows):
    return [row.reason if isinstance(row, Rejected) else "" for row in rows]


# --- The same rows, however they are cut ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rows_per_span", [1, 4, 23, 100])
def test_the_rows_of_every_format(tmp_path, suffix, rows_per_span):
    file = write(tmp_path, suffix, FORMATS[suffix](ROWS))
    assert all_rows(tmp_path, file, rows_per_span) == ROWS


def test_no_span_of_text_has_more_rows_than_asked(tmp_path):
    for suffix in (".jsonl", ".json", ".csv"):
        spans = plan(tmp_path, write(tmp_path, suffix, FORMATS[suffix](ROWS)), 5)
        assert [span.rows for span in spans] == [5, 5, 5, 5, 3]


def test_a_large_row_group_is_cut_into_few_spans(tmp_path):
    """Each span decodes what lies before it in its row group."""
    pq.write_table(pa.table({"id": range(1000)}), tmp_path / "rows.parquet", row_group_size=1000)
    spans = plan(tmp_path, "rows.parquet", 10)
    assert len(spans) == 16
    assert [row["id"] for row in all_rows(tmp_path, "rows.parquet", 10)] == list(range(1000))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(rows=st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), min_size=1, max_size=8), cut=st.integers(1, 4))
def test_any_text_comes_back(tmp_path_factory, rows, cut):
    root = tmp_path_factory.mktemp("rows")
    for suffix in (".jsonl", ".json", ".csv"):
        assert all_rows(root, write(root, suffix, FORMATS[suffix](rows)), cut) == rows


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path, suffix):
    content = b"\xef\xbb\xbf" + FORMATS[suffix](ROWS).replace(b"}\n", b"}\r\n\n \n" if suffix == ".jsonl" else b"}\n")
    assert all_rows(tmp_path, write(tmp_path, suffix, content)) == ROWS


def test_objects_a_line_under_the_name_of_an_array(tmp_path):
    assert all_rows(tmp_path, write(tmp_path, ".json", as_jsonl(ROWS))) == ROWS


def test_an_array_without_white_space_and_one_larger_than_what_is_read_at_once(tmp_path):
    rows = [{"id": number, "text": "ä" * 300_000} for number in range(12)]
    content = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    assert all_rows(tmp_path, write(tmp_path, ".json", content), 5) == rows


def test_embedded_images_come_as_bytes(tmp_path):
    rows = [{"image": {"bytes": b"\x89PNG", "path": None}}, {"image": {"bytes": None, "path": "a.png"}}]
    assert all_rows(tmp_path, write(tmp_path, ".parquet", as_parquet(rows))) == rows


def test_a_line_is_counted_as_editors_count_it(tmp_path):
    """From 1, blank lines, the header and lines inside a field included."""
    lines = write(tmp_path, ".jsonl", b'\xef\xbb\xbf\n{"a": 1}\n\n \n{"a": 2}\r\n{\n{"a": 4}\n\n{"a": 5}')
    assert places(tmp_path, lines) == ["line 2", "line 5", "line 6", "line 7", "line 9"]
    table = write(tmp_path, ".csv", b'a,b\n1,"two\nlines"\n\n2,x\n3\n\n\n4,"y\n\n"\n5,z\n')
    assert places(tmp_path, table) == ["line 2", "line 5", "line 6", "line 9", "line 12"]
    misnamed = write(tmp_path, ".json", b'{"a": 1}\n\n{"a": 2}\n{"a": 3}\n')
    assert places(tmp_path, misnamed) == ["line 1", "line 3", "line 4"]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_row_of_no_line_is_counted_from_0(tmp_path, suffix):
    file = write(tmp_path, suffix, FORMATS[suffix](ROWS))
    assert places(tmp_path, file) == [f"row {number}" for number in range(23)]
    assert places(tmp_path, file, 20) == [f"row {number}" for number in range(23)]


def test_no_rows(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "rows.parquet")
    assert plan(tmp_path, "rows.parquet", 5) == []
    for suffix, content in {".jsonl": b"", ".json": b"[]", ".csv": b"a,b\n"}.items():
        assert plan(tmp_path, write(tmp_path, suffix, content), 5) == []


def test_what_datasets_saved(tmp_path):
    import datasets

    images = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image()})
    saved = datasets.Dataset.from_list(
        [{"id": number, "image": {"bytes": b"not decoded", "path": None}} for number in range(7)], features=images
    )
    saved.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved.select(range(2))}).save_to_disk(tmp_path / "two")

    root, files = find_files(tmp_path / "one", ("*.jsonl",))
    assert (root, files) == (tmp_path, ["one"])
    rows = all_rows(root, "one", 3)
    assert [row["id"] for row in rows] == list(range(7))
    assert rows[0]["image"] == {"bytes": b"not decoded", "path": None}
    assert find_files(tmp_path / "two", ("*.jsonl",)) == (tmp_path / "two", ["test", "train"])
    assert len(all_rows(tmp_path / "two", "test")) == 2
    assert {path.suffix for path in contents(tmp_path / "one")} == {".arrow", ".json"}


# --- A record that cannot be read takes its row's place -------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [b"{", b"nothing", b'{"a": "\xff"}', b"[1, 2]", b"3", b'"text"', b"null", b"[" * 100_000, b'{"a": 1} {"a": 2}'],
)
def test_a_broken_line_is_one_rejected_row(tmp_path, line):
    content = as_jsonl(ROWS[:2]) + line + b"\n" + as_jsonl(ROWS[2:4])
    rows = all_rows(tmp_path, write(tmp_path, ".jsonl", content), 2)
    assert reasons(rows) == ["", "", "bad_record", "", ""]
    assert [row for row in rows if not isinstance(row, Rejected)] == ROWS[:4]


def test_a_file_that_breaks_off_in_its_last_line(tmp_path):
    assert reasons(all_rows(tmp_path, write(tmp_path, ".jsonl", as_jsonl(ROWS)[:-9]))) == [""] * 22 + ["bad_record"]


def test_elements_of_an_array_that_are_no_rows(tmp_path):
    content = b'[{"a": 1}, 3, null, [1], "x", {"a": 2}]'
    assert reasons(all_rows(tmp_path, write(tmp_path, ".json", content), 2)) == ["", *["bad_record"] * 4, ""]


def test_csv_rows_of_another_length_or_encoding(tmp_path):
    content = b'a,b\n1,2\n3\n4,5,6\n\xff,7\n"8\n9",10\n'
    rows = all_rows(tmp_path, write(tmp_path, ".csv", content), 2)
    assert reasons(rows) == ["", "bad_record", "bad_record", "bad_record", ""]
    assert (rows[0], rows[4]) == ({"a": "1", "b": "2"}, {"a": "8\n9", "b": "10"})


# --- A file that is none of rows stops the run ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_downloads_that_broke_off(tmp_path, suffix, share):
    content = FORMATS[suffix](ROWS)
    with pytest.raises(SourceError, match=r"whole parquet file|Is the download complete"):
        plan(tmp_path, write(tmp_path, suffix, content[: int(len(content) * share)]), 4)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", b"<html>Too many requests</html>", "neither an array of rows nor an object a line"),
        (".json", as_json(ROWS) + b"[]", "something follows the array's end"),
        (".json", b'[{"a": 1}, oops]', "the array is damaged"),
        (".json", b'[{"a": "\xff"}]', "not UTF-8"),
        (".json", b"[" * 100_000, "nested too deeply"),
        (".parquet", b"version https://git-lfs.github.com/spec/v1\n", "not a whole parquet file"),
        (".csv", b"", "is empty"),
        (".csv", b"a,a\n1,2\n", "name each field once"),
        (".csv", b"a,\n1,2\n", "name each field once"),
        (".csv", b'a,b\n1,"2\n', "not CSV"),
    ],
)
def test_what_is_no_file_of_rows(tmp_path, suffix, content, message):
    with pytest.raises(SourceError, match=message):
        plan(tmp_path, write(tmp_path, suffix, content), 4)


def test_one_endless_line_is_not_held(tmp_path):
    file = write(tmp_path, ".jsonl", b"x" * (MAX_RECORD_BYTES + 10))
    with pytest.raises(SourceError, match="not one row a line"):
        plan(tmp_path, file, 4)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_file_that_changes_between_planning_and_reading(tmp_path, suffix):
    file = write(tmp_path, suffix, FORMATS[suffix](ROWS))
    spans = plan(tmp_path, file, 4)
    write(tmp_path, suffix, FORMATS[suffix](ROWS[:2]))
    with pytest.raises(SourceError, match="changed"):
        list(read(tmp_path, spans[-1]))


def test_a_damaged_page_of_parquet(tmp_path):
    content = bytearray(as_parquet([{"id": str(number) * 200} for number in range(2000)]))
    for position in range(100, len(content) // 2, 7):
        content[position] ^= 0xFF
    file = write(tmp_path, ".parquet", bytes(content))
    with pytest.raises(SourceError, match="damaged"):
        all_rows(tmp_path, file, 500)


# --- Which files ----------------------------------------------------------------------------------------------------


def test_files_come_in_the_order_of_their_names(tmp_path):
    for name in ("b/train-1.parquet", "a/train-2.parquet", "a/test.parquet", "train.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path, ("**/train*.parquet",)) == (tmp_path, ["a/train-2.parquet", "b/train-1.parquet"])
    assert find_files(tmp_path / "b" / "train-1.parquet", ()) == (tmp_path / "b", ["train-1.parquet"])


def test_what_is_looked_for_and_not_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match=r"has no \*\.jsonl; it holds notes.txt"):
        find_files(tmp_path, ("*.jsonl",))
    with pytest.raises(SourceError, match="does not exist"):
        find_files(tmp_path / "none", ("*.jsonl",))
    with pytest.raises(SourceError, match="rows are read from"):
        find_files(tmp_path / "notes.txt", ())


# --- Is it the source's? --------------------------------------------------------------------------------------------


def check(tmp_path, name, rows):
    file = write(tmp_path, ".jsonl", as_jsonl(rows))
    check_fields(tmp_path, plan(tmp_path, file, 50), adapter(name))


def example(name, **changes):
    return {**adapter(name).example, **changes}


def test_a_field_that_is_missing_is_named(tmp_path):
    row = example("virl39k")
    del row["qid"]
    with pytest.raises(SourceError, match=r"line 1: no field 'qid'; found .*'answer', .*'question'"):
        check(tmp_path, "virl39k", [row])


def test_a_field_of_another_type_is_named(tmp_path):
    wrong = example("video_r1", options="A. salt")
    with pytest.raises(SourceError, match=r"field 'options': expected a list, got str 'A. salt'"):
        check(tmp_path, "video_r1", [wrong] * 3)
    check(tmp_path, "video_r1", [wrong, wrong, example("video_r1")])  # then it is the fault of two rows


def test_another_sources_file_is_told(tmp_path):
    with pytest.raises(SourceError, match=r"no field 'problem_id'.* see --help"):
        check(tmp_path, "video_r1", [example("mmdu")])


def test_rows_that_are_rejected_for_what_they_say_are_the_sources(tmp_path):
    check(tmp_path, "mmdu", [example("mmdu")])


def test_unreadable_first_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"{\n" * 2 + as_jsonl([example("virl39k")]))
    check_fields(tmp_path, plan(tmp_path, "rows.jsonl", 50), adapter("virl39k"))
    (tmp_path / "rows.jsonl").write_bytes(b"{\n" * 60)
    with pytest.raises(SourceError, match=r"none of the first rows is one of virl39k.* line 1: the line is not JSON"):
        check_fields(tmp_path, plan(tmp_path, "rows.jsonl", 50), adapter("virl39k"))


# --- Which files, and objects of rows -------------------------------------------------------------------------------


def test_other_layouts_are_tried_where_the_first_is_not_there(tmp_path):
    for name in ("all.json", "part.json", "part_example.json"):
        (tmp_path / name).write_text("[]")

    def names(*patterns, otherwise=()):
        return find_files(tmp_path, patterns, otherwise)[1]

    assert names("all.json", otherwise=("*.json",)) == ["all.json"]
    assert names("none.json", otherwise=("*.json", "!*_example.json")) == ["all.json", "part.json"]
    with pytest.raises(SourceError, match=r"has no none.json or \*.csv; it holds"):
        names("none.json", "!x", otherwise=("*.csv",))


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_of_rows_is_read_as_its_rows(tmp_path, monkeypatch, indent):
    keyed = {'ключ " ' + row["id"]: row for row in ROWS}
    file = write(tmp_path, ".json", json.dumps(keyed, indent=indent, ensure_ascii=False).encode())
    assert all_rows(tmp_path, file) == ROWS
    bounds = list(readers._elements(tmp_path / file))
    for block in (1, 7, 64):  # wherever a block of the file ends
        monkeypatch.setattr(readers, "_BLOCK", block)
        assert list(readers._elements(tmp_path / file)) == bounds


def test_a_line_whose_first_field_is_an_object_is_a_row(tmp_path):
    rows = [{"image": {"path": f"{n}.png"}, "question": "?"} for n in range(3)]
    assert all_rows(tmp_path, write(tmp_path, ".json", as_jsonl(rows))) == rows


def test_an_object_of_rows_that_broke_off(tmp_path):
    text = json.dumps({row["id"]: row for row in ROWS}, indent=1)
    with pytest.raises(SourceError, match="Is the download complete"):
        plan(tmp_path, write(tmp_path, ".json", text[:-30].encode()), 4)
