"""The arms' rows: which trajectories of which questions a cold start learns from."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cinema_verl.cold_start.retrieval import Encode, embed, walk
from cinema_verl.cold_start.tree import SampledTrajectory
from cinema_verl.demo import digits
from cinema_verl.demo.digit_images import Pools
from cinema_verl.demo.digit_tasks import PATTERNS_OVER_MANY, PATTERNS_OVER_ONE, trajectory
from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.meta_action import parse
from cinema_verl.verify import verify

PRETRAIN: Final = 16000  # our choice: 1,000 steps of 16
QUESTIONS: Final = 1600  # our choice: with two rows each, 200 steps of 16

Actions = tuple[str, ...]
"""A path before its answer."""
HABIT: Final[Actions] = ("focus", "think")
"""The path of the pretraining: what a student with one habit drafts for every question."""
CHAIN: Final[Actions] = ("think",)
SIMILARITY: Final = "text"
"""What is compared: the default of `cinema-verl cold-start`."""

Seconds = Sequence[Mapping[Actions, tuple[Actions, Actions]]]
"""For every question, from a first path to the least and the most similar other one."""


@dataclass(frozen=True)
class Row:
    """One trajectory to learn."""

    question: DigitsQuestion
    actions: Actions

    @property
    def text(self) -> str:
        """The trajectory in tags."""
        return trajectory(self.question.problem, self.actions)


def draw(pools: Pools) -> tuple[list[DigitsQuestion], list[DigitsQuestion]]:
    """Questions of the pretraining, and 2 * `QUESTIONS` of the cold start; all different, of the training digits."""
    asked: set[tuple[str, tuple[str, ...]]] = set()
    return (
        list(digits.questions(pools, "train", "pretrain", PRETRAIN, 0, asked)),
        list(digits.questions(pools, "train", "sft_train", 2 * QUESTIONS, 0, asked)),
    )


def paths_of(question: DigitsQuestion) -> Sequence[Actions]:
    """The paths on which the generator can answer the question, each correctly."""
    return PATTERNS_OVER_ONE if len(question.images) == 1 else PATTERNS_OVER_MANY


def candidates(question: DigitsQuestion) -> list[SampledTrajectory]:
    """The question's trajectories on all its paths, parsed and verified as samples of `cinema-verl cold-start`."""
    problem, found = question.problem, []
    for actions in paths_of(question):
        text = trajectory(problem, actions)
        read = parse(text)
        correct = verify(
            read.answer, problem.answer, problem.answer_type, options=problem.options, aliases=problem.aliases
        )
        violations = tuple(read.violations_for(len(question.images)))
        found.append(SampledTrajectory("/".join(actions), text, read, violations, correct))
    return found


def retrieve(samples: Sequence[SampledTrajectory], first: int, vectors: np.ndarray) -> tuple[int, int]:
    """The package's search from the least similar on, and the same search from the most similar on.

    Raises:
        ValueError: if there is no correct trajectory on another path.
    """
    opposite = vectors.copy()
    opposite[first] *= -1  # every cosine changes its sign, and the order is turned around
    ends = [walk(samples, first, each)[-1:] for each in (vectors, opposite)]
    chosen = [visits[0].index for visits in ends if visits and visits[0].verdict == "chosen"]
    if len(chosen) != 2:
        raise ValueError(f"no second path beside {samples[first].origin}")
    return chosen[0], chosen[1]


def second_paths(questions: Sequence[DigitsQuestion], encode: Encode) -> list[dict[Actions, tuple[Actions, Actions]]]:
    """`Seconds` of the questions."""
    sampled = [candidates(question) for question in questions]
    bodies = {body.strip(): None for samples in sampled for each in samples for _, body in each.trajectory.actions}
    known = dict(zip(bodies, encode(list(bodies)), strict=True))  # many are the same in many questions
    made = []
    for question, samples in zip(questions, sampled, strict=True):
        vectors = embed(samples, lambda texts: np.stack([known[text] for text in texts]), SIMILARITY)
        paths = paths_of(question)
        chosen = [retrieve(samples, first, vectors) for first in range(len(paths))]
        made.append({paths[i]: (paths[least], paths[most]) for i, (least, most) in enumerate(chosen)})
    return made


# --- The arms ------------------------------------------------------------------------------------------------------

Choose = Callable[[DigitsQuestion, Mapping[Actions, tuple[Actions, Actions]], int], tuple[Actions, ...]]
"""From a question, its second paths and a seed to the paths it is learnt on."""


def draft(question: DigitsQuestion, seed: int) -> Actions:
    """The first path where drafts are varied: any, the same in every arm of a seed."""
    return random.Random(f"cold_start/{seed}/first/{question.uid}").choice(paths_of(question))


def _random_second(question: DigitsQuestion, seed: int) -> tuple[Actions, Actions]:
    first = draft(question, seed)
    others = [path for path in paths_of(question) if path != first]
    return first, random.Random(f"cold_start/{seed}/second/{question.uid}").choice(others)


ARMS: Final[Mapping[str, Choose]] = {
    "least_similar": lambda q, second, seed: (draft(q, seed), second[draft(q, seed)][0]),
    "one_path": lambda q, second, seed: (draft(q, seed),) * 2,
    "chain_of_thought": lambda q, second, seed: (CHAIN,) * 2,
    "habit_two": lambda q, second, seed: (HABIT, second[HABIT][0]),
    "habit_one": lambda q, second, seed: (HABIT,) * 2,
    "most_similar": lambda q, second, seed: (draft(q, seed), second[draft(q, seed)][1]),
    "random_second": lambda q, second, seed: _random_second(q, seed),
    "one_path_more_questions": lambda q, second, seed: (draft(q, seed),),
}
"""Arms by name. All give as many rows: the last from twice as many questions."""


def rows(arm: str, questions: Sequence[DigitsQuestion], seconds: Seconds, seed: int) -> list[Row]:
    """The 2 * `QUESTIONS` rows of an arm, in an order that is the seed's.

    Args:
        questions: twice as many as `seconds`; those beyond are for `one_path_more_questions`.
    """
    none: Mapping[Actions, tuple[Actions, Actions]] = {}
    if arm == "one_path_more_questions":
        seconds = [none] * len(questions)
    made = [
        Row(question, actions)
        for question, second in zip(questions, seconds, strict=False)
        for actions in ARMS[arm](question, second, seed)
    ]
    return [made[place] for place in np.random.default_rng(seed).permutation(len(made))]


def path_shares(made: Sequence[Row]) -> dict[str, Any]:
    """What the rows' paths are: their shares, and their entropy (nats)."""
    counts = Counter(">".join(row.actions) for row in made)
    share = {path: count / len(made) for path, count in counts.most_common()}
    return {"entropy": float(-sum(p * np.log(p) for p in share.values())), "share": share}
