"""The cold start without a network: `make cold-start`, or `python -m cinema_verl.demo.cold_start`.

The questions are over handwritten digits. The student is the shipped tiny Qwen2.5-VL, a real model behind an
OpenAI-compatible server. The teacher is a script that knows the labels and errs at a given rate, behind a server that
fails on purpose. `cinema-verl cold-start` makes the parquet files, verl's SFT trainer trains the student, and a table
compares it before and after on held-out questions. This takes a few minutes on two cores; after an interruption, the
same command continues the run.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from cinema_verl.cold_start import command
from cinema_verl.cold_start.outputs import SFT, rl_row
from cinema_verl.cold_start.requests import NO_SYSTEM, SamplingSettings
from cinema_verl.data.canonical import IMAGE, Question
from cinema_verl.data.directory import IMAGES, write_dataset
from cinema_verl.demo import digit_images, digit_tasks, digits
from cinema_verl.demo.measure import PlainPolicy, measure
from cinema_verl.demo.stub_server import FAULTS as KNOWN_FAULTS
from cinema_verl.demo.stub_server import StubServer
from cinema_verl.demo.train_policy import digits_cold_start, export, train
from cinema_verl.meta_action import ANSWER
from cinema_verl.prepare.convert import MAX_PIXELS
from cinema_verl.prepare.media.images import ImageStore
from cinema_verl.utils.files import atomic_write, sha256_of

QUESTIONS: Final = 200
TEST: Final = 200  # held-out questions. Our choice: a share of 0.7 is then known to +-0.06 (95 %)
SAMPLES: Final = 4  # answers to each of them at temperature 1; our choice
INCORRECT: Final = 0.15  # share of the teacher's answers; our choice: enough of an RL pool to look at
OFF_PATH: Final = 0.05  # share of its replies
FAULTS: Final = {  # shares of the teacher's replies; our choice: each occurs in a run
    "429": 0.04, "burst": 0.002, "500": 0.02, "503": 0.01, "reset": 0.01, "reset_late": 0.005,
    "half_json": 0.01, "hang": 0.002, "refusal": 0.02, "length": 0.01, "content_filter": 0.005,
}  # fmt: skip
STEPS: Final = 50  # of SFT. Our choice: with 16 rows each, twice over some 400 rows (paper: 2 epochs)
LEARNING_RATE: Final = 1e-4  # our choice: the recipe's 2e-3 is for random weights, and this student is trained

SETTINGS: Final = SamplingSettings(
    mode=NO_SYSTEM, min_pixels=digit_images.IMAGE_SIZE**2, max_pixels=digit_images.IMAGE_SIZE**2
)
"""The prompt and image sizes that the shipped policy was trained with."""

_TAG = re.compile(r"<([a-z]+)>…")


# --- Questions ----------------------------------------------------------------------------------------------


def problems(split: str, count: int, seed: int) -> list[digits.DigitsQuestion]:
    """Questions over the digits of a split; the same arguments give the same questions."""
    return list(digits.questions(digit_images.load_pools(), split, f"cold_start_{split}", count, seed, set()))


def canonical(drawn: Iterable[digits.DigitsQuestion], directory: Path) -> Iterator[Question]:
    """The questions in canonical form, with their images stored by content below `directory`."""
    pools, store = digit_images.load_pools(), ImageStore(directory / IMAGES, MAX_PIXELS)
    for question in drawn:
        yield Question(
            uid=question.uid,
            source=f"digits/{question.task.name}",
            source_id=question.uid,
            split=question.split,
            license="CC-BY-4.0",
            modality=question.task.modality,
            question=question.prompt,
            images=tuple(store.put(_png(digit_images.draw_image(pools, name))) for name in question.images),
            answer_type=question.problem.answer_type,
            answer=question.problem.answer,
            # Without options: they are the images' letters, and the policy was not trained with a list of them.
            answer_aliases=question.problem.aliases,
        )


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- The teacher --------------------------------------------------------------------------------------------


class ScriptedTeacher:
    """Knows the label of each question, reads the path from the prompt, and errs at given rates.

    Args:
        pairs: Canonical questions with the problems that they were made from.
        incorrect, off_path: Shares of replies with an incorrect answer, and with another path than asked for.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Question, digit_tasks.DigitsProblem]],
        incorrect: float = INCORRECT,
        off_path: float = OFF_PATH,
    ) -> None:
        self._known = {
            (question.question, tuple(image.sha256 for image in question.images)): problem
            for question, problem in pairs
        }
        self._incorrect, self._off_path = incorrect, off_path

    def __call__(self, request: Mapping[str, Any], rng: random.Random) -> str:
        """A responder of `stub_server.StubServer`."""
        text, shas = _read(request["messages"][-1]["content"])
        asked, _, path_line = text.rpartition("\n\nPath: ")
        problem = self._known[asked, shas]
        path = [name for name in _TAG.findall(path_line) if name != ANSWER]
        if rng.random() < self._incorrect:
            problem = replace(problem, answer=incorrect_answer(problem))
        if rng.random() < self._off_path:
            path.append("hint")
        return digit_tasks.trajectory(problem, path)


