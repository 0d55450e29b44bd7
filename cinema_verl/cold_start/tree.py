"""Meta-action trees: a question's sampled trajectories, merged by action path (paper, Retrieval-Based Tree Sampling).

A node is an action reached by one path from the root; every sample whose path leads through it left its words there.
Roots are Global, Focus, Hint or Think, every leaf is an Answer: only well-formed trajectories grow on a tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cinema_verl.data.canonical import Question
from cinema_verl.data.schema import PLACEHOLDERS
from cinema_verl.meta_action import PATTERN_SEPARATOR, Trajectory, parse
from cinema_verl.verify import verify

MAX_ACTIONS: Final = 16
"""Longest path that grows on a tree. Our choice: three times the five actions; a sampled loop of one action is longer,
and nobody can be asked to follow it."""

Path = tuple[str, ...]
"""Names of actions from the root to the answer."""


def pattern(path: Path) -> str:
    """A path as `meta_action.Trajectory.pattern` writes it: ``"focus>think>answer"``."""
    return PATTERN_SEPARATOR.join(path)


@dataclass(frozen=True, slots=True)
class SampledTrajectory:
    """One sampled trajectory, read and judged.

    Attributes:
        origin: Who wrote it: ``student/0``, ``teacher/0``, ``expansion/0``; the number is the draw.
        text: As the model wrote it, without surrounding white space.
        trajectory: What the one parser makes of it.
        violations: Codes of the format rule for the question's number of images.
        correct: The verdict of the one verifier; None where it abstains.
    """

    origin: str
    text: str
    trajectory: Trajectory
    violations: tuple[str, ...]
    correct: bool | None

    @property
    def path(self) -> Path:
        return tuple(name for name, _ in self.trajectory.actions)

    @property
    def usable(self) -> bool:
        """Whether it is well formed, short enough to grow on a tree, and free of what verl takes for media."""
        return (
            not self.violations
            and len(self.path) <= MAX_ACTIONS
            and not any(placeholder in self.text for placeholder in PLACEHOLDERS)
        )


def verdict(answer: str | None, question: Question) -> bool | None:
    """The one verifier's, for this question; None for every answer where the gold cannot be read."""
    return verify(
        answer,
        question.answer,
        question.answer_type,
        options=question.options,
        aliases=question.answer_aliases,
        tolerance=question.tolerance,
        question=question.prompt,
    )


def read(origin: str, text: str, question: Question) -> SampledTrajectory:
    """Parse, check and verify one text. The answer is judged whatever else is wrong, as in the reward."""
    text = text.strip()
    trajectory = parse(text)
    violations = trajectory.violations_for(len(question.images))
    return SampledTrajectory(origin, text, trajectory, violations, verdict(trajectory.answer, question))


@dataclass(frozen=True, slots=True)
class Step:
    """What one sample says at a node."""

    sample: SampledTrajectory
    body: str


@dataclass(frozen=True, slots=True)
class Node:
    """An action reached by one path.

    Attributes:
        action: Its name.
        steps: One for each sample whose path leads through the node, in the order of sampling.
        children: The actions that follow, in the order of their first sample; none at an answer.
    """

    action: str
    steps: tuple[Step, ...]
    children: tuple["Node", ...]

    @property
    def right(self) -> int:
        """How many of the samples through the node are right."""
        return sum(step.sample.correct is True for step in self.steps)


def grow(samples: Sequence[SampledTrajectory]) -> tuple[Node, ...]:
    """The trees of a question: one for each first action, in the order of their first sample.

    Samples that are not usable do not grow; count them apart.
    """
    return _branches([sample for sample in samples if sample.usable], 0)


def _branches(samples: Sequence[SampledTrajectory], depth: int) -> tuple[Node, ...]:
    by_action: dict[str, list[SampledTrajectory]] = {}
    for sample in samples:
        if depth < len(sample.path):  # at an answer nothing follows
            by_action.setdefault(sample.path[depth], []).append(sample)
    return tuple(
        Node(
            action=action,
            steps=tuple(Step(sample, sample.trajectory.actions[depth][1]) for sample in through),
            children=_branches(through, depth + 1),
        )
        for action, through in by_action.items()
    )
