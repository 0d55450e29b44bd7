"""The journal: what was appended is there, whatever cut off its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.cold_start.journal import Journal


def record(uid, final=True, **more):
    return {"uid": uid, "final": final, **more}


def test_a_later_record_replaces_an_earlier_one(tmp_path):
    journal = Journal(tmp_path / "a" / "results.jsonl")
    journal.append(record("q/1", final=False, try_=1))
    journal.append(record("q/2"))
    assert (journal.done("q/1"), journal.done("q/2"), journal.done("q/3"), len(journal)) == (False, True, False, 2)
    journal.append(record("q/1", try_=2, words="é\n"))
    assert journal.get("q/1") == record("q/1", try_=2, words="é\n")
    assert journal.get("q/3") is None
    journal.close()
    again = Journal(tmp_path / "a" / "results.jsonl")
    assert (again.get("q/1"), again.done("q/1"), len(again)) == (record("q/1", try_=2, words="é\n"), True, 2)


@given(st.integers(0, 200))
def test_cut_off_anywhere_it_keeps_the_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "results.jsonl"
    journal = Journal(path)
    records = [record(f"q/{number}", words="wörds") for number in range(5)]
    for each in records:
        journal.append(each)
    journal.close()
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    whole = content.count(b"\n")
    journal = Journal(path)
    assert len(journal) == whole
    for each in records[whole:]:
        journal.append(each)
    assert [journal.get(each["uid"]) for each in records] == records
    journal.close()
    assert path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("rubbish", [b"\0" * 40 + b"\n", b"{half\n", b'{"uid": "q/9"'])
def test_what_a_power_cut_left_at_the_end_is_done_again(tmp_path, rubbish):
    path = tmp_path / "results.jsonl"
    journal = Journal(path)
    journal.append(record("q/0"))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + rubbish)
    journal = Journal(path)
    assert (len(journal), path.read_bytes()) == (1, whole)