def _read(content: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """The text of a user message with its placeholders, and the digests of its images."""
    texts, shas = [], []
    for part in content:
        if part["type"] == "text":
            texts.append(part["text"])
        else:
            texts.append(IMAGE)
            data = part["image_url"]["url"].partition(",")[2]
            shas.append(hashlib.sha256(base64.b64decode(data)).hexdigest())
    return "".join(texts), tuple(shas)


def incorrect_answer(problem: digit_tasks.DigitsProblem) -> str:
    """An incorrect answer of the same kind."""
    answer = problem.answer
    if problem.answer_type == "mcq":
        return "B" if answer == "A" else "A"
    if problem.answer_type == "number":
        return str(int(answer) + 1)
    if problem.answer_type == "ordering":
        return ", ".join(reversed(answer.split(", ")))
    return {"yes": "no", "no": "yes", "rise": "fall", "fall": "rise"}[answer]


# --- The run ------------------------------------------------------------------------------------------------


@contextmanager
def serving(model: Path, port: int = 0) -> Iterator[str]:
    """A local server of `model` in a process of its own; the value is its base URL."""
    command = [sys.executable, "-m", "cinema_verl.rollout.openai_server", str(model), "--port", str(port)]
    # Waiting threads should sleep and leave the cores to other processes.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the student's server did not start: {' '.join(command)} (its output is above)")
            yield url
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 if all questions are done and the SFT is, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/cold_start"), help="Folder of the run. (default: %(default)s)"
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="Number of questions. (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of questions, errors and faults. (default: %(default)s)"
    )
    for name, share, what in (("incorrect", INCORRECT, "an incorrect answer"), ("off-path", OFF_PATH, "another path")):
        text = f"Share of the teacher's replies with {what}. (default: %(default)s)"
        parser.add_argument(f"--{name}", type=float, default=share, help=text)
    parser.add_argument(
        "--fault",
        action="append",
        metavar="NAME=SHARE",
        help="Share of the teacher's replies with this fault. May be repeated; `--fault none` for none. (default: "
        + " ".join(f"{name}={share}" for name, share in FAULTS.items())
        + ")",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="Steps of SFT; 0 skips it. (default: %(default)s)")
    parser.add_argument("--test", type=int, default=TEST, help="Number of held-out questions. (default: %(default)s)")
    parser.add_argument("rest", nargs="*", help="Options for cinema-verl cold-start, after --.")
    options = parser.parse_args(arguments)
    output: Path = options.output.absolute()
    try:
        faults = faults_of(options.fault)
    except ValueError as error:
        parser.error(str(error))

    torch.set_num_threads(1)  # the student's server has the other core, and models this small gain nothing by two
    drawn = problems("train", options.questions, options.seed)
    questions = list(canonical(drawn, output / "data"))
    pairs = [(question, each.problem) for question, each in zip(questions, drawn, strict=True)]
    write_dataset(output / "data", questions, [], {"command": "python -m cinema_verl.demo.cold_start"})
    teacher = StubServer(
        ScriptedTeacher(pairs, options.incorrect, options.off_path),
        model="scripted-teacher",
        faults=faults,
        seed=options.seed,
    )
    with serving(digits_cold_start()) as student_url, teacher:
        code = command.main([
            "--questions", str(output / "data"), "--output", str(output),
            "--student-url", student_url, "--student-model", digits_cold_start().name, "--mode", SETTINGS.mode,
            "--draft-tokens", "96", "--min-pixels", str(SETTINGS.min_pixels), "--max-pixels", str(SETTINGS.max_pixels),
            "--teacher-url", teacher.url, "--teacher-model", "scripted-teacher", "--teacher-price", "2.5", "10",
            "--teacher-timeout", "5", "--encoder", "packaged", *options.rest,
        ])  # fmt: skip
        print(f"the teacher's server: {json.dumps(teacher.stats())}")
    if code or not options.steps:
        return code
    held_out = canonical(problems("test", options.test, options.seed), output / "test")
    test = [rl_row(question, index, SETTINGS) for index, question in enumerate(held_out)]
    print(compared(*fine_tune(output, options.steps, test)))
    return 0


