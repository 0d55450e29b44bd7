"""The diversity term's share of the advantage, by how many groups are all correct, under each guard: docs/paper.md.

python benchmarks/term_guards.py
"""

import numpy as np

from cinema_verl.diversity import GUARDS, group_rewards, guarded_advantages, normalise

G, GROUPS, SEED = 8, 4000, 0
PATTERNS = (0.4, 0.25, 0.2, 0.1, 0.05)
"""Shares of five patterns, 1.05 nats in a group of eight; accuracy does not depend on them."""


def batch(all_correct: float, rng: np.random.Generator) -> tuple[np.ndarray, list[str], list[int]]:
    """Accuracies, patterns and group ids; the groups that are not all correct have 1 to 7 correct answers."""
    correct = np.where(rng.random(GROUPS) < all_correct, G, rng.integers(1, G, GROUPS))
    acc = (np.arange(G) < correct[:, None]).astype(float).ravel()
    patterns = [str(code) for code in rng.choice(len(PATTERNS), GROUPS * G, p=PATTERNS)]
    return acc, patterns, np.repeat(np.arange(GROUPS), G).tolist()


def share(acc: np.ndarray, patterns: list[str], ids: list[int], guard: str, coefficient: float) -> float:
    """As `cinema/diversity_advantage_share` measures it: what the term changes, of all there is."""
    fmt = np.ones(len(acc))
    rewards = group_rewards(acc, fmt, patterns, ids, 0.0)
    credited = group_rewards(acc, fmt, patterns, ids, coefficient)
    advantages = guarded_advantages(rewards, credited, acc, ids, by_std=True, guard=guard, coefficient=coefficient)
    return float(np.abs(advantages - normalise(rewards, ids, by_std=True)).sum() / np.abs(advantages).sum())


def main() -> None:
    print(f"{GROUPS} groups of {G}, seed {SEED}; share of the advantage that is the term's\n")
    print("| groups that are all correct | coefficient | " + " | ".join(f"`{guard}`" for guard in GUARDS) + " |")
    print("| --- | --- |" + " --- |" * len(GUARDS))
    for all_correct in (0.0, 0.3, 0.6, 0.9):
        made = batch(all_correct, np.random.default_rng(SEED))
        for coefficient in (0.1, 0.01):
            cells = [f"{share(*made, guard, coefficient):.1%}".replace("%", " %") for guard in GUARDS]
            print(f"| {all_correct:.0%} | {coefficient:g} | ".replace("%", " %") + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
