"""Does a cold start's memory stay flat? One process takes 100,000 questions through everything but HTTP.

    python benchmarks/cold_start_memory.py [--questions 100000]

Questions are read from a file, drafts and refinements come at once from functions instead of endpoints, and everything
else is as in a run: the ledger and the journal on disk, parsing, verification, retrieval, both parquets, provenance and
the page. Resident memory is read as the questions go by. It should be that of the first thousand, and the uids: a run
remembers which question is where in its journal.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cinema_verl.cold_start import command, pipeline
from cinema_verl.cold_start.journal import Journal
from cinema_verl.endpoint.ledger import Call
from cinema_verl.endpoint.outcomes import Outcome, Reply

QUESTIONS = 100_000
TEXT = "the first image shows a red cube left of two smaller spheres and nothing else that would matter here"
WORDS = TEXT.split()


class Endpointless:
    """A `client.Client` whose endpoint answers at once, and keeps replies in the ledger as that does."""

    def __init__(self, endpoint: Any, ledger: Any, budget: Any) -> None:
        self.ledger = ledger

    async def __aenter__(self) -> Endpointless:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def check(self) -> None: ...

    async def complete(self, call: Call, images: Sequence[Any]) -> Reply:
        await asyncio.sleep(0)
        rng = random.Random(call.key)
        path = rng.choice(("focus", "hint", "focus think"))
        if call.purpose != "draft":
            asked = str(call.messages[-1]["content"]).rpartition("Path: ")[2]
            path = " ".join(name for name in ("focus", "hint", "think") if f"<{name}>…" in asked)
        words = " ".join(rng.choices(WORDS, k=60))
        text = "".join(f"<{name}>{words}</{name}>" for name in path.split()) + f"<answer>{rng.choice('BBBA')}</answer>"
        reply = Reply(text, "stop", Outcome.OK, 500, 80, 0.001, "none")
        self.ledger.put(call, reply, self.ledger.begin(call, 0.01))
        return reply


def encode(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of a usual size, each made of its text alone."""
    vectors = np.stack([np.random.default_rng(zlib.crc32(text.encode())).normal(size=384) for text in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_questions(path: Path, count: int) -> None:
    """Questions over two images that nobody opens."""
    image = {"path": "/images/none.png", "width": 640, "height": 480, "phash": "0" * 16}
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            images = [image | {"sha256": f"{number:032x}{place:032x}"} for place in (0, 1)]
            question = {
                "uid": f"made/{number:08d}", "source": "made", "source_id": str(number), "split": "train",
                "license": "none", "modality": "multi", "images": images, "answer_type": "mcq", "answer": "B",
                "question": f"Image 1: <image>\nImage 2: <image>\nQuestion {number}: {TEXT}?",
                "options": ["red", "green", "blue", "black"],
            }  # fmt: skip
            file.write(json.dumps(question) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="%(default)s")
    count = parser.parse_args().questions
    process = psutil.Process()
    marks = sorted({min(mark, count) for mark in (1_000, 10_000, count // 2, count)})
    seen: list[tuple[int, float, float]] = []
    started = time.monotonic()
    append = Journal.append

    def counted(journal: Journal, record: Any) -> None:
        append(journal, record)
        if len(journal) in marks:
            gc.collect()
            seen.append((len(journal), process.memory_info().rss / 2**20, time.monotonic() - started))

    Journal.append = counted  # type: ignore[method-assign]
    pipeline.Client = Endpointless  # type: ignore[assignment,misc]
    pipeline.Encoder = lambda name: encode  # type: ignore[assignment,misc]
    with tempfile.TemporaryDirectory() as folder:
        questions = Path(folder) / "questions.jsonl"
        write_questions(questions, count)
        code = command.main([
            "--questions", str(questions), "--output", str(Path(folder) / "out"), "--drafts", "2",
            "--student-url", "http://localhost/v1", "--student-model", "none",
            "--teacher-url", "http://localhost/v1", "--teacher-model", "none",
        ])  # fmt: skip
    print(f"\n{'questions done':>14}  {'resident MiB':>12}  {'seconds':>8}")
    for done, memory, seconds in seen:
        print(f"{done:>14,}  {memory:>12.0f}  {seconds:>8.0f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'the outputs':>14}  {peak:>12.0f}  {time.monotonic() - started:>8.0f}   (the highest of the whole run)")
    first, last = seen[0], seen[-1]
    grown = (last[1] - first[1]) * 2**20 / max(1, last[0] - first[0])
    print(f"from {first[0]:,} to {last[0]:,} questions: {last[1] - first[1]:+.0f} MiB, {grown:.0f} bytes a question")
    sys.exit(code)


if __name__ == "__main__":
    main()
