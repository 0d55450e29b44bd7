"""Questions over real image files, and models that are functions."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from cinema_verl.cold_start.sampling import Result
from cinema_verl.cold_start.tree import read
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.meta_action import TAGS

MakeQuestion = Callable[..., Question]


def _store(folder: Path, shade: int) -> ImageRef:
    path = folder / f"{shade}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 28), (shade % 256, shade // 256, 90)).save(path)
    return ImageRef(str(path), 32, 28, hashlib.sha256(path.read_bytes()).hexdigest(), "0" * 16)


@pytest.fixture
def make_question(tmp_path: Path) -> MakeQuestion:
    """`make_question(7, images=1, answer="B")`: a question of four options over images of its own."""

    def make(number: int = 0, *, images: int = 2, **changes: object) -> Question:
        refs = tuple(_store(tmp_path / "images", 10 * number + place) for place in range(images))
        shown = "\n".join(f"Image {place + 1}: <image>" for place in range(images))
        values: dict = {
            "uid": f"q/{number}",
            "source": "made",
            "source_id": str(number),
            "split": "train",
            "license": "none",
            "modality": "single" if images == 1 else "multi",
            "question": f"{shown}\nQuestion {number}: which one?",
            "images": refs,
            "answer_type": "mcq",
            "answer": "B",
            "options": ("red", "green", "blue", "black"),
        }
        return Question(**(values | changes))

    return make


@pytest.fixture
def write_questions(tmp_path: Path, make_question: MakeQuestion) -> Callable[..., Path]:
    """`write_questions(20)`, or of given questions: a JSONL file of them."""

    def write(questions: int | Sequence[Question], name: str = "questions.jsonl") -> Path:
        if isinstance(questions, int):
            questions = [make_question(number) for number in range(questions)]
        path = tmp_path / name
        path.write_text("".join(json.dumps(question.to_json(tmp_path)) + "\n" for question in questions))
        return path

    return write


def _text(path: str, answer: str = "B", words: str = "words") -> str:
    actions = "".join(f"{TAGS[name].open}{words}{TAGS[name].close}" for name in path.split())
    return f"{actions}<answer>{answer}</answer>"


@pytest.fixture(scope="session")
def text() -> Callable[..., str]:
    """`text("focus think", "B")`: a trajectory along that path."""
    return _text


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """`make_result(question, COLD_START, "two_paths", {"student/0": "…", "teacher/0": "…"}, refined=1, second=0)`."""

    def make(question: Question, route: str, reason: str, samples: dict[str, str], **values: object) -> Result:
        result = Result(question.uid, samples=[read(origin, each, question) for origin, each in samples.items()])
        for name, value in values.items():
            setattr(result, name, value)
        return result.end(route, reason)

    return make
