"""Supervised fine-tuning of the small policy in one process, with recipe `cinema_cold_start_cpu`'s values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch

from studies.cold_start.data import Row
from studies.dps.policy import StudyPolicy

BATCH: Final = 16  # data.train_batch_size
LR: Final = 2e-3  # optim.lr
BETAS: Final = (0.9, 0.98)  # optim.betas
WEIGHT_DECAY: Final = 0.05  # optim.weight_decay
GRAD_CLIP: Final = 1.0  # optim.clip_grad
WARMUP: Final = 60  # optim.lr_warmup_steps; our choice: at most a fifth of the steps, as some runs are short


def rate(step: int, steps: int) -> float:
    """The share of `LR` at a step from 0 on: a linear rise, then half a cosine down to 0."""
    warmup = min(WARMUP, steps // 5)
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fine_tune(
    policy: StudyPolicy, made: Sequence[Row], watch: Callable[[int, float], object] = lambda step, loss: None
) -> float:
    """One epoch over the rows, in their order, with a token-mean loss; the policy is changed in place.

    Args:
        watch: Is told every step and its loss (nats).

    Returns:
        The mean loss of the last 20 steps (nats a token).

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    steps, losses = len(made) // BATCH, list[float]()
    for step in range(steps):
        part = made[step * BATCH : (step + 1) * BATCH]
        for group in optimizer.param_groups:
            group["lr"] = LR * rate(step, steps)
        responses = [policy.tokenizer(row.text)["input_ids"] for row in part]
        log_probs, _, mask = policy.log_probs([policy.prompt(row.question) for row in part], responses)
        loss = -(log_probs * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), GRAD_CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"step {step}: the loss is {losses[-1]}")
        watch(step, losses[-1])
    return sum(losses[-20:]) / len(losses[-20:])
