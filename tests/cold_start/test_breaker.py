"""The circuit breaker: which runs it stops, and which it lets be."""

import random

import pytest

from cinema_verl.cold_start.breaker import FIRST, OFF_PATH, WINDOW, Breaker, FailingAlike, failures


def stopped_after(replies, share=0.9, who="teacher"):
    """How many replies are counted before the breaker stops the run; None if it does not."""
    breaker = Breaker(share)
    for number, why in enumerate(replies, 1):
        try:
            breaker.note(who, why, "a reply")
        except FailingAlike:
            return number
    return None


BAD, OTHER, GOOD = ["text_outside"], ["no_answer"], []


@pytest.mark.parametrize(
    ("replies", "after"),
    [
        ([BAD] * 29, None),
        ([BAD] * 30, 30),
        ([GOOD] * 3 + [BAD] * 27, 30),
        ([BAD] * 29 + [GOOD], 30),
        ([GOOD] * 4 + [BAD] * 26 + [GOOD] * 70, None),
        ([BAD, OTHER] * 500, None),  # all fail, and not alike
        ([["text_outside", "no_answer"]] * 30, 30),
        ([GOOD] * 50 + [BAD] * 90, 140),  # ninety of the latest hundred
        ([GOOD] * 99 + [BAD] * 89 + [GOOD] * 99, None),
        ([GOOD] * 2000, None),
    ],
)
def test_known_runs(replies, after):
    assert stopped_after(replies) == after


def test_above_one_it_never_stops():
    assert stopped_after([BAD] * 1000, share=2) is None


def test_student_and_teacher_are_counted_apart():
    breaker = Breaker()
    for _ in range(FIRST - 1):
        breaker.note("student", BAD)
        breaker.note("teacher", GOOD)
    breaker.note("teacher", BAD)
    with pytest.raises(FailingAlike, match="30 of the first 30 replies of the student fail alike: text_outside"):
        breaker.note("student", BAD)


def test_it_counts_as_one_who_counts_anew_each_time():
    rng = random.Random(5)
    for share in (0.5, 0.9):
        replies = [[name for name in "abc" if rng.random() < share - 0.02] for _ in range(3000)]
        expected = None
        for end in range(1, len(replies) + 1):
            latest = replies[max(0, end - WINDOW) : end]
            looked = end == FIRST or end >= WINDOW
            if looked and any(sum(name in each for each in latest) >= share * len(latest) for name in "abc"):
                expected = end
                break
        assert stopped_after(replies, share) == expected


def test_what_is_wrong_with_a_sample():
    sample = {"violations": [], "usable": True, "pattern": "think>answer"}
    assert failures(sample, "think>answer") == failures(sample, None) == []
    assert failures(sample, "focus>answer") == [OFF_PATH]
    assert failures(sample | {"violations": ["no_answer"], "usable": False}, "focus>answer") == ["no_answer"]
    assert failures(sample | {"usable": False}, None) != []


def test_a_record_counts_as_its_replies_did():
    sample = {"origin": "teacher/0", "violations": [], "usable": True, "pattern": "think>answer", "text": "x"}
    further = sample | {"origin": "explore/hint>answer", "violations": ["no_answer"]}
    record = {"path": "focus>answer", "samples": [sample, further], "calls": {"refine/ok": 1, "explore/ok": 1}}
    truncated = {"path": "", "samples": [], "calls": {"draft/truncated": 4, "draft/unavailable": 9}}
    breaker = Breaker()
    for _ in range(FIRST - 1):
        breaker.replay(record)
    with pytest.raises(FailingAlike, match="teacher fail alike: off_path"):
        breaker.replay(record)
    for _ in range(FIRST // 4):
        breaker.replay(truncated)
    with pytest.raises(FailingAlike, match="student fail alike: truncated"):
        breaker.replay(truncated)
