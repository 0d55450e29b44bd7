"""The cold start without a network: `make cold-start`, or `python -m cinema_verl.demo.cold_start`.

Questions over handwritten digits; as the student the shipped tiny Qwen2.5-VL, a real model behind an OpenAI-compatible
server; as the teacher a script that knows the labels and errs at a given rate, behind a server that fails on purpose.
`cinema-verl cold-start` makes the parquet, verl's SFT trainer trains the student on it, and a table says what that
changed on held-out questions. A few minutes on two cores. Run it again after an interruption: what is done stays done.
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
from cinema_verl.demo import digits
from cinema_verl.demo.measure import Policy, measure
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
WRONG: Final = 0.15  # of the teacher's answers; our choice: enough of an RL pool to look at
OFF_PATH: Final = 0.05  # of its replies
FAULTS: Final = {  # shares of the teacher's replies; all our choice, each often enough to be met in a run
    "429": 0.04, "burst": 0.002, "500": 0.02, "503": 0.01, "reset": 0.01, "reset_late": 0.005,
    "half_json": 0.01, "hang": 0.002, "refusal": 0.02, "length": 0.01, "content_filter": 0.005,
}  # fmt: skip
STEPS: Final = 50  # of SFT. Our choice: with 16 rows each, twice over some 400 rows (paper: 2 epochs)
LEARNING_RATE: Final = 1e-4  # our choice: the recipe's 2e-3 is for random weights, and this student has learned

SETTINGS: Final = SamplingSettings(mode=NO_SYSTEM, min_pixels=digits.IMAGE_SIZE**2, max_pixels=digits.IMAGE_SIZE**2)
"""How the digits are asked: as the shipped policy was taught."""

_TAG = re.compile(r"<([a-z]+)>…")


# --- Questions ----------------------------------------------------------------------------------------------


def problems(split: str, count: int, seed: int) -> list[digits.Question]:
    """Questions with their labels, over the digits of a split: the same arguments give the same ones."""
    return list(digits.questions(digits.load_pools(), split, f"cold_start_{split}", count, seed, set()))


def canonical(drawn: Iterable[digits.Question], directory: Path) -> Iterator[Question]:
    """Canonical questions; their images are stored by content below `directory`."""
    pools, store = digits.load_pools(), ImageStore(directory / IMAGES, MAX_PIXELS)
    for question in drawn:
        yield Question(
            uid=question.uid,
            source=f"digits/{question.task.name}",
            source_id=question.uid,
            split=question.split,
            license="CC-BY-4.0",
            modality=question.task.modality,
            question=question.prompt,
            images=tuple(store.put(_png(digits.draw_image(pools, name))) for name in question.images),
            answer_type=question.problem.answer_type,
            answer=question.problem.answer,
            # Not the options: the images' letters are the options, and listing them again is not what the policy knows.
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
        pairs: Canonical questions with the problems they were made from.
        wrong, off_path: Shares of its replies.
    """

    def __init__(
        self, pairs: Iterable[tuple[Question, digits.Problem]], wrong: float = WRONG, off_path: float = OFF_PATH
    ) -> None:
        self._known = {
            (question.question, tuple(image.sha256 for image in question.images)): problem
            for question, problem in pairs
        }
        self._wrong, self._off_path = wrong, off_path

    def __call__(self, request: Mapping[str, Any], rng: random.Random) -> str:
        """A responder of `stub_server.StubServer`."""
        text, shas = _read(request["messages"][-1]["content"])
        asked, _, path_line = text.rpartition("\n\nPath: ")
        problem = self._known[asked, shas]
        path = [name for name in _TAG.findall(path_line) if name != ANSWER]
        if rng.random() < self._wrong:
            problem = replace(problem, answer=wrong_answer(problem))
        if rng.random() < self._off_path:
            path.append("hint")
        return digits.trajectory(problem, path)


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


def wrong_answer(problem: digits.Problem) -> str:
    """An answer of the same kind that is not right."""
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
    # Threads that wait should sleep: there are few cores, and others have work for them.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the student's server did not start: {' '.join(command)} (its words are above)")
            yield url
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole run; 0 when all questions are done, and so is the SFT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/cold_start"), help="folder of the run; %(default)s"
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of questions, errors and faults; %(default)s")
    parser.add_argument("--wrong", type=float, default=WRONG, help="share of wrong answers of the teacher; %(default)s")
    parser.add_argument("--off-path", type=float, default=OFF_PATH, help="share of its other paths; %(default)s")
    parser.add_argument(
        "--fault",
        action="append",
        metavar="NAME=SHARE",
        help="of the teacher's replies, once for each; --fault none for none; "
        + " ".join(f"{name}={share}" for name, share in FAULTS.items()),
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of SFT; 0 trains nothing; %(default)s")
    parser.add_argument("--test", type=int, default=TEST, help="held-out questions; %(default)s")
    parser.add_argument("rest", nargs="*", help="after --: options for cinema-verl cold-start")
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
        ScriptedTeacher(pairs, options.wrong, options.off_path),
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
    """The student before and after SFT on the parquet, as `cpu.measure` finds it; not done again for the same rows."""
    rows, found = output / SFT, output / "sft.json"
    made_of = {"rows": sha256_of(rows), "steps": steps, "learning_rate": LEARNING_RATE, "test": len(test)}
    if found.exists() and (known := json.loads(found.read_text()))["made_of"] == made_of:
        return known["before"], known["after"]
    shutil.rmtree(output / "sft", ignore_errors=True)  # verl would resume a finished run and train nothing
    overrides = [f"trainer.total_training_steps={steps}", "trainer.total_epochs=1000", f"optim.lr={LEARNING_RATE}",
                 "optim.lr_warmup_steps=5"]  # fmt: skip
    log = output / "sft.log"
    print(f"{steps} steps of SFT on {rows}; the trainer's words are in {log}", flush=True)
    try:
        checkpoint = train(digits_cold_start(), rows, rows, output / "sft", overrides, log)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the SFT failed with exit code {error.returncode}; why is at the end of {log}") from error
    export(checkpoint, output / "policy")
    before, after = (
        measure(Policy(model), test, SAMPLES, max_tokens=96) for model in (digits_cold_start(), output / "policy")
    )
    with atomic_write(found) as file:
        json.dump({"made_of": made_of, "before": before, "after": after}, file, indent=2)
    return before, after


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A table of two measurements."""
    count = before["questions"]
    lines = [f"{'on ' + str(count) + ' held-out questions':<34}  before SFT   after"]
    for title, name in (
        ("right, greedy", "greedy_acc"),
        ("right, at temperature 1", "acc"),
        ("well formed, at temperature 1", "format"),
        (f"right at least once in {SAMPLES}", "pass_at_k"),
        (f"patterns among {SAMPLES}", "unique_patterns"),
    ):
        lines.append(f"{title:<34}  {before[name]:>10.3f}  {after[name]:>6.3f}")
    lines.append(f"(a share of 0.7 of {count} is known to +-{1.96 * math.sqrt(0.21 / count):.2f})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
