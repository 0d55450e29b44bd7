"""Says while a run trains that it is not doing what its stage is for.

An exploration stage is one whose coefficient stays above zero: there the term is to shape the advantage, and patterns
are to stay varied. The bounds are our choice. On the digits, exploration with the term and without the filter has a
share of 34 % and keeps 86 % of the cold start's pattern entropy; without the term 31 % are left, and under the filter
the share is 2 %. The bounds lie between.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from cinema_verl.schedule import Stage, Stages

LEAST_SHARE: Final = 0.05
LEAST_ENTROPY: Final = 0.5
"""Of what a stage's first steps had."""
FIRST: Final = 5
WINDOW: Final = 10
"""Steps that are averaged: at a stage's beginning, and whenever one is judged."""


class StageWatch:
    """Looks at each step's metrics, in order.

    Args:
        stages: of the run.
        share: name of the metric with the term's share of the advantage; None for an estimator without a term (grpo),
            with which no stage explores.
    """

    def __init__(self, stages: Stages, share: str | None) -> None:
        self.stages, self.share = stages, share
        self._begin(None)

    def _begin(self, stage: Stage | None) -> None:
        """Nothing is known of a stage when it begins; none comes back."""
        self._stage = stage
        self._first: list[float] = []
        self._entropy: deque[float] = deque(maxlen=WINDOW)
        self._shares: deque[float] = deque(maxlen=WINDOW)
        self._said: set[str] = set()

    def look(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """What is to be said after a step; each thing once a stage, a step that trains nothing every time.

        Args:
            step: the global step, from 1.
            metrics: as they are logged; what a step lacks is not judged.
        """
        stage = self.stages.at(step)
        if stage != self._stage:
            self._begin(stage)
        found = []
        if metrics.get("cinema/groups_without_advantage") == 1:
            found.append(
                f"step {step}, stage {stage.name}: no trajectory has an advantage, so nothing is learnt: every group "
                "is all alike in reward and patterns. Harder or more varied questions, or a filter that looks for "
                f"others (cinema.stages.{stage.name}.filter=acc)"
            )
        if self.share is not None and stage.coefficient > 0 and stage.shape == "constant":
            found += self._low_share(step, stage, metrics.get(self.share))
            found += self._falling_entropy(step, stage, metrics.get("cinema/pattern_entropy"))
        return found

    def _low_share(self, step: int, stage: Stage, share: float | None) -> list[str]:
        if share is None:
            return []
        self._shares.append(share)
        mean = sum(self._shares) / len(self._shares)
        if len(self._shares) < WINDOW or mean >= LEAST_SHARE or not self._once("share"):
            return []
        keep = f"; the filter drops the groups in which it acts most: cinema.stages.{stage.name}.filter=null keeps them"
        return [
            f"step {step}, stage {stage.name}: the diversity term is {mean:.1%} of the advantage ({self.share}, mean "
            f"of {WINDOW} steps), so this stage trains much as it would without it{keep if stage.filter else ''}"
        ]

    def _falling_entropy(self, step: int, stage: Stage, entropy: float | None) -> list[str]:
        if entropy is None:
            return []
        if len(self._first) < FIRST:
            self._first.append(entropy)
        self._entropy.append(entropy)
        start, mean = sum(self._first) / len(self._first), sum(self._entropy) / len(self._entropy)
        if len(self._entropy) < WINDOW or mean >= LEAST_ENTROPY * start or not self._once("entropy"):
            return []
        return [
            f"step {step}, stage {stage.name}: pattern entropy fell from {start:.2f} to {mean:.2f} nats, faster than "
            f"where the term acts: look at its share of the advantage ({self.share}) and at "
            "cinema/dynamic_sampling/solve_all"
        ]

    def _once(self, what: str) -> bool:
        new = what not in self._said
        self._said.add(what)
        return new
