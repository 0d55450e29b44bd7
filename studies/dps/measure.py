"""How good and how varied a policy is on the held-out questions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.diversity import pattern_statistics
from cinema_verl.evaluate.statistics import pass_at_k
from cinema_verl.utils.stable_random import stable_hash
from studies.dps.loop import GROUP, score
from studies.dps.policy import StudyPolicy

SAMPLES: Final = 16
_BATCH: Final = 512  # responses sampled side by side
_COMMON: Final = 0.02  # share of a task's responses from which a pattern is listed


def measure(
    policy: StudyPolicy, questions: Sequence[DigitsQuestion], limit: int, samples: int = SAMPLES
) -> dict[str, Any]:
    """Sample every question and score.

    Args:
        samples: a question, a multiple of 8; the same seeds for every policy, so that policies are compared on the same
            draws.

    Returns:
        pass_1, pass_8 (the unbiased estimate from `samples`), greedy, format: means over questions.
        pattern_entropy, unique_patterns: means over groups of 8 (entropy in nats), as in training.
        tasks: for each kind of question its pass_1, pass_8, pattern_entropy over all its responses (nats), and its
            common patterns with their share and their accuracy.
    """
    asked = [(question, sample) for question in questions for sample in range(samples)]
    seeds = [stable_hash("measure", question.uid, sample) >> 1 for question, sample in asked]
    scored = _scored(policy, [question for question, _ in asked], seeds, limit)
    greedy = _scored(policy, questions, [None] * len(questions), limit)

    groups = [f"{question.uid}/{sample // GROUP}" for question, sample in asked]
    patterns = [str(each["pattern"]) for each in scored]
    acc = np.array([each["acc"] for each in scored]).reshape(len(questions), samples)
    pass_8 = np.array([pass_at_k(int(row.sum()), samples, GROUP) for row in acc])
    return {
        "questions": len(questions),
        "samples": samples,
        "pass_1": float(acc.mean()),
        "pass_8": float(pass_8.mean()),
        "greedy": float(np.mean([each["acc"] for each in greedy])),
        "format": float(np.mean([each["format"] for each in scored])),
        **pattern_statistics(patterns, groups),
        "tasks": _by_task(questions, acc, pass_8, np.array(patterns, dtype=object).reshape(acc.shape)),
    }


def _scored(
    policy: StudyPolicy, questions: Sequence[DigitsQuestion], seeds: Sequence[int | None], limit: int
) -> list[dict[str, Any]]:
    """A response to each question from its seed, greedy for None, as the reward scores it."""
    prompts = {uid: policy.prompt(question) for uid, question in {each.uid: each for each in questions}.items()}
    scored: list[dict[str, Any]] = []
    for start in range(0, len(questions), _BATCH):
        part = questions[start : start + _BATCH]
        sampled = policy.sample([prompts[question.uid] for question in part], seeds[start : start + _BATCH], limit)
        scored += [score(question, each) for question, each in zip(part, sampled, strict=True)]
    return scored


def _by_task(
    questions: Sequence[DigitsQuestion], acc: np.ndarray, pass_8: np.ndarray, patterns: np.ndarray
) -> dict[str, Any]:
    places = defaultdict(list)
    for place, question in enumerate(questions):
        places[question.task.name].append(place)
    made = {}
    for name, rows in places.items():
        of_task, right = patterns[rows].ravel(), acc[rows].ravel()
        share = {pattern: count / len(of_task) for pattern, count in Counter(of_task.tolist()).most_common()}
        made[name] = {
            "pass_1": float(right.mean()),
            "pass_8": float(pass_8[rows].mean()),
            "pattern_entropy": float(-sum(p * np.log(p) for p in share.values())),
            "patterns": {
                pattern: {"share": round(p, 4), "acc": round(float(right[of_task == pattern].mean()), 4)}
                for pattern, p in share.items()
                if p >= _COMMON
            },
        }
    return made
