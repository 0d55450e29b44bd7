"""The ledger of paid calls: nothing is lost by a kill, nothing is opened that is not one, and its sums are right."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.endpoint.ledger import Call, Ledger, LedgerError, Spending
from cinema_verl.endpoint.outcomes import Outcome, Reply

OK = Reply("<answer>B</answer>", "stop", Outcome.OK, 10, 5, 0.25, "stub")


def call(number: int = 0, purpose: str = "draft") -> Call:
    return Call(purpose, "stub", [{"role": "user", "content": f"Question {number}"}], {"max_tokens": 64})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "ledger.sqlite"


# --- A call's name ------------------------------------------------------------------------------------------


def test_a_call_is_named_by_what_it_asks():
    content = {"role": "user", "content": "?"}
    base = Call("draft", "m", [content], {"temperature": 1.0, "max_tokens": 8}, 0)
    same = Call("draft", "m", ({"content": "?", "role": "user"},), {"max_tokens": 8, "temperature": 1.0})
    others = [
        Call("refine", "m", [content], base.sampling),
        Call("draft", "n", [content], base.sampling),
        Call("draft", "m", [content, content], base.sampling),
        Call("draft", "m", [content], {"temperature": 0.5, "max_tokens": 8}),
        Call("draft", "m", [content], base.sampling, 1),
    ]
    assert same.key == base.key
    assert len({base.key, *(other.key for other in others)}) == 6


def test_a_call_s_name_does_not_change():
    # Ledgers live longer than releases: another name for the same call would pay for it again.
    named = Call("draft", "m", [{"role": "user", "content": "é"}], {"max_tokens": 8}, 2)
    assert named.key == "983532c4e06e2ed05dfe05cafb4e28d1cdbc8405fe3ffe19b84b0042d770f27c"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_a_call_without_a_json_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        _ = Call("draft", "m", [], {"temperature": value}).key


def test_an_outcome_has_a_name():
    assert Outcome("truncated") is Outcome.TRUNCATED
    assert f"{Outcome.OK}" == str(Outcome.OK) == "ok"  # as the files store it
    with pytest.raises(ValueError, match="fine"):
        Outcome("fine")


# --- What is kept -------------------------------------------------------------------------------------------


def test_a_reply_is_there_for_the_next_process(path):
    with Ledger(path) as ledger:
        assert ledger.get(call()) is None
        ledger.put(call(), OK, ledger.begin(call(), 1.0))
    with Ledger(path) as ledger:
        assert ledger.get(call()) == OK
        assert ledger.get(call(1)) is None
        assert ledger.spent() == Spending(1, 10, 5, 0.25, 0, 0.0)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 2**31 - 1), st.floats(0, 1e6))
def test_any_reply_comes_back_as_it_was(text, tokens, cost):
    reply = Reply(text, "stop", Outcome.OK, tokens, tokens, cost, text[:9])
    with Ledger(":memory:") as ledger:
        ledger.put(call(), reply)
        assert ledger.get(call()) == reply


@pytest.mark.parametrize("outcome", Outcome)
def test_only_answers_of_the_endpoint_are_kept(outcome):
    with Ledger(":memory:") as ledger:
        reply = Reply("", "", outcome)
        if outcome.ledgered:
            ledger.put(call(), reply)
            assert ledger.get(call()) == reply
        else:
            with pytest.raises(ValueError, match="may be asked again"):
                ledger.put(call(), reply)
            assert ledger.get(call()) is None


def test_a_call_cannot_be_finished_twice():
    with Ledger(":memory:") as ledger:
        ledger.put(call(), OK)
        number = ledger.begin(call(), 1.0)
        with pytest.raises(LedgerError, match="UNIQUE"):
            ledger.put(call(), OK, number)
        assert ledger.spent() == Spending(1, 10, 5, 0.25, 1, 1.0)  # the request is still open
        assert ledger.committed == 1.25


# --- Sums ---------------------------------------------------------------------------------------------------


def test_sums_by_hand(path):
    with Ledger(path) as ledger:
        answered, turned_down, lost, flying = (ledger.begin(call(number), 1.0) for number in range(4))
        other = ledger.begin(call(9, "refine"), 8.0)
        assert (ledger.committed, ledger.in_flight) == (12.0, 5)
        ledger.put(call(0), OK, answered)
        ledger.leave(answered)  # without effect
        ledger.strike(turned_down)
        ledger.leave(lost)
        assert (ledger.committed, ledger.in_flight) == (10.25, 2)
        assert ledger.spent() == Spending(1, 10, 5, 0.25, 3, 10.0)
        assert ledger.spent("draft") == Spending(1, 10, 5, 0.25, 2, 2.0)
        assert ledger.spent("refine") == Spending(maybe_paid=1, maybe_cost=8.0)
        assert {flying, other, lost} == {3, 4, 5}
    with Ledger(path) as ledger:  # nobody will hear of those in flight any more
        assert (ledger.committed, ledger.in_flight) == (10.25, 0)


@given(st.lists(st.tuples(st.sampled_from(["put", "strike", "leave", "fly"]), st.floats(0, 100), st.floats(0, 1))))
def test_the_running_sum_is_the_sum(steps):
    with Ledger(":memory:") as ledger:
        for number, (step, most, share) in enumerate(steps):
            request = ledger.begin(call(number), most)
            if step == "put":
                ledger.put(call(number), Reply("", "", Outcome.OK, cost=most * share), request)
            elif step != "fly":
                getattr(ledger, step)(request)
        spent = ledger.spent()
        assert ledger.committed == pytest.approx(spent.cost + spent.maybe_cost, abs=1e-9)
        assert ledger.in_flight == sum(step == "fly" for step, *_ in steps)


# --- kill -9 ------------------------------------------------------------------------------------------------

WRITER = """
import sys
from cinema_verl.endpoint.ledger import Call, Ledger
from cinema_verl.endpoint.outcomes import Outcome, Reply
ledger = Ledger(sys.argv[1])
for number in range(10**6):
    call = Call("draft", "stub", [{"role": "user", "content": f"Question {number}"}], {"max_tokens": 64})
    request = ledger.begin(call, 1.0)
    print("sent", number, flush=True)
    ledger.put(call, Reply("x" * 500, "stop", Outcome.OK, 10, 5, 0.25, "stub"), request)
    print("kept", number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 83, 800])  # 800: past a checkpoint of the log
