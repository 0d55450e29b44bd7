"""verl's training workers with two repairs that verl 0.9.1 needs.

* `position_ids`: when all multimodal sequences of a batch have one length, verl's `maybe_fix_3d_position_ids`
  (`verl.utils.tensordict_utils`) declares a tensor that is ragged on dimension 1 to be ragged on dimension 2, and the
  rotary positions of every sample are scrambled, or splitting the batch into mini-batches fails. The workers here
  rebuild the tensor first, after which verl's function changes nothing.
* gloo: on the CPU, verl asks torch.distributed for "cpu:gloo,cpu:gloo", which is refused. The worker opens the
  process group itself; verl then finds it open.

Beside them, pixel values that a group shares are put back, LoRA weights are saved merged, and upper clip and learning
rate follow the stage of the step, where verl's workers read both once, at their start.

These are subclasses, chosen through verl's own `actor_worker_cls` / `ref_worker_cls`; nothing of verl is patched.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import NonTensorStack, TensorDict
from torch.utils._pytree import tree_map_only
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from cinema_verl.training.lora import export_merged, is_lora
from cinema_verl.training.same_version import refuse_another_version
from cinema_verl.training.shared_vision import MULTI_MODAL, with_pixels


def repair_position_ids(data: TensorDict) -> TensorDict:
    """Make a batch's multimodal `position_ids` ragged along the sequence, whatever their lengths.

    A jagged tensor of B samples of shape (R, L_i) (R rotary rows: text, time, height, width) must keep its values as
    (R, sum L_i). With equal L_i, torch infers the *first* dimension as the ragged one and keeps (B * R, L).

    Args:
        data: a batch, changed in place where needed.

    Returns:
        The same batch.
    """
    nested: Any = data.get("position_ids", None)
    if not isinstance(nested, torch.Tensor) or not nested.is_nested or nested.dim() != 3:
        return data
    jagged: Any = nested
    values, offsets = jagged.values(), jagged.offsets()
    batch = len(offsets) - 1
    if offsets[-1] != values.shape[0] or values.shape[0] % batch:
        return data  # ragged along the sequence already
    rows, length = values.shape[0] // batch, values.shape[1]
    flat = values.view(batch, rows, length).transpose(0, 1).reshape(rows, batch * length)
    repaired = torch.nested.nested_tensor_from_jagged(
        flat, torch.arange(0, (batch + 1) * length, length, device=values.device), jagged_dim=2
    )
    data["position_ids"] = repaired
    return data


def for_the_engine(data: TensorDict) -> TensorDict:
    """A batch with its pixels put back, its `position_ids` repaired, and without columns that no engine reads.

    Those are the columns of Python values (question, reward's particulars, …) but the model's inputs among them; verl
    would split them into mini- and micro-batches and move each value to the device by itself.
    """
    columns = [name for name, value in data.items() if isinstance(value, NonTensorStack) and name != MULTI_MODAL]
    return with_pixels(repair_position_ids(data.exclude(*columns)))


class CinemaTrainingWorker(TrainingWorker):
    """`TrainingWorker` whose batches are mended before verl looks at them (`for_the_engine`)."""

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="train"), blocking=False)
    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        with self._in_stage(tu.pop(data, key="clip_ratio_high"), tu.pop(data, key="lr_factor", default=1.0)):
            return super().train_mini_batch(for_the_engine(data))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """With LoRA, `huggingface/` gets merged weights: verl would write the wrapped names, which no model has."""
        manager = self.engine.checkpoint_manager
        contents = manager.checkpoint_save_contents
        merges = "hf_model" in contents and is_lora(self.engine.module)
        manager.checkpoint_save_contents = [c for c in contents if not (merges and c == "hf_model")]
        super().save_checkpoint(local_path, *args, **kwargs)
        manager.checkpoint_save_contents = contents
        if merges:
            export_merged(self.engine.module, Path(local_path))

    @contextmanager
    def _in_stage(self, clip_ratio_high: float | None, lr_factor: float) -> Iterator[None]:
        """Train with a stage's own values, and then as before.

        verl's schedulers compute each step's learning rate from the first one, so what they set inside stays.
        """
        loss_fn = self.loss_fn if clip_ratio_high is not None else None
        if loss_fn is not None:
            clipped = replace(loss_fn.keywords["config"], clip_ratio_high=clip_ratio_high)
            self.set_loss_fn(partial(loss_fn, config=clipped))
        groups = self.engine.optimizer.param_groups if lr_factor != 1 else []
        before = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] *= lr_factor
        scaled = [group["lr"] for group in groups]
        try:
            yield
        finally:
            if loss_fn is not None:
                self.set_loss_fn(loss_fn)
            for group, old, new in zip(groups, before, scaled, strict=True):
                if group["lr"] == new:
                    group["lr"] = old

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="train"), blocking=False)
    def infer_batch(self, data: TensorDict) -> TensorDict:
        return super().infer_batch(for_the_engine(data))


class CinemaActorRolloutRefWorker(ActorRolloutRefWorker):
    """`ActorRolloutRefWorker` with the repaired training workers, and a process group that a CPU accepts."""

    actor_worker_cls = CinemaTrainingWorker
    ref_worker_cls = CinemaTrainingWorker

    def __init__(self, *args, **kwargs):
        refuse_another_version()
        super().__init__(*args, **kwargs)
        if get_device_name() == "cpu" and not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                "cpu:gloo",
                rank=int(os.environ.get("RANK", 0)),
                world_size=int(os.environ.get("WORLD_SIZE", 1)),
                init_method=os.environ.get("DIST_INIT_METHOD"),
            )


class CinemaDetachActorWorker(CinemaActorRolloutRefWorker, DetachActorWorker):
    """The same for verl's mode separate_async, whose worker keeps the weights that a step began with.

    verl keeps them by `.cpu()`, which copies nothing where the weights are on the CPU already: there each update would
    change them, too.
    """

    @property
    def copy_handler(self) -> Callable[[torch.nn.Module], Any]:
        keep = super().copy_handler

        def copy(model: torch.nn.Module) -> Any:
            kept = keep(model)
            on_cpu = any(parameter.device.type == "cpu" for parameter in model.parameters())
            return tree_map_only(torch.Tensor, torch.clone, kept) if on_cpu else kept

        return copy
