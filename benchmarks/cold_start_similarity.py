"""Similarity over the words or over the names of the actions: what does retrieval choose by each?

    python -m cinema_verl.demo.cold_start --output outputs/cold_start     (or a run of your own)
    python benchmarks/cold_start_similarity.py outputs/cold_start/provenance.jsonl

The paper leaves open which one it means. Both walk over the very same samples here: what was sampled does not depend on
the similarity, only what is taken. Questions count that have at least two correct paths; it is a choice where there are
three.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from cinema_verl.cold_start.retrieval import PACKAGED_ENCODER, SIMILARITIES, Encoder, embed, walk
from cinema_verl.cold_start.tree import SampledTrajectory, pattern
from cinema_verl.meta_action import parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provenance", type=Path, help="provenance.jsonl of a run")
    parser.add_argument("--encoder", default=PACKAGED_ENCODER, help="as of cinema-verl cold-start; %(default)s")
    options = parser.parse_args()
    encoder = Encoder(options.encoder)
    chosen: dict[str, list[SampledTrajectory]] = {name: [] for name in SIMILARITIES}
    cosines: dict[str, list[float]] = {name: [] for name in SIMILARITIES}
    spread: dict[str, list[float]] = {name: [] for name in SIMILARITIES}
    before: dict[str, list[int]] = {name: [] for name in SIMILARITIES}
    choices = 0
    with open(options.provenance, encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["second"] is None:
                continue
            samples = [
                SampledTrajectory(each["origin"], each["text"], parse(each["text"]), (), each["correct"])
                for each in record["samples"]
                if each["usable"]
            ]
            origin = record["samples"][record["refined"]]["origin"]
            refined = next(i for i, sample in enumerate(samples) if sample.origin == origin)
            others = {sample.path for sample in samples if sample.correct} - {samples[refined].path}
            choices += len(others) > 1
            for similarity in SIMILARITIES:
                vectors = embed(samples, encoder, similarity)
                visits = walk(samples, refined, vectors)
                chosen[similarity].append(samples[visits[-1].index])
                cosines[similarity].append(visits[-1].similarity)
                before[similarity].append(len(visits) - 1)
                spread[similarity] += [float(c) for i, c in enumerate(vectors @ vectors[refined]) if i != refined]
    total = len(chosen["text"])
    pairs = list(zip(chosen["text"], chosen["actions"], strict=True))
    other = sum(a.path != b.path for a, b in pairs)
    print(f"{total} questions with a second path, {choices} with a choice of paths, {options.encoder} encoder")
    print(f"another path is chosen by words than by names: {other} ({other / max(choices, 1):.0%} of the choices)\n")
    rows: dict[str, list[str]] = {
        "cosine of the chosen: 10 / 50 / 90 %": [_deciles(cosines[name]) for name in SIMILARITIES],
        "cosine of all samples: 10 / 50 / 90 %": [_deciles(spread[name]) for name in SIMILARITIES],
        "samples passed over before it, mean": [f"{np.mean(before[name]):.2f}" for name in SIMILARITIES],
        "actions of the chosen, mean": [f"{np.mean([len(s.path) for s in chosen[name]]):.2f}" for name in SIMILARITIES],
        "characters of the chosen, mean": [
            f"{np.mean([len(s.text) for s in chosen[name]]):.0f}" for name in SIMILARITIES
        ],
        "different second paths": [str(len({s.path for s in chosen[name]})) for name in SIMILARITIES],
        "the commonest": [_commonest(chosen[name]) for name in SIMILARITIES],
    }
    print(f"{'':<38}" + "".join(f"{name:>28}" for name in SIMILARITIES))
    for title, values in rows.items():
        print(f"{title:<38}" + "".join(f"{value:>28}" for value in values))


def _deciles(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in np.percentile(values, [10, 50, 90]))


def _commonest(samples: list[SampledTrajectory]) -> str:
    path, count = Counter(sample.path for sample in samples).most_common(1)[0]
    return f"{pattern(path)} {count / len(samples):.0%}"


if __name__ == "__main__":
    main()
