"""From records to files: counts that add up, rows that verl trains on, files that are the old ones or complete."""

import json
from collections import Counter
from functools import partial

import pyarrow.parquet as pq
import pytest

from cinema_verl.cold_start import outputs
from cinema_verl.cold_start.outputs import LEFT, PROVENANCE, RL_POOL, SFT, SUMMARY, write_outputs
from cinema_verl.cold_start.requests import SamplingSettings
from cinema_verl.cold_start.sampling import COLD_START, LEFT_OUT, RL
from cinema_verl.data.schema import RL_SCHEMA, SFT_SCHEMA, parquet_writer

SETTINGS = SamplingSettings(min_pixels=784, max_pixels=784)


@pytest.fixture
def run(make_question, make_result, text):
    """Seven questions, one for each thing that can become of one; the last was not reached."""
    questions = [make_question(number, images=1 + number % 2) for number in range(7)]
    drafts = {"student/0": text("focus think", "A"), "student/1": text("hint", "B")}
    refined = {"teacher/0": text("focus think", "B")}
    results = [
        make_result(questions[0], COLD_START, "two_paths", drafts | refined, draft=0, refined=2, second=1, cost=0.5),
        make_result(questions[1], RL, "teacher_wrong", drafts | {"teacher/0": text("focus think", "C")}, refined=2),
        make_result(questions[2], LEFT_OUT, "student_off_format", {"student/0": "B", "student/1": "<think>"}),
        make_result(questions[3], COLD_START, "single", refined, refined=0),
        make_result(questions[4], LEFT_OUT, "gold_unreadable", {}),
        make_result(questions[5], COLD_START, "two_paths", refined | {"explore/hint>answer": text("hint")},
                    refined=0, second=1, cost=0.25, prompt_tokens=7, completion_tokens=3),
    ]  # fmt: skip
    results[0].calls.update({("draft", "ok"): 2, ("refine", "ok"): 1})
    results[2].calls.update({("draft", "ok"): 1, ("draft", "truncated"): 1})
    return questions, {result.uid: result.record() for result in results}


def test_counts_reasons_and_cost_add_up_to_the_input(run, tmp_path):
    questions, records = run
    summary = write_outputs(tmp_path, questions, records.get, SETTINGS)
    found = json.loads((tmp_path / SUMMARY).read_text())
    assert found == summary.to_json()
    assert found["questions"] == 7
    assert found["cold_start"] + found["rl"] + found["left_out"] + found["not_reached"] == 7
    assert sum(found["reasons"].values()) + found["not_reached"] == 7
    assert found["reasons"] == {
        "cold_start/single": 1,
        "cold_start/two_paths": 2,
        "left_out/gold_unreadable": 1,
        "left_out/student_off_format": 1,
        "rl/teacher_wrong": 1,
    }
    assert found["calls"] == {"draft/ok": 3, "draft/truncated": 1, "refine/ok": 1}
    assert (found["cost"], found["prompt_tokens"], found["completion_tokens"]) == (0.75, 7, 3)
    assert found["drafts"] == {"read": 6, "usable": 4, "right": 2}
    assert found["second_from"] == {"explore": 1, "student": 1}
    assert (found["sft_rows"], found["rl_rows"]) == (4, 1)
    table = summary.table()
    for line in ("cold start", "two_paths", "not reached", "cost 0.75"):
        assert line in table


def test_rows_are_what_the_schemas_say(run, tmp_path):
    questions, records = run
    write_outputs(tmp_path, questions, records.get, SETTINGS)
    sft, rl = pq.read_table(tmp_path / SFT), pq.read_table(tmp_path / RL_POOL)
    assert (sft.schema, rl.schema) == (SFT_SCHEMA, RL_SCHEMA)
    rows = sft.to_pylist()
    assert [(row["uid"], row["trajectory"], row["pattern"]) for row in rows] == [
        ("q/0", 0, "focus>think>answer"),
        ("q/0", 1, "hint>answer"),
        ("q/5", 0, "focus>think>answer"),
        ("q/5", 1, "hint>answer"),
    ]
    (pool,) = rl.to_pylist()
    assert pool["extra_info"]["uid"] == "q/1"
    assert pool["reward_model"]["ground_truth"] == "B"
    # The policy meets the same words and the same images in both.
    assert rows[0]["messages"][:-1] == [
        {"role": "system", "content": pool["prompt"][0]["content"]},
        {"role": "user", "content": questions[0].prompt},
    ]
    assert rows[0]["images"][0].keys() == pool["images"][0].keys()
    assert rows[0]["images"][0]["max_pixels"] == 784


