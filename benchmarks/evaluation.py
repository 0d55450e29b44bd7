"""Measure what evaluation adds to the time of generation: checks, perturbed questions, kept answers, metrics, files.

python benchmarks/evaluation.py [--questions 100] [--rollouts 16] [--again 40]

The cold-started policy of recipe cinema_evaluate_cpu answers digits questions through the transformers engine, in one
process, and around it runs all that evaluation does around verl's own validation. The share must be below 3 %.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the recipe sets it for its workers

import numpy as np
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.config import omega_conf_to_dataclass

from cinema_verl.demo.digits import Sizes, write_dataset
from cinema_verl.evaluate.files import evaluate_dump, settings_of
from cinema_verl.evaluate.questions import ask_again, check_files, check_questions, with_failures
from cinema_verl.evaluate.summary import dependence_metrics, mean_metrics
from cinema_verl.evaluate.unfinished import Unfinished, asked_of
from cinema_verl.reward import compute_score
from cinema_verl.rollout.engine import TransformersServer
from cinema_verl.training.agent_loop import STOP, trajectory_seed

TARGET = 0.03
CONDITIONS = ("shuffled", "reordered", "blank")


class Clock(dict[str, float]):
    """Seconds by name."""

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[name] = self.get(name, 0.0) + time.perf_counter() - start


async def answer(server: TransformersServer, data_set: Any, rollouts: int) -> list[list[list[int]]]:
    """(rows, rollouts) token ids: every row's prompt and images prepared once, all requests at once, as in a run."""
    processor = data_set.processor
    requests = []
    for number, row in enumerate(data_set[i] for i in range(len(data_set))):
        messages = row["raw_prompt"]
        images, _ = await data_set.process_vision_info(
            messages, image_patch_size=data_set.image_patch_size, config=data_set.config
        )
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = processor(text=[prompt], images=images)["input_ids"][0]
        for session in range(rollouts):
            params = {"stop": [STOP], "seed": trajectory_seed(row["extra_info"]["uid"], session)}
            requests.append(server.generate(ids, params, f"{number}-{session}", image_data=images))
    outputs = [output.token_ids for output in await asyncio.gather(*requests)]
    return [outputs[i : i + rollouts] for i in range(0, len(outputs), rollouts)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100, help="questions; %(default)s")
    parser.add_argument("--rollouts", type=int, default=16, help="rollouts a question; %(default)s")
    parser.add_argument("--again", type=int, default=40, help="questions asked again under each condition; %(default)s")
    arguments = parser.parse_args()
    clock = Clock()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder, Sizes(train=0, test=arguments.questions, sft_train=0, sft_val=0))
        file = str(folder / "test.parquet")
        with initialize_config_module("verl.trainer.config", version_base=None):
            overrides = ["+recipe=cinema_evaluate_cpu", f"data.val_files={file}"]
            config = compose("ppo_trainer", overrides=overrides)
        rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        server = TransformersServer(rollout, config.actor_rollout_ref.model)
        processor = server.model_config.processor
        OmegaConf.set_struct(config, False)

        with clock("check files"):
            check_files([file])
        data_set = create_rl_dataset(file, config.data, processor.tokenizer, processor)
        with clock("check questions"):
            check_questions(data_set.rows(), [], data_set.locate())
        with clock("ask again"):
            ask_again(data_set, CONDITIONS, arguments.again)
        with clock("generation"):
            answers = asyncio.run(answer(server, data_set, arguments.rollouts))

        rows, records = list(data_set.rows()), []
        for number, (row, sessions) in enumerate(zip(rows, answers, strict=True)):
            for session, ids in enumerate(sessions):
                text = processor.tokenizer.decode(ids, skip_special_tokens=True)
                gold = row["reward_model"]["ground_truth"]
                score = compute_score(row["data_source"], text, gold, row["extra_info"])
                rest = {"ability": row["ability"], "response_tokens": float(len(ids)), "stop_reason": "answer"}
                own = {"data_source": row["data_source"], "uid": f"{number}_{session}_0", "output": text}
                records.append({**score, **rest, **own})
        infos = {name: [record[name] for record in records] for name in records[0]}
        texts = {name: infos["output"] for name in ("inputs", "outputs", "gts")}
        uids = [uid.split("_")[0] for uid in infos["uid"]]
        with clock("answers kept"):
            unfinished = Unfinished(folder, asked_of(config))
            for row, sessions in zip(rows, answers, strict=True):
                question = row["extra_info"]["uid"], row["data_source"]
                unfinished.add((question, i, (np.array(ids), "answer")) for i, ids in enumerate(sessions))
            unfinished.remove()
        with clock("metrics"):
            asked = {(row["data_source"], str(number)): arguments.rollouts for number, row in enumerate(rows)}
            mean_metrics(infos["data_source"], infos, asked)
            metrics, _ = dependence_metrics(infos["data_source"], uids, infos, arguments.rollouts)
        with clock("failures"):
            dumped = {**texts, "scores": infos["score"], "reward_extra_infos_dict": infos, "dump_path": temporary}
            with_failures(dumped, data_set.rows(), arguments.rollouts)
        dump = folder / "0.jsonl"  # verl writes it in any validation: not counted
        dump.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        with clock("files"):
            summary = evaluate_dump(dump, settings_of(config, 0))

    generation = clock.pop("generation")
    added = sum(clock.values())
    digits = summary["benchmarks"]["digits"]
    print(f"{len(records)} rollouts, accuracy {digits['accuracy']['mean']:.3f}", end="")
    print("".join(f", {c} drop {metrics[f'cinema/image_dependence/{c}/drop']:.3f}" for c in CONDITIONS))
    print(f"generation       {generation:8.3f} s")
    for name, seconds in clock.items():
        print(f"{name:<16} {seconds:8.3f} s")
    print(f"added            {added / generation:8.2%}  (target: below {TARGET:.0%})")
    return int(added / generation >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
