"""Meta-action trees: a question's sampled trajectories, merged by action path (paper, Retrieval-Based Tree Sampling).

A node is an action reached by one path from the root, with the text of every sample whose path leads through it. Roots
are Global, Focus, Hint or Think, and every leaf is an Answer: only well-formed trajectories are on a tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cinema_verl.cold_start.unwrap import BARE_CLOSING, SEPARATE, unwrap
from cinema_verl.data.canonical import Question
from cinema_verl.data.schema import PLACEHOLDERS
from cinema_verl.meta_action import PATTERN_SEPARATOR, Trajectory, parse
from cinema_verl.utils.native_reasoning import VIOLATION
from cinema_verl.verify import verify

MAX_ACTIONS: Final = 16
"""Longest path on a tree. Our choice: three times the five actions. A longer one is a loop, which a teacher cannot be
asked to follow."""

Path = tuple[str, ...]
"""Names of actions from the root to the answer."""


def pattern(path: Path) -> str:
    """A path as `meta_action.Trajectory.pattern` writes it: ``"focus>think>answer"``."""
    return PATTERN_SEPARATOR.join(path)


@dataclass(frozen=True, slots=True)
class SampledTrajectory:
    """One sampled trajectory, parsed and verified.

    Attributes:
        origin: ``student/0`` or ``teacher/0`` with the number of the draw, or ``explore/`` and the pattern asked for.
        text: The model's text, without what was around the trajectory.
        trajectory: The parsed text.
        violations: Codes of the format rule for the question's number of images and the prompt mode.
        correct: The verifier's verdict; None if it abstains.
        taken: What was around the trajectory: codes of `unwrap.TAKEN_OFF`, each with its text.
    """

    origin: str
    text: str
    trajectory: Trajectory
    violations: tuple[str, ...]
    correct: bool | None
    taken: tuple[tuple[str, str], ...] = ()

    @property
    def path(self) -> Path:
        return tuple(name for name, _ in self.trajectory.actions)

    @property
    def usable(self) -> bool:
        """Whether it is well formed, at most `MAX_ACTIONS` long, and without placeholders that verl takes for media."""
        return (
            not self.violations
            and len(self.path) <= MAX_ACTIONS
            and not any(placeholder in self.text for placeholder in PLACEHOLDERS)
        )

    def record(self) -> dict[str, Any]:
        """The sample as JSON."""
        return {
            "origin": self.origin,
            "pattern": pattern(self.path),
            "correct": self.correct,
            "usable": self.usable,
            "violations": list(self.violations),
            "text": self.text,
            "taken_off": dict(self.taken),
        }


def verdict(answer: str | None, question: Question) -> bool | None:
    """The verifier's verdict; None for every answer if the gold cannot be read."""
    return verify(
        answer,
        question.answer,
        question.answer_type,
        options=question.options,
        aliases=question.answer_aliases,
        tolerance=question.tolerance,
        question=question.prompt,
    )


def read(
    origin: str,
    text: str,
    question: Question,
    removed: str | None = None,
    native_reasoning: str = "none",
    reasoning: str = "",
) -> SampledTrajectory:
    """Unwrap, parse, check and verify one text. As in the reward, an answer is verified in spite of violations.

    Args:
        removed: The action that the prompt mode takes out: using it is a violation.
        native_reasoning: What is declared of the model; one of `utils.native_reasoning.NATIVE_REASONING`.
        reasoning: The reasoning that the endpoint gave in a field of its own.
    """
    found = unwrap(text, native_reasoning, reasoning)
    trajectory = parse(found.text)
    violations = trajectory.violations_for(len(question.images), removed)
    if native_reasoning == "refuse" and {SEPARATE, BARE_CLOSING} & dict(found.taken).keys():
        violations = (*violations, VIOLATION)
    return SampledTrajectory(
        origin, found.text, trajectory, violations, verdict(trajectory.answer, question), found.taken
    )


@dataclass(frozen=True, slots=True)
class Step:
    """The text of one sample at a node."""

    sample: SampledTrajectory
    body: str


@dataclass(frozen=True, slots=True)
class ActionNode:
    """An action reached by one path.

    Attributes:
        action: The action's name.
        steps: One for each sample whose path leads through the node, in the order of sampling.
        children: The next actions, in the order of their first sample; none at an answer.
    """

    action: str
    steps: tuple[Step, ...]
    children: tuple["ActionNode", ...]

    @property
    def correct(self) -> int:
        """Number of correct samples through the node."""
        return sum(step.sample.correct is True for step in self.steps)


def grow(samples: Sequence[SampledTrajectory]) -> tuple[ActionNode, ...]:
    """The trees of a question's usable samples: one for each first action, in the order of their first sample."""
    return _branches([sample for sample in samples if sample.usable], 0)


def _branches(samples: Sequence[SampledTrajectory], depth: int) -> tuple[ActionNode, ...]:
    by_action: dict[str, list[SampledTrajectory]] = {}
    for sample in samples:
        if depth < len(sample.path):  # at an answer nothing follows
            by_action.setdefault(sample.path[depth], []).append(sample)
    return tuple(
        ActionNode(
            action=action,
            steps=tuple(Step(sample, sample.trajectory.actions[depth][1]) for sample in through),
            children=_branches(through, depth + 1),
        )
        for action, through in by_action.items()
    )
