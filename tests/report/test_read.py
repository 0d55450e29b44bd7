"""What is read of metrics, rollouts and questions, in whatever state their files are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.prompts import messages
from cinema_verl.report.questions import (
    UNKNOWN,
    number,
    read_metrics,
    read_questions,
    read_rollouts,
    read_rollouts_at,
    step_files,
)

ROLLOUT = {
    "input": "user\nWhich?\nassistant\n", "output": "<focus>x</focus><answer>B</answer>", "gts": "B", "step": 3,
    "score": 0.9, "acc": 1.0, "format": 1.0, "pattern": "focus>answer", "violations": "", "verdict": "equal",
    "answer_type": "mcq", "question_uid": "q/7", "overlong_reward": -0.1, "data_source": "squares",
    "response_tokens": 11, "stop_reason": "answer", "diversity_coefficient": 0.1, "uid": "abc_3_0",
}  # fmt: skip


def file_with(folder, *lines, name="file.jsonl"):
    path = folder / name
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


# ---- metrics ----------------------------------------------------------------------------------------------------


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


# ---- rollouts ---------------------------------------------------------------------------------------------------


def test_a_rollout_as_the_trainer_dumps_it(tmp_path):
    ((rollout,), bad) = read_rollouts(file_with(tmp_path, ROLLOUT))
    assert bad == 0
    assert (rollout.group, rollout.question_uid, rollout.gold) == ("abc", "q/7", "B")
    assert (rollout.score, rollout.acc, rollout.format) == (0.9, 1.0, 1.0)
    assert (rollout.pattern, rollout.violations, rollout.verdict) == ("focus>answer", (), "equal")
    assert (rollout.tokens, rollout.overlong, rollout.coefficient) == (11, -0.1, 0.1)


def test_plain_verl_has_text_and_score_only(tmp_path):
    dumped = {"input": "p", "output": "<think>a<answer>B</answer>", "score": 1, "gts": None, "step": 1}
    ((rollout,), _) = read_rollouts(file_with(tmp_path, dumped))
    assert rollout.pattern == "answer", "from the one parser"
    assert "unclosed_tag" in rollout.violations
    assert (rollout.group, rollout.gold, rollout.score) == ("p", "", 1.0)
    assert (rollout.acc, rollout.format, rollout.tokens, rollout.coefficient) == (None, None, None, None)
    assert (rollout.data_source, rollout.answer_type) == (UNKNOWN, UNKNOWN)


@pytest.mark.parametrize(("acc", "read"), [(True, 1.0), (False, 0.0), (0, 0.0), ("yes", None), (None, None)])
def test_accuracy_may_be_true_or_false(tmp_path, acc, read):
    ((rollout,), _) = read_rollouts(file_with(tmp_path, ROLLOUT | {"acc": acc}))
    assert rollout.acc == read


def test_python_writes_nan_into_json(tmp_path):
    line = json.dumps(ROLLOUT | {"score": float("nan"), "acc": float("inf")}).encode()
    ((rollout,), bad) = read_rollouts(file_with(tmp_path, line))
    assert bad == 0
    assert rollout.score is rollout.acc is None


def test_padding_is_left_out_without_being_called_broken(tmp_path):
    rollouts, bad = read_rollouts(file_with(tmp_path, ROLLOUT, ROLLOUT | {"uid": "pad1_0_0"}))
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
    rollouts, _ = read_rollouts(path)
    groups = [rollout.group for rollout in rollouts]
    assert groups[0] == groups[2] != groups[1]
    assert groups[3] == groups[4] != groups[5] == groups[6]
    assert len(set(groups)) == 4


@pytest.mark.parametrize(
    ("uid", "group"),
    [("a_b_1_2", "a_b"), ("no-session", "no-session"), ("x_1", "x_1"), ("", "user\nWhich?\nassistant\n")],
)
def test_the_group_is_the_uid_without_session_and_output(tmp_path, uid, group):
    ((rollout,), _) = read_rollouts(file_with(tmp_path, ROLLOUT | {"uid": uid}))
    assert rollout.group == group


def test_rollouts_are_found_again_where_they_begin(tmp_path):
    path = file_with(tmp_path, *[ROLLOUT | {"output": text} for text in ("one", "zwei – ü", "trois")])
    rollouts, _ = read_rollouts(path)
    assert read_rollouts_at(path, [rollouts[2].offset, rollouts[1].offset]) == [rollouts[2], rollouts[1]]


def test_a_file_that_was_written_anew_gives_what_is_there(tmp_path):
    path = file_with(tmp_path, ROLLOUT)
    assert read_rollouts_at(path, [5, 10_000]) == []


@given(cut=st.integers(0, 3 * len(json.dumps(ROLLOUT)) + 3))
def test_a_file_that_is_cut_anywhere_loses_one_rollout_at_most(tmp_path_factory, cut):
    path = file_with(tmp_path_factory.mktemp("cut"), *[ROLLOUT | {"uid": f"g_{i}_0"} for i in range(3)])
    whole, _ = read_rollouts(path)
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    rollouts, bad = read_rollouts(path)
    assert rollouts == whole[: len(rollouts)]
    assert len(rollouts) >= content.count(b"\n")
    assert bad <= 1


@given(
    lines=st.lists(st.binary(max_size=60) | st.just(b'{"output": "\\ud800", "uid": 7, "violations": [1]}'), max_size=8)
)
def test_no_bytes_make_reading_rollouts_fail(tmp_path_factory, lines):
    path = file_with(tmp_path_factory.mktemp("rollouts"), *lines)
    rollouts, _ = read_rollouts(path)
    assert read_rollouts_at(path, [rollout.offset for rollout in rollouts]) == rollouts


def test_step_files_in_the_order_of_steps(tmp_path):
    for name in ("10.jsonl", "9.jsonl", "x.jsonl", "7.json", "-1.jsonl"):
        (tmp_path / name).touch()
    assert [(step, path.name) for step, path in step_files(tmp_path)] == [(9, "9.jsonl"), (10, "10.jsonl")]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_is_itself(value):
    assert number(value) == value


# ---- questions --------------------------------------------------------------------------------------------------


def write_questions(path, *prompts, options=()):
    rows = [
        rl_row(
            uid=f"q/{i}", index=i, split="train", data_source="squares", ability="x", prompt=messages(prompt),
            modality="multi", question="Which?", answer="1", answer_type="number", options=options,
            images=[image_cell(f"/i/{i}-{k}.png", min_pixels=1, max_pixels=9) for k in range(prompt.count("<image>"))],
        )
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    write_parquet(rows, RL_SCHEMA, path)
    return path


def test_questions_by_uid(tmp_path):
    path = write_questions(tmp_path / "q.parquet", "Image 1: <image>\nImage 2: <image>\nWhich?", "<image> and <image>?")
    found, notes = read_questions([path], {"q/1", "q/9"})
    assert notes == []
    (question,) = found.values()
    assert (question.uid, question.text, question.gold, question.data_source) == ("q/1", "Which?", "1", "squares")
    assert question.images == ("/i/1-0.png", "/i/1-1.png")


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("Image A: <image>\nImage B: <image>\nWhich?", ("Image A", "Image B")),
        ("Frame 1: <image>\nFrame 2: <image>\nFrame 3: <image>\nWhen?", ("Frame 1", "Frame 2", "Frame 3")),
        ("<image> or <image>?", ("Image 1", "Image 2")),
        ("Image 7: <image>, and this <image>?", ("Image 1", "Image 2")),
    ],
)
def test_images_are_called_what_the_prompt_calls_them(tmp_path, prompt, names):
    found, _ = read_questions([write_questions(tmp_path / "q.parquet", prompt)], {"q/0"})
    assert found["q/0"].names == names


def test_the_first_file_that_has_a_question_counts(tmp_path):
    files = [
        write_questions(tmp_path / f"{name}.parquet", text)
        for name, text in (("a", "<image><image>"), ("b", "<image><image><image>"))
    ]
    found, _ = read_questions(files, {"q/0"})
    assert len(found["q/0"].images) == 2


def test_a_parquet_of_another_schema_is_a_note(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "other.parquet")
    good = write_questions(tmp_path / "q.parquet", "<image><image>?")
    found, (note,) = read_questions([tmp_path / "other.parquet", good], {"q/0"})
    assert "other.parquet cannot be read as questions" in note
    assert found.keys() == {"q/0"}
