"""What repeating actions could earn under each pattern mode, on groups that a trained policy sampled: docs/verifier.md.

python -m cinema_verl.demo.digits                      # once: the questions
python benchmarks/pattern_padding.py --data outputs/digits/test.parquet
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cinema_verl.diversity import diversity_penalty, group_rewards, normalise, pattern_statistics
from cinema_verl.meta_action import PATTERN_MODES, pattern_in_mode

GROUP = 8
COEFFICIENT = 0.1  # the paper's
POLICY = Path(__file__).parents[1] / "cinema_verl/demo/digits_cold_start"


def padded(pattern: str, how: str) -> str:
    """The cheapest padding: the first action again, at once or as a detour over a second one."""
    first, _, rest = pattern.partition(">")
    if how == "the same again":
        return f"{first}>{first}>{rest}"
    second = "think" if first != "think" else "focus"
    return f"{first}>{second}>{first}>{rest}" if rest else pattern


def best_gain(
    acc: np.ndarray, fmt: np.ndarray, patterns: list[str], groups: list[int], mode: str, how: str
) -> np.ndarray:
    """For each correct and well-formed trajectory: the advantage that it alone would gain by padding once."""
    before = normalise(group_rewards(acc, fmt, in_mode(patterns, mode), groups, COEFFICIENT), groups, by_std=True)
    gains = []
    for i in np.flatnonzero((acc == 1) & (fmt == 1)):
        changed = [*patterns[:i], padded(patterns[i], how), *patterns[i + 1 :]]
        after = normalise(group_rewards(acc, fmt, in_mode(changed, mode), groups, COEFFICIENT), groups, by_std=True)
        gains.append(after[i] - before[i])
    return np.array(gains)


def in_mode(patterns: list[str], mode: str) -> list[str]:
    return [pattern_in_mode(pattern, mode) for pattern in patterns]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=60)
    arguments = parser.parse_args()

    import torch

    from cinema_verl.demo.measure import PlainPolicy
    from cinema_verl.reward import compute_score

    torch.manual_seed(0)
    table = pq.read_table(arguments.data).to_pylist()
    rows = [
        row for row in table[:: max(1, len(table) // arguments.questions)][: arguments.questions] for _ in range(GROUP)
    ]
    policy = PlainPolicy(POLICY)
    scores = []
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        for row, text in zip(batch, policy.answer(batch, max_tokens=64, sample=True), strict=True):
            scores.append(compute_score("digits", text, row["reward_model"]["ground_truth"], row["extra_info"]))
    acc, fmt = (np.array([float(score[key]) for score in scores]) for key in ("acc", "format"))
    groups = [i // GROUP for i in range(len(rows))]
    correct = acc.reshape(-1, GROUP).mean(axis=1)
    # Dynamic sampling drops the others: in an all-correct group the term would be the whole advantage.
    kept = np.flatnonzero(np.repeat((correct > 0) & (correct < 1), GROUP))
    patterns = [str(scores[i]["pattern"]) for i in kept]
    acc, fmt, groups = acc[kept], fmt[kept], [groups[i] for i in kept]
    print(f"{len(kept) // GROUP} mixed groups of {GROUP}, acc {acc.mean():.2f}, c = {COEFFICIENT}")
    for mode in PATTERN_MODES:
        unique = pattern_statistics(in_mode(patterns, mode), groups)["unique_patterns"]
        lost = COEFFICIENT * diversity_penalty(acc, in_mode(patterns, mode), groups)[(acc == 1) & (fmt == 1)]
        line = (
            f"  {mode:10s} unique {unique:.2f}   penalty of a correct answer {lost.mean():.4f} (max {lost.max():.4f})"
        )
        for how in ("the same again", "by a detour"):
            gains = best_gain(acc, fmt, patterns, groups, mode, how)
            line += f"   advantage gained, {how}: {gains.mean():+.4f}"
        print(line)


if __name__ == "__main__":
    main()
