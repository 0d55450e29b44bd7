"""Run the arms: every seed's arms one after the other, each record on the disk as soon as it is known."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from cinema_verl.demo.digit_images import load_pools
from studies.dps import records
from studies.dps.arms import ARMS, EXPLORATION, REPLICATION, STEPS, family_of, seeds_of
from studies.dps.loop import Learner, in_order
from studies.dps.measure import SAMPLES, measure
from studies.dps.policy import StudyPolicy
from studies.dps.prepare import open_policy, policy_digest
from studies.dps.testbed import RESPONSE, Sets, sets

PATH: Final = (10, 20, 30, 40)
"""Steps at which the DAPO arm is measured besides, for its path from the cold start to its end."""


@dataclass
class Bench:
    """What the arms of a process share.

    Attributes:
        drawn: the questions.
        policy: to train, again and again.
        start: its weights at the start.
        digest: of the weights' file.
        file: of this process's records.
        done: the records that are there already, by unit and seed.
    """

    drawn: Sets
    policy: StudyPolicy
    start: dict[str, torch.Tensor]
    digest: str
    file: Path
    done: dict[tuple[str, int], dict[str, Any]]

    @classmethod
    def open(cls, file: Path) -> Bench:
        """With the records that there are beside its file, of all processes.

        Raises:
            OtherPolicy: if they began from other weights.
        """
        pools, digest = load_pools(), policy_digest()
        policy = open_policy(pools)
        start = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
        return cls(sets(pools), policy, start, digest, file, records.done(file, digest))

    def learner(self, arm: str, seed: int) -> Learner:
        """At step 0 of an arm."""
        self.policy.model.load_state_dict(self.start)
        return Learner(self.policy, ARMS[arm], in_order(self.drawn.train, seed), seed, RESPONSE)

    def measured(self, learner: Learner, briefly: bool = False) -> dict[str, Any]:
        """The policy as it is, on the held-out questions; `briefly`, with half of the samples."""
        found = measure(learner.policy, self.drawn.test, RESPONSE, SAMPLES // 2 if briefly else SAMPLES)
        return {"step": learner.global_step, "generated": learner.generated, **found}


def _train(learner: Learner, steps: int, curve: list[dict[str, float]], watch: Callable[[], object] = int) -> None:
    while learner.global_step < steps:
        curve.append({name: round(value, 6) for name, value in learner.step().items()})
        watch()


def two_stages(bench: Bench, seed: int) -> dict[str, Any]:
    """The arm of that name, and `dps`, whose first stage is the same."""
    learner, curve = bench.learner("two_stages", seed), list[dict[str, float]]()
    _train(learner, EXPLORATION, curve)
    explored, state, beginning = bench.measured(learner), learner.state(), list(curve)
    _train(learner, STEPS, curve)
    first = {"exploration": explored, "end": bench.measured(learner), "curve": curve}
    learner = bench.learner("dps", seed)
    learner.restore(state)
    _train(learner, STEPS, beginning)
    return {"two_stages": first, "dps": {"exploration": explored, "end": bench.measured(learner), "curve": beginning}}


def dapo(bench: Bench, seed: int) -> dict[str, Any]:
    """The arm of that name, measured on its way, and where it has generated as many groups as `two_stages` did in all.

    Raises:
        ValueError: if there is no record of `two_stages` with this seed.
    """
    if ("two_stages", seed) not in bench.done:
        raise ValueError(f"dapo stops at the groups of two_stages, which has not run with seed {seed}: run it first")
    return _dapo(bench, seed, bench.done["two_stages", seed]["arms"]["two_stages"]["end"]["generated"])


def replication(bench: Bench, seed: int) -> dict[str, Any]:
    """`novelty`, and DAPO with its path."""
    return _dapo(bench, seed, math.inf) | any_arm(bench, "novelty", seed)


def _dapo(bench: Bench, seed: int, stop_at: float) -> dict[str, Any]:
    learner, curve, path = bench.learner("dapo", seed), list[dict[str, float]](), list[dict[str, Any]]()
    found: dict[str, Any] = {}

    def watch() -> None:
        if learner.generated >= stop_at and "stopped" not in found:
            found["stopped"] = bench.measured(learner)
        if learner.global_step in PATH:
            path.append(bench.measured(learner, briefly=True))

    _train(learner, EXPLORATION, curve, watch)
    found["exploration"] = bench.measured(learner)
    _train(learner, STEPS, curve, watch)
    return {"dapo": found | {"end": bench.measured(learner), "path": path, "curve": curve}}


def any_arm(bench: Bench, arm: str, seed: int) -> dict[str, Any]:
    """An arm that has no more to it than its settings."""
    learner, curve = bench.learner(arm, seed), list[dict[str, float]]()
    _train(learner, EXPLORATION, curve)
    explored = bench.measured(learner)
    _train(learner, STEPS, curve)
    return {arm: {"exploration": explored, "end": bench.measured(learner), "curve": curve}}


def run_unit(bench: Bench, unit: str, seed: int) -> None:
    """Train and measure what belongs together; one record, when it has ended."""
    special = {"two_stages": two_stages, "dapo": dapo, REPLICATION: replication}
    train = partial(special[unit], bench, seed) if unit in special else partial(any_arm, bench, unit, seed)
    record = records.of_unit(unit, seed, bench.digest, train)
    records.append(bench.file, record)
    bench.done[unit, seed] = record


def run(output: Path, seeds: Sequence[int], units: Sequence[str], shard: tuple[int, int]) -> None:
    """Every unit with those of the seeds that are its own, in the `shard[0]`-th of `shard[1]` parts of them.

    What has a record is not done again.
    """
    torch.set_num_threads(1)
    bench = Bench.open(output / f"records-{shard[0]}.jsonl")
    own = [seed for seed in seeds if seed % shard[1] == shard[0]]
    mine = [(seed, unit) for seed in own for unit in units if seed in seeds_of(unit)]
    mine.sort(key=lambda each: family_of(each[1]))
    left = [each for each in mine if (each[1], each[0]) not in bench.done]
    print(f"part {shard[0] + 1} of {shard[1]}: {len(left)} of {len(mine)} runs to do", flush=True)
    for number, (seed, unit) in enumerate(left, 1):
        begun = time.time()
        run_unit(bench, unit, seed)
        print(f"{number}/{len(left)} seed {seed} {unit}: {time.time() - begun:.0f} s", flush=True)


def run_side_by_side(output: Path, seeds: Sequence[int], units: Sequence[str], processes: int) -> int:
    """`run` in so many processes; the first exit code that is not 0."""
    command = [sys.executable, "-m", "studies.dps", "run", "--output", str(output), "--seeds", *map(str, seeds)]
    started = [
        subprocess.Popen([*command, "--units", *units, "--shard", f"{index}/{processes}"]) for index in range(processes)
    ]
    return next((code for code in [each.wait() for each in started] if code), 0)
