"""Files of rows, cut into spans that each worker can read alone.

One pass over the files plans the spans: byte ranges of JSON lines, JSON arrays and CSV, row numbers of parquet and of
Hugging Face directories. Only the bounds of spans are kept in memory. A record that cannot be read becomes a `Rejected`
in place of its row; a file that is not a file of rows is a `SourceError`.

Places are given as people find them: ``line 7`` of JSON lines and CSV counts from 1, as editors do, with blank lines
and the header; ``row 6`` of every other format counts from 0, as jq, pandas and `datasets` do.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cinema_verl.data.canonical import Rejected, SourceError
from cinema_verl.prepare.draft import Adapter

Row = Mapping[str, Any]
Placed = tuple[str, Row | Rejected]  # a row and its place in the file

MAX_RECORD_BYTES: Final = 1 << 26
"""Of one JSON or CSV record. Our choice: 64 MiB is far above a row with embedded images, and limits the memory that a
file without line breaks can take."""
_BLOCK: Final = 1 << 20  # read at once from a JSON array; our choice
_ROWS_AT_ONCE: Final = 16  # decoded at once from parquet: rows may embed images of megabytes; our choice
_MOST_CUTS: Final = 16  # spans of one parquet row group, because each decodes what lies before it; our choice
_FIRST_ROWS: Final = 20  # looked at to tell whether a file is the source's; our choice


class Span(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        file: Relative to the input's root, with forward slashes.
        first: Number of its first row in the file, from 0.
        rows: How many rows.
        start, stop: Bytes of a text file; 0 for the formats that find rows by number.
        line: Where its first row begins, from 1; 0 for the formats that are not lines.
    """

    file: str
    first: int
    rows: int
    start: int = 0
    stop: int = 0
    line: int = 0


# --- Which files ----------------------------------------------------------------------------------------------------


def find_files(path: str | Path, patterns: Sequence[str], otherwise: Sequence[str] = ()) -> tuple[Path, list[str]]:
    """The root of an input, and the files of rows below it in the order of their names.

    Args:
        path: A file; a directory; or one that ``datasets`` saved (``save_to_disk``), with or without splits.
        patterns: Globs below a directory of any other kind; those that begin with ``!`` take files out.
        otherwise: Globs that are tried where `patterns` find nothing.

    Raises:
        SourceError: nothing is there, or nothing that matches; the message says what was looked for.
    """
    path = Path(path).absolute()
    if path.is_file():
        return path.parent, [_known(path).name]
    if not path.is_dir():
        raise SourceError(f"{path} does not exist")
    if (path / "state.json").is_file():
        return path.parent, [path.name]
    if (path / "dataset_dict.json").is_file():
        splits = [state.parent for state in sorted(path.glob("*/state.json"))]
        if not splits:
            raise SourceError(f"{path}: dataset_dict.json is there and none of its splits is")
        return path, [split.name for split in splits]
    found = _matching(path, patterns) or _matching(path, otherwise)
    if not found:
        inside = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
        wanted = " or ".join(pattern for pattern in (*patterns, *otherwise) if not pattern.startswith("!"))
        raise SourceError(f"{path} has no {wanted}; it holds {inside}. Is --input the right folder?")
    return path, [_known(file).relative_to(path).as_posix() for file in sorted(found)]


