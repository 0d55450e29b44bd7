"""verl's SFT trainer, killed at any moment and started again, ends as if nothing had happened.

The data, the model, the engine and the optimiser are `verl.trainer.sft_trainer.SFTTrainer`'s. The loop is our
own, because verl's has no hooks: where to resume is computed from the step, a validation is over every
row once, the history of a resumed run is kept, and SIGTERM saves and ends the run. `cinema_verl.registration.sft_patch`
puts it in the place of verl's for the recipes that ask for it.
"""

import os
import socket
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorData
from torch.utils.data import DistributedSampler
from tqdm import tqdm
from transformers import set_seed
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.dataset_utils import SFTTensorCollator
from verl.utils.device import get_device_name
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group
from verl.utils.memory_utils import aggressive_empty_cache
from verl.utils.tracking import Tracking

from cinema_verl.runs.locate import CONFIG
from cinema_verl.training.file_logger import AppendingFileLogger
from cinema_verl.training.quiet import without_configuration
from cinema_verl.training.run_folder import TENSORBOARD, metrics_path, tensorboard_path
from cinema_verl.training.same_version import installed, refuse_different
from cinema_verl.training.sft.batches import PaddedRows, PositionedSampler, check_sizes, loader_of
from cinema_verl.training.sft.checkpoints import SFTCheckpoints
from cinema_verl.training.stop_signal import EXIT_CODE, StopSignal


def run_sft(config: Any) -> None:
    """What `verl.trainer.sft_trainer` does in a process, with the trainer below.

    Raises:
        SystemExit: with code 143 when SIGTERM ended the run before its last step.
    """
    if get_device_name() == "cpu":  # verl asks for "cpu:gloo,cpu:gloo" there, which PyTorch refuses
        torch.distributed.init_process_group("cpu:gloo", init_method=os.environ.get("DIST_INIT_METHOD"))
    else:
        initialize_global_process_group()
    try:
        CinemaSFTTrainer(config=config).fit()
    finally:
        destroy_global_process_group()


