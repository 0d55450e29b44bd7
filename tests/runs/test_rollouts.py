"""What is read of rollouts: leniently in whatever state their file is, strictly for an evaluation."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.runs.rollouts import UNKNOWN, read_at, read_leniently, read_strictly, step_files
from cinema_verl.runs.stop_reason import StopReason

from .conftest import file_with

ROLLOUT = {
    "input": "user\nWhich?\nassistant\n", "output": "<focus>x</focus><answer>B</answer>", "gts": "B", "step": 3,
    "score": 0.9, "acc": 1.0, "format": 1.0, "pattern": "focus>answer", "violations": "", "verdict": "equal",
    "answer_type": "mcq", "question_uid": "q/7", "overlong_reward": -0.1, "data_source": "squares",
    "response_tokens": 11, "stop_reason": "answer", "diversity_coefficient": 0.1, "uid": "abc_3_0",
}  # fmt: skip


def without_texts(rollouts):
    return [replace(rollout, prompt="", text="") for rollout in rollouts]


def test_a_rollout_as_the_trainer_dumps_it(tmp_path):
    ((rollout,), bad) = read_leniently(file_with(tmp_path, ROLLOUT))
    assert bad == 0
    assert (rollout.group, rollout.question_uid, rollout.gold) == ("abc", "q/7", "B")
    assert (rollout.score, rollout.acc, rollout.format) == (0.9, 1.0, 1.0)
    assert (rollout.pattern, rollout.violations, rollout.verdict) == ("focus>answer", (), "equal")
    assert (rollout.tokens, rollout.overlong, rollout.coefficient) == (11, -0.1, 0.1)


def test_plain_verl_has_text_and_score_only(tmp_path):
    dumped = {"input": "p", "output": "<think>a<answer>B</answer>", "score": 1, "gts": None, "step": 1}
    ((rollout,), _) = read_leniently(file_with(tmp_path, dumped))
    assert rollout.pattern == "answer", "from the one parser"
    assert "unclosed_tag" in rollout.violations
    assert (rollout.group, rollout.gold, rollout.score) == ("p", "", 1.0)
    assert (rollout.acc, rollout.format, rollout.tokens, rollout.coefficient) == (None, None, None, None)
    assert (rollout.data_source, rollout.answer_type) == (UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(("acc", "read"), [(True, 1.0), (False, 0.0), (0, 0.0), ("yes", None), (None, None)])
def test_accuracy_may_be_true_or_false(tmp_path, acc, read):
    ((rollout,), _) = read_leniently(file_with(tmp_path, ROLLOUT | {"acc": acc}))
    assert rollout.acc == read


def test_python_writes_nan_into_json(tmp_path):
    line = json.dumps(ROLLOUT | {"score": float("nan"), "acc": float("inf")}).encode()
    ((rollout,), bad) = read_leniently(file_with(tmp_path, line))
    assert bad == 0
    assert rollout.score is rollout.acc is None


def test_padding_is_left_out_without_being_called_broken(tmp_path):
    rollouts, bad = read_leniently(file_with(tmp_path, ROLLOUT, ROLLOUT | {"uid": "pad1_0_0"}))
    assert (len(rollouts), bad) == (1, 0)


def test_failed_rollouts_of_a_validation_are_in_the_group_of_their_question(tmp_path):
    """Session 1 of q/7 failed, over its own images; of q/8 nothing was answered, neither so nor over blank ones."""
    failed = {"output": "", "pattern": "", "stop_reason": "failed"}
    path = file_with(
        tmp_path,
        ROLLOUT | {"uid": "abc_0_0"},
        ROLLOUT | {"uid": "abd_0_0", "data_source": "squares@blank"},
        ROLLOUT | failed | {"uid": "failed-q/7_1_0"},
        *[
            ROLLOUT | failed | {"uid": f"failed-q/8_{session}_0", "question_uid": "q/8", "data_source": source}
            for source in ("squares", "squares@blank")
            for session in (0, 1)
        ],
    )
    rollouts, _ = read_leniently(path)
    groups = [rollout.group for rollout in rollouts]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == groups[4] != groups[5] == groups[6]
    assert len(set(groups)) == 4


@pytest.mark.parametrize(
    ("uid", "group"),
    [("a_b_1_2", "a_b"), ("no-session", "no-session"), ("x_1", "x_1"), ("", "user\nWhich?\nassistant\n")],
)
def test_the_group_is_the_uid_without_session_and_output(tmp_path, uid, group):
    ((rollout,), _) = read_leniently(file_with(tmp_path, ROLLOUT | {"uid": uid}))
    assert rollout.group == group


def test_rollouts_are_found_again_where_they_begin(tmp_path):
    path = file_with(tmp_path, *[ROLLOUT | {"output": text} for text in ("one", "zwei – ü", "trois")])
    rollouts, _ = read_leniently(path)
    again = read_at(path, [rollouts[2].offset, rollouts[1].offset])
    assert [(rollout.prompt, rollout.text) for rollout in again] == [
        (ROLLOUT["input"], "trois"), (ROLLOUT["input"], "zwei – ü"),
    ]  # fmt: skip
    assert without_texts(again) == [rollouts[2], rollouts[1]]


def test_a_file_that_was_written_anew_gives_what_is_there(tmp_path):
    path = file_with(tmp_path, ROLLOUT)
    assert read_at(path, [5, 10_000]) == []


@given(cut=st.integers(0, 3 * len(json.dumps(ROLLOUT)) + 3))
def test_a_file_that_is_cut_anywhere_loses_one_rollout_at_most(tmp_path_factory, cut):
    path = file_with(tmp_path_factory.mktemp("cut"), *[ROLLOUT | {"uid": f"g_{i}_0"} for i in range(3)])
    whole, _ = read_leniently(path)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    rollouts, bad = read_leniently(path)
    assert rollouts == whole[: len(rollouts)]
    assert len(rollouts) >= content.count(b"\n")
    assert bad <= 1


@given(
    lines=st.lists(st.binary(max_size=60) | st.just(b'{"output": "\\ud800", "uid": 7, "violations": [1]}'), max_size=8)
)
def test_no_bytes_make_reading_rollouts_fail(tmp_path_factory, lines):
    path = file_with(tmp_path_factory.mktemp("rollouts"), *lines)
    rollouts, _ = read_leniently(path)
    assert without_texts(read_at(path, [rollout.offset for rollout in rollouts])) == rollouts


def test_step_files_in_the_order_of_steps(tmp_path):
    for name in ("10.jsonl", "9.jsonl", "x.jsonl", "7.json", "-1.jsonl"):
        (tmp_path / name).touch()
    assert [(step, path.name) for step, path in step_files(tmp_path)] == [(9, "9.jsonl"), (10, "10.jsonl")]


# ---- lenient and strict -----------------------------------------------------------------------------------------

FAILED = ROLLOUT | {"output": "", "pattern": "", "acc": 0.0, "format": 0.0, "stop_reason": "failed"}


def test_both_readers_read_the_same_of_a_whole_file(tmp_path):
    path = file_with(
        tmp_path, ROLLOUT, ROLLOUT | {"uid": "pad1_0_0"}, FAILED | {"uid": "failed-q/7_1_0"}, ROLLOUT | {"acc": False}
    )
    rollouts, bad = read_leniently(path)
    assert read_strictly(path) == rollouts
    assert (len(rollouts), bad) == (3, 0)


def test_an_empty_response_is_a_rollout_to_both(tmp_path):
    """It ended at once, with an end token: no action, no answer, and it counts."""
    empty = ROLLOUT | {"output": "", "pattern": "", "acc": 0.0, "format": 0.0, "stop_reason": "eos"}
    path = file_with(tmp_path, empty)
    ((rollout,), bad) = read_leniently(path)
    assert read_strictly(path) == [rollout]
    assert (rollout.characters, rollout.pattern, rollout.stop_reason, bad) == (0, "", StopReason.EOS, 0)


@pytest.mark.parametrize("change", [{}, {"output": None}, {"output": 7}], ids=["missing", "null", "number"])
def test_a_record_without_a_response_is_a_bad_line_to_both(tmp_path, change):
    record = {name: value for name, value in ROLLOUT.items() if name != "output"} | change
    path = file_with(tmp_path, ROLLOUT, record)
    rollouts, bad = read_leniently(path)
    assert (len(rollouts), bad) == (1, 1)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: .* no output"):
        read_strictly(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"acc": None}, "no acc"),
        ({"acc": "1"}, "no acc"),
        ({"acc": float("nan"), "format": None}, "no acc and no format"),
        ({"question_uid": None, "uid": None}, "no question_uid"),
    ],
)
def test_what_an_evaluation_could_not_count_is_refused_and_shown(tmp_path, change, says):
    path = file_with(tmp_path, ROLLOUT, ROLLOUT | change)
    assert len(read_leniently(path)[0]) == 2
    with pytest.raises(ValueError, match=rf"file\.jsonl, line 2: not a validation record .*: {says}$"):
        read_strictly(path)


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_a_line_that_is_no_record_is_counted_or_named(tmp_path, line):
    path = file_with(tmp_path, ROLLOUT, line, ROLLOUT)
    rollouts, bad = read_leniently(path)
    assert (len(rollouts), bad) == (2, 1)
    with pytest.raises(ValueError, match=r"file\.jsonl, line 2: not a validation record"):
        read_strictly(path)


def test_a_file_without_rollouts_is_no_validation(tmp_path):
    path = file_with(tmp_path, ROLLOUT | {"uid": "pad1_0_0"})
    assert read_leniently(path) == ([], 0)
    with pytest.raises(ValueError, match=r"file\.jsonl is empty"):
        read_strictly(path)


def test_a_prompt_that_begins_like_padding_is_none(tmp_path):
    """Older dumps have no uid; the prompt stands for it."""
    old = {"input": "padding a wall", "output": "x", "score": 1.0}
    assert len(read_leniently(file_with(tmp_path, old))[0]) == 1


def test_a_data_source_says_benchmark_task_and_condition(tmp_path):
    ((rollout,), _) = read_leniently(file_with(tmp_path, ROLLOUT | {"data_source": "muirbench/order@blank"}))
    assert (rollout.source, rollout.benchmark, rollout.task, rollout.condition) == (
        "muirbench/order", "muirbench", "order", "blank",
    )  # fmt: skip


def test_a_question_without_a_name_is_known_by_its_group(tmp_path):
    nameless, named = read_strictly(file_with(tmp_path, ROLLOUT | {"question_uid": ""}, ROLLOUT))
    assert (nameless.question, named.question) == ("abc", "q/7")
