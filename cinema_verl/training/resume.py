"""Whether a run can go on from the checkpoint that it will load: verl wants shards of as many ranks as there are."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.checkpoint import RESUMABLE, step_folder, step_to_resume, world_sizes
from cinema_verl.training.verdict import Refusal


def resume_refusals(config: DictConfig) -> list[Refusal]:
    """Of reinforcement learning; the SFT trainer says so itself, as torchrun knows the number of processes.

    Args:
        config: the composed configuration, with absolute paths. A folder that this machine does not see is not judged.
    """
    if OmegaConf.select(config, "actor_rollout_ref") is None:
        return []
    trainer, actor = config.trainer, config.actor_rollout_ref.actor
    if actor.strategy not in ("fsdp", "fsdp2"):
        return []
    checkpoint: Path | None = None
    contents = OmegaConf.select(actor, "checkpoint.load_contents") or RESUMABLE
    if trainer.resume_mode == "resume_path" and trainer.resume_from_path:
        checkpoint = Path(trainer.resume_from_path)
    elif trainer.resume_mode == "auto":
        folder = Path(trainer.default_local_dir)
        step = step_to_resume(folder, contents)
        checkpoint = None if step is None else step_folder(folder, step)
    have = set() if checkpoint is None else world_sizes(checkpoint, contents)
    ranks = trainer.n_gpus_per_node * trainer.nnodes
    if not have or ranks in have:
        return []
    saved = " or ".join(map(str, sorted(have)))
    return [
        Refusal(
            "trainer.nnodes",
            f"{checkpoint} was saved by {saved} ranks, and this run has {ranks} (trainer.n_gpus_per_node x "
            "trainer.nnodes)",
            f"cinema-verl reshard {checkpoint} --world-size {ranks}, and then this command again; or as many ranks",
        )
    ]
