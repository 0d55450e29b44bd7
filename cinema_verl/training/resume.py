"""Whether a run can go on from the checkpoint that it will load: one that is whole, of as many ranks as there are."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cinema_verl.training.checkpoint import (
    RESUMABLE,
    TRACKER,
    complete_steps,
    is_complete,
    named_and_gone,
    step_folder,
    step_to_resume,
    world_sizes,
)
from cinema_verl.training.refusal import Refusal, fine_tunes
from cinema_verl.training.run_folder import branches_from

_PATH = "trainer.resume_from_path"


def resume_refusals(config: DictConfig) -> list[Refusal]:
    """Every reason not to resume as the configuration says.

    Args:
        config: the composed configuration, with absolute paths. The folder of a run that this machine does not see is
            not judged; a checkpoint that is named is.
    """
    supervised = fine_tunes(config)
    actor = config if supervised else config.actor_rollout_ref.actor
    strategy = config.engine.strategy if supervised else actor.strategy
    if strategy not in ("fsdp", "fsdp2"):
        return []
    contents = OmegaConf.select(actor, "checkpoint.load_contents") or RESUMABLE
    named = branches_from(config)
    found = list(_of_the_contents(config, contents))
    found = found or [*_of_the_path(config, named, contents), *_of_the_tracker(config, contents)]
    if found or supervised:  # the SFT trainer looks at the ranks itself, as torchrun knows the number of processes
        return found
    return list(_of_the_ranks(config, named, contents))


def _of_the_contents(config: DictConfig, contents: Sequence[str]) -> Iterator[Refusal]:
    """Whether a run would go on with half of what it was: a new optimiser, or the schedule from its beginning."""
    trainer = config.trainer
    lacks = [part for part in RESUMABLE if part not in contents]
    folder = Path(trainer.default_local_dir)
    if lacks and trainer.resume_mode == "auto" and not trainer.resume_from_path and (folder / TRACKER).is_file():
        section = "checkpoint" if fine_tunes(config) else "actor_rollout_ref.actor.checkpoint"
        yield Refusal(
            f"{section}.load_contents",
            f"without {', '.join(lacks)}, the run in {folder} would not go on from where it was (extra is the schedule "
            "and the random numbers)",
            f"begin another run from its weights, in another folder; {section}.save_contents=[model,optimizer,extra] "
            "is for runs that are to be resumed",
        )


def _of_the_path(config: DictConfig, named: str | None, contents: Sequence[str]) -> Iterator[Refusal]:
    """Whether the checkpoint that somebody names is one."""
    mode, path = config.trainer.resume_mode, config.trainer.resume_from_path
    if mode == "resume_path" and not path:
        yield Refusal(_PATH, "no checkpoint, and trainer.resume_mode=resume_path asks for one", f"set {_PATH}")
    elif path and not named:
        what = f"{path} would not be looked at with trainer.resume_mode={mode}"
        yield Refusal(_PATH, what, "set trainer.resume_mode=resume_path, or drop it")
    if not named or "://" in named:
        return
    folder = Path(named)
    run = folder if complete_steps(folder, contents) else folder.parent
    steps = complete_steps(run, contents)
    there = f", which has {', '.join(f'global_step_{step}' for step in steps)}" if steps else ""
    if not folder.is_dir():
        yield Refusal(_PATH, f"{folder} does not exist", f"name a checkpoint of {folder.parent}{there}")
    elif not re.fullmatch(r"global_step_\d+", folder.name):
        advice = f"name one: {run}/global_step_{steps[-1]}" if steps else "name a folder global_step_N"
        yield Refusal(_PATH, f"{folder} is no checkpoint: its name must be global_step_N", advice)
    elif not (world_sizes(folder, contents) if config.trainer.get("val_only") else is_complete(folder, contents)):
        what = f"{folder} is not whole: it was not written, or copied, to the end, or was renamed"
        yield Refusal(_PATH, what, f"copy it again, or name another one of {folder.parent}")


def _of_the_tracker(config: DictConfig, contents: Sequence[str]) -> Iterator[Refusal]:
    """Whether a run would begin anew, over the history of one that had come far."""
    folder = Path(config.trainer.default_local_dir)
    if config.trainer.resume_mode != "auto" or config.trainer.resume_from_path:
        return
    if step := named_and_gone(folder, contents):
        yield Refusal(
            "trainer.default_local_dir",
            f"{folder / TRACKER} names step {step}, and no checkpoint in {folder} is whole: the run would begin anew, "
            "and write over its history",
            f"copy global_step_{step} back; to begin anew, name another folder, or remove {TRACKER}",
        )


def _of_the_ranks(config: DictConfig, named: str | None, contents: Sequence[str]) -> Iterator[Refusal]:
    trainer = config.trainer
    checkpoint = Path(named) if named else None
    if trainer.resume_mode == "auto":
        folder = Path(trainer.default_local_dir)
        step = step_to_resume(folder, contents)
        checkpoint = None if step is None else step_folder(folder, step)
    have = set() if checkpoint is None else world_sizes(checkpoint, contents)
    ranks = trainer.n_gpus_per_node * trainer.nnodes
    if not have or ranks in have:
        return
    saved = " or ".join(map(str, sorted(have)))
    yield Refusal(
        "trainer.nnodes",
        f"{checkpoint} was saved by {saved} ranks, and this run has {ranks} (trainer.n_gpus_per_node x trainer.nnodes)",
        f"cinema-verl reshard {checkpoint} --world-size {ranks}, and then this command again; or as many ranks",
    )
