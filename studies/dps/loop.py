"""Reinforcement learning of the small policy in one process: the trainer's steps without its processes.

Every number comes from the package: `generate`, `compute_score`, the estimators' `credit`, `guarded_advantages`,
`Stages`. What is written here is what verl does around them: the order of the questions, overlong shaping, refills,
the clipped token-mean loss and AdamW. `tests/studies` holds one step against verl's own.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.diversity import guarded_advantages, normalise, pattern_statistics
from cinema_verl.reward import compute_score
from cinema_verl.schedule import Stages
from cinema_verl.training.estimators import Credit
from cinema_verl.utils.stable_random import stable_hash
from studies.dps.policy import Prompt, Sampled, StudyPolicy
from studies.dps.testbed import index_of

GROUP: Final = 8  # rollout.n, recipe cinema_cpu
PROMPTS: Final = 8  # data.train_batch_size, recipe cinema_cpu
LR: Final = 3e-4  # recipe cinema_cpu
WARMUP: Final = 5  # recipe cinema_cpu
CLIP: Final = (0.2, 0.28)  # recipe cinema
GRAD_CLIP: Final = 1.0  # recipe cinema
MOST_AT_ONCE: Final = 2  # algorithm.filter_groups.max_inflight_gen_batches, recipe cinema
MOST_BATCHES: Final = 6  # algorithm.filter_groups.max_num_gen_batches, recipe cinema_cpu
OVERLONG_SHARE: Final = 0.25  # of the limit, as in both recipes
OVERLONG_FACTOR: Final = 0.5  # recipe cinema


@dataclass(frozen=True)
class Trajectory:
    """A scored response of one question."""

    question: DigitsQuestion
    prompt: Prompt
    sampled: Sampled
    acc: float
    well_formed: float
    pattern: str
    reward: float


@dataclass(frozen=True)
class Settings:
    """What tells one arm from another.

    Attributes:
        stages: coefficient and filter at every step.
        credit: from rewards to credited rewards (`cinema_verl.training.estimators`).
        guard: `cinema.term_guard`.
        normalise: whether credited rewards are normalised within the group, or are the advantages.
        prompt_mode: of the reward: under "cinema_without_ACTION" that action breaks the format rule.
    """

    stages: Stages
    credit: Credit
    guard: str = "none"
    normalise: bool = True
    prompt_mode: str | None = None


def score(question: DigitsQuestion, sampled: Sampled, prompt_mode: str | None = None) -> dict[str, Any]:
    """The package's reward of a response."""
    problem = question.problem
    described = {
        "uid": question.uid,
        "answer_type": problem.answer_type,
        "num_images": len(question.images),
        "options_json": json.dumps(problem.options),
        "aliases_json": json.dumps(problem.aliases),
    }
    source = f"dps/{question.task.name}"
    return compute_score(source, sampled.text, problem.answer, described, prompt_mode=prompt_mode)


def overlong(length: int, limit: int) -> float:
    """What overlong shaping adds, <= 0: verl's `DAPORewardManager` with the recipes' settings."""
    buffer = int(limit * OVERLONG_SHARE)
    return min(-(length - (limit - buffer)) / buffer * OVERLONG_FACTOR, 0.0)


def roll_out(
    policy: StudyPolicy,
    questions: Sequence[DigitsQuestion],
    seed: int,
    step: int,
    count: int,
    limit: int,
    prompt_mode: str | None = None,
) -> list[Trajectory]:
    """`count` trajectories of each question, one question after the other."""
    prompts = [policy.prompt(question) for question in questions]
    repeated = [(question, prompt) for question, prompt in zip(questions, prompts, strict=True) for _ in range(count)]
    # As `cinema_verl.training.agent_loop` seeds a trajectory.
    seeds = [
        stable_hash(seed, step, question.uid, index_of(question), session) >> 1
        for question in questions
        for session in range(count)
    ]
    sampled = policy.sample([prompt for _, prompt in repeated], seeds, limit)
    made = []
    for (question, prompt), response in zip(repeated, sampled, strict=True):
        scored = score(question, response, prompt_mode)
        reward = float(scored["score"]) + overlong(len(response.ids), limit)
        made.append(Trajectory(question, prompt, response, scored["acc"], scored["format"], scored["pattern"], reward))
    return made


def advantages(trajectories: Sequence[Trajectory], settings: Settings, step: int) -> tuple[np.ndarray, float]:
    """Advantages (B,) at a global step, and the share of them that the scheme changed, as the estimator logs it."""
    rewards = np.array([each.reward for each in trajectories])
    acc = np.array([each.acc for each in trajectories])
    patterns = np.array([each.pattern for each in trajectories], dtype=object)
    groups = np.array([each.question.uid for each in trajectories], dtype=object)
    coefficient = settings.stages.coefficient(step)
    credited = settings.credit(rewards.copy(), acc, patterns, groups, coefficient)
    changed = credited
    if settings.normalise:
        changed = guarded_advantages(
            rewards, credited, acc, groups.tolist(), by_std=True, guard=settings.guard, coefficient=coefficient
        )
    changed = np.where(np.abs(changed) < 1e-9, 0.0, changed)
    total = np.abs(changed).sum()
    without = normalise(rewards, groups.tolist(), by_std=True)
    return changed, float(np.abs(changed - without).sum() / total) if total else 0.0