def faults_of(given: Sequence[str] | None) -> dict[str, float]:
    """Shares by the names of `stub_server.FAULTS`; without any, `FAULTS`.

    Raises:
        ValueError: not NAME=SHARE, or a fault that is not known.
    """
    if given is None:
        return FAULTS
    faults: dict[str, float] = {}
    for name, _, share in (each.partition("=") for each in given if each != "none"):
        if name not in KNOWN_FAULTS or not share:
            raise ValueError(f"--fault takes NAME=SHARE, with one of {', '.join(KNOWN_FAULTS)}")
        faults[name] = float(share)
    return faults


def fine_tune(output: Path, steps: int, test: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the student before and after SFT on the parquet. Done once for the same rows and settings."""
    rows, found = output / SFT, output / "sft.json"
    made_of = {"rows": sha256_of(rows), "steps": steps, "learning_rate": LEARNING_RATE, "test": len(test)}
    if found.exists() and (known := json.loads(found.read_text()))["made_of"] == made_of:
        return known["before"], known["after"]
    shutil.rmtree(output / "sft", ignore_errors=True)  # verl would resume a finished run and train nothing
    overrides = [f"trainer.total_training_steps={steps}", "trainer.total_epochs=1000", f"optim.lr={LEARNING_RATE}",
                 "optim.lr_warmup_steps=5"]  # fmt: skip
    log = output / "sft.log"
    print(f"{steps} steps of SFT on {rows}; the trainer's output is in {log}", flush=True)
    try:
        checkpoint = train(digits_cold_start(), rows, rows, output / "sft", overrides, log)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the SFT failed with exit code {error.returncode}; the end of {log} says why") from error
    export(checkpoint, output / "policy")
    before, after = (
        measure(PlainPolicy(model), test, SAMPLES, max_tokens=96) for model in (digits_cold_start(), output / "policy")
    )
    with atomic_write(found) as file:
        json.dump({"made_of": made_of, "before": before, "after": after}, file, indent=2)
    return before, after


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Two measurements as a table."""
    count = before["questions"]
    lines = [f"{'on ' + str(count) + ' held-out questions':<34}  before SFT   after"]
    for title, name in (
        ("correct, greedy", "greedy_acc"),
        ("correct, at temperature 1", "acc"),
        ("well formed, at temperature 1", "format"),
        (f"correct at least once in {SAMPLES}", "pass_at_k"),
        (f"patterns among {SAMPLES}", "unique_patterns"),
    ):
        lines.append(f"{title:<34}  {before[name]:>10.3f}  {after[name]:>6.3f}")
    lines.append(f"(a share of 0.7 of {count} is known to +-{1.96 * math.sqrt(0.21 / count):.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
