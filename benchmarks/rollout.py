"""What batching brings: samples a second of the transformers rollout server, all requests at once and one at a time.

python benchmarks/rollout.py [--prompts 8] [--rollouts 8]

The cold-started policy of recipe cinema_cpu and digits questions (`outputs/digits`, or a few made for the purpose); the
same requests and seeds both ways, one process, one run. The ratio must be at least 5.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the recipe sets it for its workers

from hydra import compose, initialize_config_module
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.rollout.engine import TransformersServer
from cinema_verl.training.agent_loop import STOP, trajectory_seed

TARGET = 5.0


def questions(config: Any, server: TransformersServer, number: int) -> list[tuple[list[int], list[Any]]]:
    """(prompt ids, images) of the first questions of the training set."""
    folder = Path(config.data.train_files).parent
    with tempfile.TemporaryDirectory() as temporary:
        if not (folder / "train.parquet").exists():
            folder = Path(temporary)
            write_dataset(folder, Sizes(train=number, test=1, sft_train=1, sft_val=1))
        processor = server.model_config.processor
        rows = RLHFDataset(str(folder / "train.parquet"), processor.tokenizer, config.data, processor=processor)
        result = []
        for i in range(number):
            messages = rows[i]["raw_prompt"]
            images, _ = asyncio.run(
                RLHFDataset.process_vision_info(
                    messages, image_patch_size=processor.image_processor.patch_size, config=config.data
                )
            )
            prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            result.append((processor(text=[prompt], images=images)["input_ids"][0], images))
        return result


async def timed(work: Coroutine[Any, Any, list[TokenOutput]]) -> tuple[list[TokenOutput], float]:
    start = time.perf_counter()
    outputs = await work
    return outputs, time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help="questions; 8")
    parser.add_argument("--rollouts", type=int, default=8, help="trajectories a question; 8")
    arguments = parser.parse_args()

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu"])
    server = TransformersServer(
        omega_conf_to_dataclass(config.actor_rollout_ref.rollout), config.actor_rollout_ref.model
    )
    asked = questions(config, server, arguments.prompts)

    def requests() -> list[Coroutine[Any, Any, TokenOutput]]:
        return [
            server.generate(ids, {"stop": [STOP], "seed": trajectory_seed(i, j)}, f"{i}-{j}", image_data=images)
            for (i, (ids, images)), j in itertools.product(enumerate(asked), range(arguments.rollouts))
        ]

    async def together() -> list[TokenOutput]:
        return list(await asyncio.gather(*requests()))

    async def one_at_a_time() -> list[TokenOutput]:
        return [await request for request in requests()]

    async def measure() -> tuple[float, float]:
        await together()  # warm
        batched, fast = await timed(together())
        server.batcher.window = 0.0  # alone, waiting for company would only cost time
        alone, slow = await timed(one_at_a_time())
        same = sum(a.token_ids == b.token_ids for a, b in zip(batched, alone, strict=True))
        tokens = sum(len(output.token_ids) for output in batched)
        print(f"{len(batched)} samples, {tokens} tokens; {same} of {len(batched)} token for token the same both ways")
        return len(batched) / fast, len(alone) / slow

    batched, alone = asyncio.run(measure())
    print(f"one at a time  {alone:7.1f} samples/s")
    print(f"batched        {batched:7.1f} samples/s")
    print(f"ratio          {batched / alone:7.1f}    (target: at least {TARGET:g})")
    return int(batched / alone < TARGET)


if __name__ == "__main__":
    sys.exit(main())
