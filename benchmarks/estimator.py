"""What the diversity-preserving advantage costs: group rewards and `cinema_dps` beside verl's GRPO on the same tensors.

python benchmarks/estimator.py

4,096 trajectories of up to 1,024 tokens, 512 groups of 8. Medians in milliseconds; the ratio must stay below 1.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

from cinema_verl.diversity import group_rewards
from cinema_verl.training.advantage import GroupFeed, feed, group_estimator

TRAJECTORIES, TOKENS, GROUP = 4096, 1024, 8
PATTERNS = ("focus>answer", "focus>think>answer", "global>focus>think>answer", "hint>think>answer")
RUNS = 15
TARGET = 1.0


def median_ms(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> int:
    random = np.random.default_rng(0)
    acc = random.integers(0, 2, TRAJECTORIES).astype(float)
    fmt = (random.random(TRAJECTORIES) < 0.9).astype(float)
    patterns = random.choice(PATTERNS, TRAJECTORIES).tolist()
    uids = np.repeat([f"uid-{i}" for i in range(TRAJECTORIES // GROUP)], GROUP).astype(object)
    lengths = torch.as_tensor(random.integers(1, TOKENS + 1, TRAJECTORIES))
    mask = (torch.arange(TOKENS) < lengths.unsqueeze(1)).float()
    rewards = torch.zeros(TRAJECTORIES, TOKENS)
    rewards[torch.arange(TRAJECTORIES), lengths - 1] = torch.as_tensor(0.5 * acc + 0.5 * fmt, dtype=torch.float32)

    cinema_dps = group_estimator("cinema_dps")
    assert cinema_dps is not None

    def grpo() -> object:
        return compute_grpo_outcome_advantage(rewards, mask, uids)

    def cinema() -> object:
        group_rewards(acc, fmt, patterns, uids)
        padding = np.zeros(TRAJECTORIES, dtype=bool)
        with feed(GroupFeed(acc=acc, patterns=patterns, coefficient=0.1, padding=padding)):
            return cinema_dps(rewards, mask, uids)

    verls, ours = median_ms(grpo), median_ms(cinema)
    ratio = ours / verls
    print(f"{TRAJECTORIES} trajectories x {TOKENS} tokens, median of {RUNS} runs")
    print(f"verl grpo                   {verls:7.1f} ms")
    print(f"group rewards + cinema_dps  {ours:7.1f} ms")
    print(f"ratio                       {ratio:7.2f}    (target: below {TARGET:g})")
    return int(ratio >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