class CinemaSFTTrainer(SFTTrainer):
    """verl's `SFTTrainer` with a loop that can be interrupted.

    Args:
        config: verl's `sft_trainer_engine` configuration.

    Raises:
        ValueError: for sizes, steps or a checkpoint that do not fit; before training.
    """

    ckpt_handler: SFTCheckpoints

    def __init__(self, config: Any):
        set_seed(config.trainer.seed)  # a run that is killed before its first checkpoint starts with the same weights
        file = Path(config.trainer.default_local_dir) / CONFIG
        with without_configuration(lambda: self.config, f"cinema-verl: the whole configuration is in {file}"):
            super().__init__(config)
        self.is_logging = self.engine.is_mp_src_rank_with_outputs() and self.engine.get_data_parallel_rank() == 0
        self.total_tokens = self.ckpt_handler.progress.get("total_tokens", 0)

    # ---- construction -------------------------------------------------------------------------------------------

    def _build_dataloader(self) -> None:
        hosts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(hosts, (socket.gethostname(), installed()))
        refuse_different(hosts)
        data, trainer, device = self.config.data, self.config.trainer, get_device_name()
        rank, ranks = self.engine.get_data_parallel_rank(), self.engine.get_data_parallel_size()
        check_sizes(
            rows=len(self.train_dataset),
            val_rows=None if self.val_dataset is None else len(self.val_dataset),
            batch_size=data.train_batch_size,
            micro_batch_size=None if data.use_dynamic_bsz else data.micro_batch_size_per_gpu,
            ranks=ranks,
        )
        collate = SFTTensorCollator(data.pad_mode)
        self.global_batch_size = data.train_batch_size
        self.train_batch_size_per_dp = data.train_batch_size // ranks
        self.train_sampler = PositionedSampler(self.train_dataset, ranks, rank, shuffle=True, drop_last=True)
        self.train_dataloader = loader_of(
            self.train_dataset, self.train_sampler, self.train_batch_size_per_dp, collate, data.num_workers, device
        )
        asked, has = trainer.total_training_steps, len(self.train_dataloader)
        if asked is not None and asked > has * trainer.total_epochs:
            raise ValueError(
                f"trainer.total_training_steps={asked}, but trainer.total_epochs={trainer.total_epochs} epochs of "
                f"{has} steps end before: raise trainer.total_epochs"
            )
        self.val_dataloader = None
        if self.val_dataset is not None:
            size = data.micro_batch_size_per_gpu
            rows = PaddedRows(self.val_dataset, size * ranks)
            sampler: DistributedSampler = DistributedSampler(rows, ranks, rank, shuffle=False)
            self.val_dataloader = loader_of(rows, sampler, size, collate, data.num_workers, device)

    def _build_ckpt_handler(self) -> None:
        trainer = self.config.trainer
        self.ckpt_handler = SFTCheckpoints(
            engine=self.engine,
            train_dataloader=self.train_dataloader,
            default_local_dir=trainer.default_local_dir,
            max_ckpt_to_keep=trainer.max_ckpt_to_keep,
            default_hdfs_dir=trainer.default_hdfs_dir,
            resume_mode=trainer.resume_mode,
            resume_from_path=trainer.resume_from_path,
            load_contents=list(self.checkpoint_config.load_contents),
            data={"rows": len(self.train_dataset), "train_batch_size": self.global_batch_size},
        )

    # ---- the loop -----------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train from where the run stands to its last step.

        Raises:
            SystemExit: see `run_sft`.
        """
        step = self.resume_global_step
        self.tracking = self._open_tracking(step) if self.is_logging else None
        finished = step >= self.total_training_steps
        self._say(self._at(step, "trained already" if finished else "resuming" if step else "a new run"))
        with StopSignal() as self.stop:
            if self.ckpt_handler.progress.get("validation_pending"):
                if self._validate(step):
                    self.ckpt_handler.note(step, validation_pending=False)
                self._end_if(self._asked_to_stop(), step)
            for batch in self._batches(after=step):
                step += 1
                self._train(batch, step)
                pending = self._is_due(self.test_freq, step) and not self._validate(step)
                stopping = self._asked_to_stop()
                if stopping or self._is_due(self.save_freq, step):
                    aggressive_empty_cache(force_sync=True)
                    self.ckpt_handler.save_checkpoint(step, total_tokens=self.total_tokens, validation_pending=pending)
                self._end_if(stopping and (pending or step < self.total_training_steps), step)
        if self.tracking is not None:
            self.tracking.finish()
        self._say(self._at(step, "the run is finished"))

    def _batches(self, after: int) -> Iterator[dict[str, Any]]:
        """The batches of all steps after one, in the order in which an undisturbed run has them."""
        epochs, steps = self.config.trainer.total_epochs, self.steps_per_epoch
        for epoch in range(after // steps, epochs):
            first = max(after - epoch * steps, 0)
            last = min(self.total_training_steps - epoch * steps, steps)
            if first >= last:
                return
            self.train_sampler.go_to(epoch, first * self.train_batch_size_per_dp)
            aggressive_empty_cache(force_sync=True)
            label = f"Epoch {epoch + 1}/{epochs}"
            bar = tqdm(self.train_dataloader, label, total=steps, initial=first, disable=not self.is_logging)
            yield from islice(bar, last - first)

    def _is_due(self, frequency: int, step: int) -> bool:
        return step == self.total_training_steps or (frequency > 0 and step % frequency == 0)

    def _train(self, batch: dict[str, Any], step: int) -> None:
        """One optimiser step, and its metrics under verl's names."""
        data = tu.get_tensordict(tensor_dict=batch, non_tensor_dict=self._meta_info())
        lengths = self._get_batch_seqlens(data=data)
        # NonTensorData, or the list would be taken for one value a row.
        tu.assign_non_tensor(data, update_lr_scheduler=True, global_token_num=NonTensorData(lengths))
        if step == self.start_profile_step:
            self.training_client.start_profile()
        output = self.training_client.train_batch(data=data)
        self.training_client.step_profile()
        if step == self.end_profile_step:
            self.training_client.stop_profile()
        self.total_tokens += sum(lengths)
        if self.tracking is not None:
            metrics = tu.get(output, "metrics")
            named = {
                f"train/{name}": metrics.pop(name) for name in ("loss", "grad_norm", "lr", "mfu") if name in metrics
            }
            tokens = {"train/global_tokens": sum(lengths), "train/total_tokens(B)": self.total_tokens / 1e9}
            self.tracking.log(data={**metrics, **named, **tokens}, step=step)

    def _validate(self, step: int) -> bool:
        """The mean loss of a token over the whole validation set, whatever the batch size and the number of ranks.

        Returns:
            False when SIGTERM came in between, and nothing was logged.
        """
        if self.val_dataloader is None:
            return True
        loss, tokens = 0.0, 0.0
        for batch in self.val_dataloader:
            if self._asked_to_stop():
                return False
            data = tu.get_tensordict(tensor_dict=batch, non_tensor_dict=self._meta_info())
            in_batch = self._over_ranks(data["loss_mask"].sum(), torch.distributed.ReduceOp.SUM)
            output = self.training_client.infer_batch(data)
            if self.tracking is not None:
                loss += tu.get(output, "metrics")["loss"] * in_batch
                tokens += in_batch
        if self.tracking is not None:
            self.tracking.log(data={"val/loss": loss / tokens}, step=step)
        return True

    def _meta_info(self) -> dict[str, Any]:
        """What verl's engine wants to know of every batch."""
        data = self.config.data
        return {
            "use_remove_padding": self.config.model.use_remove_padding,
            "use_dynamic_bsz": data.use_dynamic_bsz,
            "max_token_len_per_gpu": data.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": data.micro_batch_size_per_gpu,
            "temperature": 1.0,
            "global_batch_size": self.global_batch_size,
            "pad_mode": data.pad_mode,
            "pad_token_id": self.model_config.tokenizer.pad_token_id,
        }

    # ---- stopping and logging -----------------------------------------------------------------------------------

    def _asked_to_stop(self) -> bool:
        """Whether SIGTERM has reached any rank: all must save together."""
        return bool(self._over_ranks(torch.tensor(float(self.stop.requested)), torch.distributed.ReduceOp.MAX))

    def _over_ranks(self, value: torch.Tensor, operation: Any) -> float:
        value = value.to(self.device_name, torch.float64 if self.device_name == "cpu" else torch.float32)
        torch.distributed.all_reduce(value, operation, group=self.engine.get_data_parallel_group())
        return value.item()

    def _end_if(self, stopping: bool, step: int) -> None:
        if stopping:
            self._say(self._at(step, "stopped by SIGTERM; the same command goes on"))
            raise SystemExit(EXIT_CODE)

    def _at(self, step: int, message: str) -> str:
        return f"step {step} of {self.total_training_steps}: {message}"

    def _say(self, message: str) -> None:
        if self.rank == 0:
            print(f"cinema-verl: {message}", flush=True)

    def _open_tracking(self, step: int) -> Tracking:
        """verl's loggers, with a `file` logger that keeps the history of a resumed run, beside its checkpoints."""
        trainer = self.config.trainer
        backends = [trainer.logger] if isinstance(trainer.logger, str) else list(trainer.logger)
        if "tensorboard" in backends:
            os.environ[TENSORBOARD] = str(tensorboard_path(trainer.default_local_dir))
        tracking = Tracking(
            project_name=trainer.project_name,
            experiment_name=trainer.experiment_name,
            default_backend=[backend for backend in backends if backend != "file"],
            config=OmegaConf.to_container(self.config, resolve=True),
        )
        if "file" in backends:
            path = metrics_path(trainer.default_local_dir)
            tracking.logger["file"] = AppendingFileLogger(path, resume_step=step)
        return tracking
