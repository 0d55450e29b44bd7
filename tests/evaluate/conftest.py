"""Validation dumps, made as verl writes them with the cinema reward."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

Record = dict[str, Any]


def rollout(question: str, session: int = 0, acc: float = 1.0, **changes: Any) -> Record:
    """One line of a dump: `acc` of a session of a question; two images, a choice among letters, unless changed."""
    return {
        "input": "user\nWhich?\nassistant\n",
        "output": "<think>so</think><answer>B</answer>",
        "gts": "B",
        "score": 0.5 * acc + 0.5,
        "step": 7,
        "acc": acc,
        "format": 1.0,
        "pattern": "think>answer",
        "answer": "B",
        "abstained": 0.0,
        "timed_out": 0.0,
        "violations": "",
        "verdict": "equal",
        "answer_type": "mcq",
        "num_images": 2.0,
        "question_uid": question,
        "data_source": "digits/sum",
        "ability": "counting",
        "response_tokens": 20.0,
        "stop_reason": "answer",
        "uid": f"{question}-{changes.get('data_source', '')}_{session}_0",
        **changes,
    }


@pytest.fixture
def dump(tmp_path: Path) -> Callable[..., Path]:
    """`dump(records, "7.jsonl")` -> the file, in a folder of its own."""

    def write(records: Iterable[Record], name: str = "7.jsonl") -> Path:
        path = tmp_path / "validation" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return path

    return write
