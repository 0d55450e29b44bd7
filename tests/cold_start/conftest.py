"""Questions over real image files, models that are functions, and servers of scripted ones."""

import hashlib
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cinema_verl.cold_start import command, pipeline
from cinema_verl.cold_start.sampling import QuestionResult
from cinema_verl.cold_start.tree import read
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.demo.stub_server import StubServer
from cinema_verl.endpoint import client
from cinema_verl.meta_action import ANSWER, TAGS

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
def make_result() -> Callable[..., QuestionResult]:
    """`make_result(question, COLD_START, "two_paths", {"student/0": "…", "teacher/0": "…"}, refined=1, second=0)`."""

    def make(question: Question, route: str, reason: str, samples: dict[str, str], **values: object) -> QuestionResult:
        result = QuestionResult(
            question.uid, samples=[read(origin, each, question) for origin, each in samples.items()]
        )
        for name, value in values.items():
            setattr(result, name, value)
        return result.end(route, reason)

    return make


# --- Scripted models ----------------------------------------------------------------------------------------

PATHS = ("focus think", "hint think", "global focus think", "think")


def student(request: Mapping[str, Any], rng: random.Random) -> str:
    """Half of its drafts are correct, one in six is off the format."""
    if rng.random() < 1 / 6:
        return "It is B."
    return _text(rng.choice(PATHS), rng.choice("BBAC"), f"draft {rng.randrange(100)}")


def teacher(request: Mapping[str, Any], rng: random.Random) -> str:
    """Knows that it is B; one in six is incorrect, one in six strays from the path."""
    asked = str(request["messages"][-1]["content"]).rpartition("Path: ")[2]
    path = " ".join(name for name in re.findall(r"<(\w+)>…", asked) if name != ANSWER) or "think"
    stray = " hint" if rng.random() < 1 / 6 else ""
    return _text(path + stray, "A" if rng.random() < 1 / 6 else "B", f"lesson {rng.randrange(100)}")


def encode(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors that depend on each text alone."""
    vectors = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=8) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session", name="teacher")
def scripted_teacher() -> Callable[..., str]:
    """`teacher(request, rng)`: what the teacher's server says."""
    return teacher


@dataclass
class Endpoints:
    """Two scripted servers and the command line that asks them."""

    student: StubServer
    teacher: StubServer
    questions: Path
    output: Path

    def arguments(self, *more: str, output: Path | None = None) -> list[str]:
        return [
            "--questions", str(self.questions), "--output", str(output or self.output),
            "--student-url", self.student.url, "--student-model", "stub", "--student-concurrency", "16",
            "--teacher-url", self.teacher.url, "--teacher-model", "stub", "--teacher-concurrency", "16",
            "--teacher-price", "2.5", "10", "--student-timeout", "2", "--teacher-timeout", "2", *more,
        ]  # fmt: skip

    def run(self, *more: str, output: Path | None = None) -> int:
        """`cinema-verl cold-start` in this process."""
        return command.main(self.arguments(*more, output=output))

    @property
    def paid(self) -> tuple[int, int]:
        """How often a model answered, and for how many different calls."""
        counts = [server.stats() for server in (self.student, self.teacher)]
        return sum(each["paid"] for each in counts), sum(each["distinct"] for each in counts)


@pytest.fixture
def endpoints(
    tmp_path: Path, write_questions: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Endpoints]]:
    """`endpoints(20, faults={…})`: servers of scripted models, and so many questions (or a file of some).

    The encoder is `encode`, and retries do not wait.
    """
    monkeypatch.setattr(pipeline, "Encoder", lambda name: encode)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    with ExitStack() as running:

        def start(questions: int | Sequence[Question] | Path = 20, **server: Any) -> Endpoints:
            path = questions if isinstance(questions, Path) else write_questions(questions)
            servers = [running.enter_context(StubServer(each, **server)) for each in (student, teacher)]
            return Endpoints(*servers, path, tmp_path / "out")

        yield start
