"""The diversity term's share of the advantage, in a mixed and in an all-correct group: the table in docs/paper.md.

python benchmarks/diversity_share.py
"""

import numpy as np

from cinema_verl.diversity import group_rewards, normalise

GROUPS = {
    "5 correct, 3 incorrect": ([1, 1, 1, 1, 1, 0, 0, 0], "aaabcabd"),
    "all 8 correct": ([1] * 8, "aaabcaab"),
}


def main() -> None:
    for name, (acc, patterns) in GROUPS.items():
        fmt, ids = [1.0] * 8, [0] * 8
        for by_std in (True, False):
            with_term = normalise(group_rewards(acc, fmt, list(patterns), ids, 0.1), ids, by_std)
            without = normalise(group_rewards(acc, fmt, list(patterns), ids, 0.0), ids, by_std)
            share = np.abs(with_term - without).sum() / np.abs(with_term).sum()
            common, rare = with_term[0], with_term[3]
            print(f"{name:18s} by_std={by_std!s:5s}  common {common:+.3f}  rare {rare:+.3f}  share {share:.3f}")


if __name__ == "__main__":
    main()