def _matching(path: Path, patterns: Sequence[str]) -> set[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        if not pattern.startswith("!"):
            found.update(file for file in path.glob(pattern) if file.is_file())
    return found.difference(*(path.glob(pattern[1:]) for pattern in patterns if pattern.startswith("!")))


def _known(path: Path) -> Path:
    if path.suffix.lower() not in _FORMATS:
        kinds = ", ".join(_FORMATS)
        raise SourceError(f"{path}: rows are read from {kinds} files and from folders that `datasets` saved")
    return path


def contents(path: Path) -> list[Path]:
    """The files whose bytes an input file consists of: itself, or those of a saved directory."""
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


# --- Planning and reading -------------------------------------------------------------------------------------------


def plan(root: Path, file: str, rows_per_span: int) -> list[Span]:
    """Cut one file into spans of about `rows_per_span` rows; their rows add up to the file's.

    Raises:
        SourceError: the file cannot be one of rows, for instance because its download broke off.
    """
    path = root / file
    return [span._replace(file=file) for span in _format(path).plan(path, rows_per_span)]


def read(root: Path, span: Span) -> Iterator[Placed]:
    """The rows of a span, each with its place in the file; `Rejected` stands for one that cannot be read.

    A span may have been cut short (`Span.rows` lowered): no more than so many rows come.

    Raises:
        SourceError: the file is not as it was when it was planned, or is damaged.
    """
    path, found = root / span.file, 0
    for placed in islice(_format(path).read(path, span), span.rows):
        yield placed
        found += 1
    if found != span.rows:
        raise SourceError(
            f"{path}: rows {span.first} to {span.first + span.rows - 1} were planned and {found} are there. "
            "The file has changed since; start over with another --output"
        )


def first_rows(root: Path, file: str, rows: int) -> Iterator[Placed]:
    """The first rows of a file, without a look at the others."""
    span = next(iter(_format(root / file).plan(root / file, rows)), None)
    if span is not None:
        yield from read(root, span._replace(file=file))


def check_fields(root: Path, spans: Sequence[Span], adapter: Adapter) -> None:
    """Make sure that a file is of its source: its first readable row has the source's fields, and not all of its first
    rows have fields of another type. A single row that lacks a field is rejected later.

    Raises:
        SourceError: The message names the field, and what was found.
    """
    where, problem = f"{root / spans[0].file}", ""
    for place, row in islice(read(root, spans[0]), _FIRST_ROWS):
        try:
            if isinstance(row, Rejected):
                raise row
            if missing := [name for name in adapter.required if name not in row]:
                raise SourceError(
                    f"{where}, {place}: no field {', '.join(map(repr, missing))}; found "
                    f"{', '.join(map(repr, sorted(map(str, row))))}. This file is not what the source has: see --help"
                )
            adapter.draft(row, spans[0].file)
            return
        except Rejected as rejected:
            if rejected.reason != "bad_record":
                return
            problem = problem or f"{place}: {rejected.detail}"
    raise SourceError(f"{where}: none of the first rows is one of {adapter.name}, see --help; {problem}")


class _Format(NamedTuple):
    plan: Callable[[Path, int], Iterator[Span]]
    read: Callable[[Path, Span], Iterator[Placed]]


def _format(path: Path) -> _Format:
    return _SAVED if path.is_dir() else _FORMATS[path.suffix.lower()]


def _record(text: bytes | str, kind: str = "line") -> Row | Rejected:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Rejected("bad_record", f"the {kind} is not JSON: {error}")
    if not isinstance(row, dict):
        return Rejected("bad_record", f"the {kind} is a {type(row).__name__}, not an object")
    return row


def _cut(bounds: Iterator[tuple[int, int, int]], rows_per_span: int) -> Iterator[Span]:
    """Spans from the (start, stop) bytes and the line of each record."""
    first = rows = start = stop = line = 0
    for begin, end, at in bounds:
        if rows == rows_per_span:
            yield Span("", first, rows, start, stop, line)
            first, rows = first + rows, 0
        if rows == 0:
            start, line = begin, at
        stop, rows = end, rows + 1
    if rows:
        yield Span("", first, rows, start, stop, line)


# --- JSON lines -----------------------------------------------------------------------------------------------------


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """(position, line) of each line; the byte-order mark is no part of the first."""
    position = 0
    for line in iter(partial(file.readline, MAX_RECORD_BYTES + 1), b""):
        if len(line) > MAX_RECORD_BYTES:
            raise SourceError(f"{path}: a line of over {MAX_RECORD_BYTES} bytes at byte {position}: not one row a line")
        mark = 3 if position == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        yield position + mark, line[mark:]
        position += len(line)


def _plan_lines(path: Path, rows_per_span: int) -> Iterator[Span]:
    with open(path, "rb") as file:
        lines = enumerate(_lines(file, path), start=1)
        bounds = ((start, start + len(line), number) for number, (start, line) in lines if line.strip())
        yield from _cut(bounds, rows_per_span)


def _read_lines(path: Path, span: Span) -> Iterator[Placed]:
    with open(path, "rb") as file:
        file.seek(span.start)
        number = span.line
        while file.tell() < span.stop and (line := file.readline(span.stop - file.tell())):
            if line.strip():
                yield f"line {number}", _record(line)
            number += 1


# --- JSON arrays ----------------------------------------------------------------------------------------------------


_KEYED = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')
_KEY = re.compile(r'"(?:[^"\\]|\\.)*"\s*:\s*')


def _is_whole(start: bytes) -> bool:
    """Whether the beginning of a JSON file is an array of rows, or one object that holds each row under its key.

    An object whose first field is an object may also be a row, on a line of its own: then a field beside it is none.
    """
    if start.startswith(b"["):
        return True
    if not _KEYED.match(start):
        return False
    row = _record(start.partition(b"\n")[0])
    return isinstance(row, Rejected) or all(isinstance(value, dict) for value in row.values())


def _plan_json(path: Path, rows_per_span: int) -> Iterator[Span]:
    """An array of rows, an object of rows by their keys, or objects one a line under the wrong name."""
    with open(path, "rb") as file:
        start = file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if _is_whole(start):
        yield from _cut(_elements(path), rows_per_span)
        return
    first_line = start.partition(b"\n")[0]
    if start and isinstance(_record(first_line), Rejected):
        raise SourceError(
            f"{path}: neither an array of rows nor an object a line, nor rows by their keys: it is {start[:40]!r}"
        )
    yield from _plan_lines(path, rows_per_span)


def _elements(path: Path) -> Iterator[tuple[int, int, int]]:
    """(start, stop) bytes of each element of the array or object that the file is, holding no more than one; and 0."""
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8", newline="") as file:
        text, at, position, rows = "", 0, 0, 0  # text[at] is byte `position` of the file

        def complain(what: object) -> SourceError:
            return SourceError(f"{path}: {what}, at byte {position} after {rows} rows. Is the download complete?")

        def more() -> str:
            try:  # twice as much each time, so that a long element is not parsed once a block
                return file.read(max(_BLOCK, len(text) - at))
            except UnicodeDecodeError as error:
                raise complain(f"not UTF-8 ({error.reason})") from error

        text = more()
        at = re.search(r"[\[{]", text).end()  # type: ignore[union-attr]  # the plan has seen it
        position, closer = len(text[:at].encode()), "]" if text[at - 1] == "[" else "}"
        named = False  # whether the key of the element at hand was read already
        while True:
            begin = _skip(text, at, " \t\r\n," if rows else " \t\r\n")
            key = _KEY.match(text, begin) if closer == "}" and not named else None
            begin = key.end() if key else begin
            position, at = position + len(text[at:begin].encode()), begin
            if text[at : at + 1] == closer:
                if text[at + 1 :].strip() or more().strip():
                    raise complain("something follows the array's end")
                return
            try:
                if closer == "}" and not key and not named:
                    raise ValueError("a value without a key")
                _, end = decoder.raw_decode(text, at)
            except RecursionError:
                raise complain("an element is nested too deeply") from None
            except ValueError as error:
                if len(text) - at > MAX_RECORD_BYTES:
                    raise complain(f"no element ends within {MAX_RECORD_BYTES} characters") from error
                if not (block := more()):
                    raise complain(f"the array is damaged ({error})") from error
                text, at, named = text[at:] + block, 0, named or bool(key)
                continue
            length = end - at if text.isascii() else len(text[at:end].encode())
            yield position, position + length, 0
            position, at, rows, named = position + length, end, rows + 1, False


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _read_json(path: Path, span: Span) -> Iterator[Placed]:
    with open(path, "rb") as file:
        if not _is_whole(file.read(_BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()):
            yield from _read_lines(path, span)
            return
        file.seek(span.start)
        text = file.read(span.stop - span.start).decode("utf-8")
    decoder, at, number = json.JSONDecoder(), 0, span.first
    while at < len(text):
        try:
            row, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise SourceError(f"{path}: no JSON at byte {span.start} any more: the file has changed") from error
        yield f"row {number}", row if isinstance(row, dict) else _record(json.dumps(row), "element")
        at, number = _skip(text, at, " \t\r\n,"), number + 1
        at = key.end() if (key := _KEY.match(text, at)) else at


# --- CSV ------------------------------------------------------------------------------------------------------------


class _Records:
    """`csv.reader` over a binary file that knows where each record ends: the byte, and the line that follows."""

    def __init__(self, file: BinaryIO, path: Path, position: int = 0, line: int = 1) -> None:
        self.path, self.end, self.line = path, position, line
        self._file = file
        csv.field_size_limit(MAX_RECORD_BYTES)
        file.seek(position)
        self._reader = csv.reader(self._text(), strict=True)

    def _text(self) -> Iterator[str]:
        start = self.end
        for position, line in _lines(self._file, self.path):
            self.end, self.line = start + position + len(line), self.line + 1
            yield line.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            raise SourceError(f"{self.path}: not CSV near byte {self.end}: {error}") from error


def _header(path: Path) -> tuple[list[str], int, int]:
    """Field names, and the byte and the line where the rows begin."""
    with open(path, "rb") as file:
        records = _Records(file, path)
        for names in records:
            if len(set(names)) != len(names) or "" in names:
                raise SourceError(f"{path}: the first line must name each field once, it is {names}")
            return names, records.end, records.line
    raise SourceError(f"{path} is empty")


def _plan_csv(path: Path, rows_per_span: int) -> Iterator[Span]:
    _, start, first_line = _header(path)

    def bounds(records: _Records) -> Iterator[tuple[int, int, int]]:
        begin, line = start, first_line
        for record in records:
            if record:
                yield begin, records.end, line
            begin, line = records.end, records.line

    with open(path, "rb") as file:
        yield from _cut(bounds(_Records(file, path, start, first_line)), rows_per_span)


def _read_csv(path: Path, span: Span) -> Iterator[Placed]:
    names, *_ = _header(path)
    with open(path, "rb") as file:
        records = _Records(file, path, span.start, span.line)
        line = span.line
        for record in records:
            place, line = f"line {line}", records.line
            if not record:
                continue
            if len(record) != len(names):
                yield place, Rejected("bad_record", f"{len(record)} fields where the header has {len(names)}")
            elif not all(map(_is_text, record)):
                yield place, Rejected("bad_record", "the row is not UTF-8")
            else:
                yield place, dict(zip(names, record, strict=True))
            if records.end >= span.stop:
                return


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\udc80" <= character <= "\udcff" for character in value)


# --- Parquet and Hugging Face directories ---------------------------------------------------------------------------


def _plan_parquet(path: Path, rows_per_span: int) -> Iterator[Span]:
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} is not a whole parquet file: {error}") from error
    first = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        yield from _by_number(first, rows, max(rows_per_span, -(-rows // _MOST_CUTS)))
        first += rows


def _read_parquet(path: Path, span: Span) -> Iterator[Placed]:
    # Neither pre-buffered nor mapped: a column of embedded images is read page by page (as large as they were written:
    # by pyarrow's default up to 1,024 rows).
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BLOCK) as file:
        first = group = 0
        while first + file.metadata.row_group(group).num_rows <= span.first:
            first, group = first + file.metadata.row_group(group).num_rows, group + 1
        skip, left = span.first - first, span.rows
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], use_threads=False):
                piece = batch.slice(min(skip, batch.num_rows), left)
                yield from _numbered(piece, span.first + span.rows - left)
                skip, left = max(0, skip - batch.num_rows), left - piece.num_rows
                if not left:
                    return
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{path} is damaged in row group {group}: {error}. Download it again") from error


def _plan_saved(path: Path, rows_per_span: int) -> Iterator[Span]:
    yield from _by_number(0, len(_load(path)), rows_per_span)


def _read_saved(path: Path, span: Span) -> Iterator[Placed]:
    rows = _load(path).with_format("arrow")  # as stored: no feature type decodes its images
    for start in range(span.first, span.first + span.rows, _ROWS_AT_ONCE):
        yield from _numbered(rows[start : min(start + _ROWS_AT_ONCE, span.first + span.rows)], start)


def _numbered(rows: pa.RecordBatch | pa.Table, first: int) -> Iterator[Placed]:
    return ((f"row {number}", row) for number, row in enumerate(rows.to_pylist(), start=first))


def _load(path: Path) -> Any:
    import datasets  # takes seconds, and only such directories need it

    try:
        return datasets.load_from_disk(str(path))
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} is not a whole directory of `datasets.save_to_disk`: {error}") from error


def _by_number(first: int, rows: int, rows_per_span: int) -> Iterator[Span]:
    for start in range(first, first + rows, rows_per_span):
        yield Span("", start, min(rows_per_span, first + rows - start))


_FORMATS: Final = {
    ".jsonl": _Format(_plan_lines, _read_lines),
    ".json": _Format(_plan_json, _read_json),
    ".csv": _Format(_plan_csv, _read_csv),
    ".parquet": _Format(_plan_parquet, _read_parquet),
}
_SAVED: Final = _Format(_plan_saved, _read_saved)
