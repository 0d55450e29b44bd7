"""The questions that the page shows, read from parquet."""

import pytest

from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.prompts import messages
from cinema_verl.report.questions import read_questions


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
    assert (question.uid, question.text, question.gold) == ("q/1", "Which?", "1")
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