@dataclass
class Learner:
    """A policy in training: one call of `step` is one global step.

    Attributes:
        policy: is changed in place.
        settings: of the arm.
        questions: from a place in the order of training to the question there; refills go on in it, too.
        seed: of the rollouts.
        limit: most tokens of a response.
        watch: is told the trajectories and advantages of every step.
    """

    policy: StudyPolicy
    settings: Settings
    questions: Callable[[int], DigitsQuestion]
    seed: int
    limit: int
    global_step: int = 0
    generated: int = 0  # groups, and so the place in the order
    watch: Callable[[Sequence[Trajectory], np.ndarray], object] = lambda batch, advantage: None
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=LR, weight_decay=0.0)

    def state(self) -> dict[str, Any]:
        """All that a step depends on, copied."""
        return copy.deepcopy(
            {
                "model": self.policy.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "global_step": self.global_step,
                "generated": self.generated,
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.policy.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.global_step, self.generated = state["global_step"], state["generated"]

    def step(self) -> dict[str, float]:
        """Sample, score, filter, weigh and update once; returns what was measured."""
        self.global_step += 1
        batch, drawn, kept = self._batch()
        advantage, share = advantages(batch, self.settings, self.global_step)
        for group in self.optimizer.param_groups:
            group["lr"] = LR * min(1.0, (self.global_step - 1) / WARMUP)
        self.watch(batch, advantage)
        measured = update(self.policy, self.optimizer, batch, advantage)
        statistics = pattern_statistics([t.pattern for t in batch], [t.question.uid for t in batch])
        return {
            "step": self.global_step,
            "groups": drawn,
            "kept": kept,
            "reward": float(np.mean([t.reward for t in batch])),
            "acc": float(np.mean([t.acc for t in batch])),
            "format": float(np.mean([t.well_formed for t in batch])),
            "share": share,
            "group_pattern_entropy": statistics["pattern_entropy"],
            **measured,
        }

    def _batch(self) -> tuple[list[Trajectory], int, int]:
        """The trajectories of a step, how many groups were drawn for them, and how many of them the filter kept."""
        filtered = self.settings.stages.at(self.global_step).filter is not None
        kept: list[list[Trajectory]] = []
        drawn, ask = 0, PROMPTS
        while ask > 0:
            asked = [self.questions(self.generated + place) for place in range(ask)]
            rolled = roll_out(
                self.policy, asked, self.seed, self.global_step, GROUP, self.limit, self.settings.prompt_mode
            )
            drawn, self.generated = drawn + ask, self.generated + ask
            groups = [rolled[start : start + GROUP] for start in range(0, len(rolled), GROUP)]
            kept += [group for group in groups if not filtered or 0 < sum(each.acc for each in group) < GROUP]
            # As `cinema_verl.training.dynamic_sampling` refills: two for every one that is missing, within the bounds.
            ask = min(2 * (PROMPTS - len(kept)), MOST_AT_ONCE * PROMPTS, MOST_BATCHES * PROMPTS - drawn)
        if not kept:
            raise RuntimeError(f"step {self.global_step}: none of {drawn} groups had an accuracy difference")
        used = kept[:PROMPTS]
        return [each for group in used for each in group], drawn, len(used)


def update(
    policy: StudyPolicy, optimizer: torch.optim.Optimizer, batch: Sequence[Trajectory], advantage: np.ndarray
) -> dict[str, float]:
    """One update with the clipped token-mean loss; returns loss, gradient norm (before clipping) and entropy (nats)."""
    log_probs, entropy, mask = policy.log_probs([t.prompt for t in batch], [t.sampled.ids for t in batch])
    # One update a step: the policy that sampled is the policy that is updated.
    ratio = (log_probs - log_probs.detach()).exp()
    weight = torch.as_tensor(advantage, dtype=torch.float32).unsqueeze(1)
    lost = torch.maximum(-weight * ratio, -weight * ratio.clamp(1 - CLIP[0], 1 + CLIP[1]))
    loss = (lost * mask).sum() / mask.sum()
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), GRAD_CLIP)
    if not math.isfinite(float(norm)):
        raise FloatingPointError(f"the gradient norm is {float(norm)}")
    optimizer.step()
    return {
        "loss": float(loss.detach()),
        "grad_norm": float(norm),
        "entropy": float((entropy * mask).sum() / mask.sum()),
    }


def in_order(questions: Sequence[DigitsQuestion], seed: int) -> Callable[[int], DigitsQuestion]:
    """From a place to a question: every epoch has each question once, in an order of its own."""
    orders: dict[int, np.ndarray] = {}

    def at(place: int) -> DigitsQuestion:
        epoch, within = divmod(place, len(questions))
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(len(questions))
        return questions[int(orders[epoch][within])]

    return at