def test_singles_are_rows_only_when_wanted(run, tmp_path):
    questions, records = run
    assert write_outputs(tmp_path, questions, records.get, SETTINGS, singles=True).sft_rows == 5
    assert Counter(pq.read_table(tmp_path / SFT)["uid"].to_pylist()) == {"q/0": 2, "q/3": 1, "q/5": 2}


def test_provenance_and_what_was_left_out(run, tmp_path):
    questions, records = run
    write_outputs(tmp_path, questions, records.get, SETTINGS)
    lines = [json.loads(line) for line in (tmp_path / PROVENANCE).read_text().splitlines()]
    assert lines == [records[question.uid] for question in questions[:6]]
    left = [json.loads(line) for line in (tmp_path / LEFT).read_text().splitlines()]
    assert [(line["uid"], line["reason"]) for line in left] == [
        ("q/2", "student_off_format"),
        ("q/4", "gold_unreadable"),
    ]
    assert all(line["detail"] for line in left)


def test_equal_results_give_equal_bytes(run, tmp_path):
    questions, records = run
    names = (SFT, RL_POOL, PROVENANCE, LEFT, SUMMARY)
    write_outputs(tmp_path / "a", questions, records.get, SETTINGS)
    write_outputs(tmp_path / "b", questions, dict(reversed(records.items())).get, SETTINGS)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_parquet_without_rows_is_not_there(run, tmp_path):
    questions, records = run
    write_outputs(tmp_path, questions, records.get, SETTINGS)
    summary = write_outputs(tmp_path, questions, {}.get, SETTINGS)
    assert (summary.not_reached, (tmp_path / SFT).exists(), (tmp_path / RL_POOL).exists()) == (7, False, False)


def test_a_failure_half_way_leaves_the_old_files(run, tmp_path):
    questions, records = run
    write_outputs(tmp_path, questions, records.get, SETTINGS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def broken(uid):
        if uid == "q/5":
            raise OSError("gone")
        return records[uid]

    with pytest.raises(OSError, match="gone"):
        write_outputs(tmp_path, questions, broken, SETTINGS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_more_rows_than_a_row_group(make_question, make_result, text, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "parquet_writer", partial(parquet_writer, rows_per_group=3))
    question = make_question(0)
    result = make_result(question, COLD_START, "one_wanted", {"teacher/0": text("focus")}, refined=0).record()
    write_outputs(tmp_path, [question] * 8, lambda uid: result, SETTINGS)
    table = pq.ParquetFile(tmp_path / SFT)
    assert (table.metadata.num_rows, table.num_row_groups) == (8, 3)


def test_verl_trains_on_the_sft_rows(run, tmp_path, tiny_model):
    from transformers import AutoProcessor
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    questions, records = run
    write_outputs(tmp_path, questions, records.get, SETTINGS)
    processor = AutoProcessor.from_pretrained(tiny_model)
    config = {"pad_mode": "no_padding", "max_length": 2048, "enable_thinking_default": None}
    rows = MultiTurnSFTDataset(str(tmp_path / SFT), processor.tokenizer, config, processor=processor)
    assert len(rows) == 4
    trained = processor.tokenizer.decode(rows[1]["input_ids"][rows[1]["loss_mask"].bool()])
    assert "<hint>" in trained
    assert trained.rstrip().endswith("</answer><|im_end|>")
    assert "Question 0" not in trained
    assert len(rows[2]["multi_modal_inputs"]["image_grid_thw"]) == len(questions[5].images)
