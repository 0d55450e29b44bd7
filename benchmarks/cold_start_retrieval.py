"""What does the search of retrieval cost beside the embedding? A sample with a real encoder, extrapolated.

    python benchmarks/cold_start_retrieval.py [--questions 24] [--encoder packaged]

Made-up trajectories of some 300 tokens, eight a question, are embedded and searched as `cinema-verl cold-start` does
it. The table gives seconds a question as measured, and hours for 57,000 questions as *extrapolated* from the sample:
both costs are linear in the number of questions, for no question looks at another. A larger encoder makes the
embedding slower and the search no dearer (but for the width of its vectors).
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np

from cinema_verl.cold_start.retrieval import PACKAGED_ENCODER, SIMILARITIES, Encoder, embed, walk
from cinema_verl.cold_start.tree import SampledTrajectory
from cinema_verl.meta_action import parse

PAPER = 57_000  # questions of the paper's cold start
TRAJECTORIES = 8
WORDS = 70  # of an action, three actions a trajectory: some 300 tokens
VOCABULARY = (
    "image first second third shows red blue cube sphere left right above below table person holding counting compare "
    "difference because therefore answer option larger smaller frame before after same colour shape number total "
    "question asks carefully notice background object moves"
)
PATHS = ("focus hint think", "hint focus think", "global focus think", "think hint think")


def trajectories(rng: random.Random) -> list[SampledTrajectory]:
    """One question's samples: some incorrect, some on the refined path."""
    samples = []
    for number in range(TRAJECTORIES):
        path = PATHS[0] if number == 0 else rng.choice(PATHS)
        bodies = (" ".join(rng.choices(VOCABULARY.split(), k=WORDS)) for _ in range(3))
        actions = "".join(f"<{name}>{body}</{name}>" for name, body in zip(path.split(), bodies, strict=True))
        text = f"{actions}<answer>B</answer>"
        samples.append(SampledTrajectory(str(number), text, parse(text), (), number == 0 or rng.random() < 0.6))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24, help="of the sample; %(default)s")
    parser.add_argument("--encoder", default=PACKAGED_ENCODER, help="as of cinema-verl cold-start; %(default)s")
    options = parser.parse_args()
    rng = random.Random(0)
    questions = [trajectories(rng) for _ in range(options.questions)]
    encoder = Encoder(options.encoder)
    tokens = [len(encoder._tokenizer(sample.text)["input_ids"]) for sample in questions[0]]
    print(f"{len(questions)} questions, {TRAJECTORIES} trajectories each, {np.mean(tokens):.0f} tokens a trajectory")
    print(f"\n{'similarity':<10}  {'embedding':>12}  {'search':>12}  {'share':>7}  {PAPER:>8,} questions, extrapolated")
    for similarity in SIMILARITIES:
        embed(questions[0], encoder, similarity)  # what is made at the first use is not counted
        embedding, searching = [], []
        for samples in questions:
            started = time.perf_counter()
            vectors = embed(samples, encoder, similarity)
            embedded = time.perf_counter()
            walk(samples, 0, vectors)
            searching.append(time.perf_counter() - embedded)
            embedding.append(embedded - started)
        # Medians: on a busy machine one interruption is longer than all searches together.
        embed_s, walk_s = float(np.median(embedding)), float(np.median(searching))
        print(
            f"{similarity:<10}  {embed_s * 1e3:>9.2f} ms  {walk_s * 1e3:>9.3f} ms  {walk_s / embed_s:>7.3%}"
            f"  {embed_s * PAPER / 3600:>8.1f} h embedding, {walk_s * PAPER / 60:.1f} min search"
        )


if __name__ == "__main__":
    main()
