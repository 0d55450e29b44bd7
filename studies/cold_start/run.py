"""Run the arms: a cold start each, and from some of them the recipe's two stages; a record as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from cinema_verl.demo.digit_images import load_pools
from cinema_verl.demo.digits import DigitsQuestion
from cinema_verl.utils.files import sha256_of
from studies.cold_start import data
from studies.cold_start.prepare import SAMPLES, backbone, second_paths
from studies.cold_start.sft import fine_tune
from studies.dps import arms, records
from studies.dps.loop import Learner, in_order
from studies.dps.measure import measure
from studies.dps.policy import StudyPolicy
from studies.dps.prepare import Pictures
from studies.dps.testbed import RESPONSE, Sets, sets

SEEDS: Final = tuple(range(1, 7))
RL_SEEDS: Final = SEEDS[:4]
RL_ARMS: Final = ("least_similar", "one_path", "chain_of_thought", "habit_two", "habit_one")
RL: Final = "/rl"
"""Ends the name of a unit that trains an arm's cold-started policy further."""
FILE: Final = "records-0.jsonl"


@dataclass
class Bench:
    """What the units share.

    Attributes:
        output: the folder of the study.
        drawn: the testbed's questions.
        questions, seconds: of the cold start.
        policy: to train, again and again.
        start: the backbone's weights.
        digest: of the backbone's file.
        done: the records that are there already, by unit and seed.
    """

    output: Path
    drawn: Sets
    questions: Sequence[DigitsQuestion]
    seconds: data.Seconds
    policy: StudyPolicy
    start: dict[str, torch.Tensor]
    digest: str
    done: Mapping[tuple[str, int], dict[str, Any]]

    @classmethod
    def open(cls, output: Path) -> Bench:
        """From what `prepare` left in a folder, with the records there.

        Raises:
            OtherPolicy: if they began from another backbone.
        """
        pools, directory = load_pools(), backbone(output)
        policy, digest = StudyPolicy(directory, Pictures(pools)), sha256_of(directory / "model.safetensors")
        start = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
        done = records.done(output / FILE, digest)
        return cls(output, sets(pools), data.draw(pools)[1], second_paths(output), policy, start, digest, done)

    def weights(self, arm: str, seed: int) -> Path:
        """Where an arm's cold-started policy is kept."""
        return self.output / "cold_started" / f"{arm}-{seed}.pt"

    def measured(self) -> dict[str, Any]:
        """The policy as it is, on the held-out questions."""
        return measure(self.policy, self.drawn.test, RESPONSE, SAMPLES)


def cold_start(bench: Bench, arm: str, seed: int) -> dict[str, Any]:
    """Fine-tune the backbone on an arm's rows."""
    bench.policy.model.load_state_dict(bench.start)
    made = data.rows(arm, bench.questions, bench.seconds, seed)
    loss = fine_tune(bench.policy, made)
    file = bench.weights(arm, seed)
    file.parent.mkdir(exist_ok=True)
    torch.save(bench.policy.model.state_dict(), file)
    return {"cold_start": bench.measured(), "loss": loss, "rows": data.path_shares(made)}


def reinforce(bench: Bench, arm: str, seed: int) -> dict[str, Any]:
    """Train an arm's cold-started policy with recipe `cinema_cpu`'s two stages: the other study's arm `two_stages`."""
    if not bench.weights(arm, seed).exists():  # the folder was moved without them
        cold_start(bench, arm, seed)
    bench.policy.model.load_state_dict(torch.load(bench.weights(arm, seed), weights_only=True))
    learner = Learner(bench.policy, arms.ARMS["two_stages"], in_order(bench.drawn.train, seed), seed, RESPONSE)
    curve = []
    while learner.global_step < arms.STEPS:
        step = learner.step()
        curve.append({name: round(step[name], 4) for name in ("acc", "format", "group_pattern_entropy", "share")})
    return {"end": bench.measured(), "generated": learner.generated, "curve": curve}


def trained(bench: Bench, unit: str, seed: int) -> dict[str, Any]:
    """What a unit finds, by its arm."""
    arm = unit.removesuffix(RL)
    return {arm: reinforce(bench, arm, seed) if unit.endswith(RL) else cold_start(bench, arm, seed)}


def units(seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Units with their seeds in the order in which they are run: what most depends on first."""
    first, rest = [s for s in seeds if s in RL_SEEDS], [s for s in seeds if s not in RL_SEEDS]
    compared = [arm for arm in data.ARMS if arm != "one_path_more_questions"]
    yield from ((arm, seed) for seed in first for arm in compared)
    yield from ((arm + RL, seed) for seed in first for arm in RL_ARMS)
    yield from ((arm, seed) for seed in rest for arm in compared)
    yield from (("one_path_more_questions", seed) for seed in seeds)


def run(output: Path, seeds: Sequence[int]) -> None:
    """Every unit but those whose record is there."""
    torch.set_num_threads(1)
    bench = Bench.open(output)
    left = [each for each in units(seeds) if each not in bench.done]
    print(f"{len(left)} runs to do", flush=True)
    for number, (unit, seed) in enumerate(left, 1):
        record = records.of_unit(unit, seed, bench.digest, partial(trained, bench, unit, seed))
        records.append(output / FILE, record)
        print(f"{number}/{len(left)} seed {seed} {unit}: {record['seconds']:.0f} s", flush=True)
