"""Mathematics in verl's own reward-loop worker: a Ray actor, a thread executor, and the recipe's reward manager."""

from pathlib import Path

import pytest

ANSWERS = {
    "1+x": ("x+1", 1.0, 0.0),
    "x-1": ("x+1", 0.0, 0.0),
    r"2\sqrt{2}": (r"\sqrt{8}+0", 1.0, 0.0),
    "9^{9^{9^{9}}}+x": ("x+1", 0.0, 1.0),
    "9^{9^{9^{9}}}+2x": ("x+1", 0.0, 1.0),
    "x+2": (r"\frac{2x+4}{2}", 1.0, 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("function", ["compute_score", "compute_score_async"])
def test_in_verls_reward_loop_worker(tmp_path: Path, function: str) -> None:
    import numpy as np
    import ray
    import torch
    from hydra import compose, initialize_config_module
    from verl import DataProto
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker

    from cinema_verl.demo.tiny_model import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            [
                "+recipe=cinema_cpu",
                f"actor_rollout_ref.model.path={tmp_path}",
                "actor_rollout_ref.model.tokenizer_path=null",
                f"reward.custom_reward_function.name={function}",
                "data.max_response_length=600",
            ],
        )
    texts = [f"<focus>x</focus><think>y</think><answer>{answer}</answer>" for answer in ANSWERS]
    tokens = [tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, tokens))
    responses = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in tokens])
    mask = torch.tensor([[1] + [1] * len(row) + [0] * (length - len(row)) for row in tokens])
    rows = [{"index": i, "num_images": 2, "answer_type": "latex"} for i in range(len(texts))]
    golds = [{"ground_truth": gold} for gold, _, _ in ANSWERS.values()]
    data = DataProto.from_dict(
        tensors={"responses": responses, "attention_mask": mask},
        non_tensors={
            "data_source": np.array(["algebra"] * len(rows), dtype=object),
            "reward_model": np.array(golds, dtype=object),
            "extra_info": np.array(rows, dtype=object),
        },
    )
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        worker = ray.remote(RewardLoopWorker).remote(config)
        outputs = ray.get(worker.compute_score_batch.remote(data), timeout=240)
    finally:
        ray.shutdown()
    infos = [output["reward_extra_info"] for output in outputs]
    found = {info["answer"]: (info["acc"], info["timed_out"]) for info in infos}
    assert found == {answer: (acc, timed_out) for answer, (_, acc, timed_out) in ANSWERS.items()}
    assert all(info["format"] == 1.0 for info in infos)