def test_what_is_kept_survives_a_kill(path, lines):
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        said = [process.stdout.readline().split() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += [words for line in process.stdout if len(words := line.split()) == 2]
    kept = {int(number) for word, number in said if word == "kept" and number}
    sent = {int(number) for word, number in said if word == "sent" and number}
    with Ledger(path) as ledger:
        spent = ledger.spent()
        assert all(ledger.get(call(number)) for number in kept)
        # One more may have been kept, and one begun, before it could be said.
        assert len(kept) <= spent.calls <= len(sent) + 1
        assert spent.calls + spent.maybe_paid in (len(sent), len(sent) + 1)
        assert spent.cost == 0.25 * spent.calls
        ledger.put(call(10**6), OK)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --- Files that are none ------------------------------------------------------------------------------------


def test_a_second_process_is_refused(path):
    code = "import sys; from cinema_verl.endpoint.ledger import Ledger; Ledger(sys.argv[1])"
    with Ledger(path):
        with pytest.raises(LedgerError, match="another process has this ledger open"):
            Ledger(path)
        second = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "another process has this ledger open" in second.stderr
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def test_other_files_are_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    before = text.read_bytes()
    with pytest.raises(LedgerError, match="not a ledger, or is damaged"):
        Ledger(text)
    assert text.read_bytes() == before
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE replies (key TEXT)")
    before = other.read_bytes()
    with pytest.raises(LedgerError, match="another program"):
        Ledger(other)
    assert other.read_bytes() == before
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(tmp_path)
    with pytest.raises(LedgerError, match="cannot be opened"):
        Ledger(text / "ledger.sqlite")


def test_a_ledger_of_another_version_is_refused(path):
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 3")
    with pytest.raises(LedgerError, match="version 3, and this release reads version 2"):
        Ledger(path)


def test_a_ledger_of_the_version_before_keeps_what_is_paid(path):
    with Ledger(path) as ledger:
        ledger.put(call(0), OK)
    with closing(sqlite3.connect(path)) as db:
        db.execute("ALTER TABLE replies DROP COLUMN reasoning")
        db.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with Ledger(path) as ledger:
            assert ledger.get(call(0)) == OK
            assert ledger.spent().calls == 1


def test_a_damaged_ledger_says_so(path):
    with Ledger(path) as ledger:
        for number in range(200):
            ledger.put(call(number), Reply("x" * 500, "stop", Outcome.OK))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=r"damaged.*move it away"), Ledger(path) as ledger:
        ledger.get(call(7))


def test_a_full_disk_stops_the_run_and_changes_nothing(path):
    reply = Reply("x" * 20_000, "stop", Outcome.OK)
    with Ledger(path) as ledger:
        ledger.put(call(0), OK)
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match="full"):
            ledger.put(call(1), reply)
        assert ledger.get(call(1)) is None
        assert ledger.committed == OK.cost
    with Ledger(path) as ledger:
        assert ledger.spent().calls == 1
