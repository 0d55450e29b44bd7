"""What a composed configuration says about data: which files, and what a row may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cinema_verl.data.check import RL, SFT, Form, Limits, image_limit
from cinema_verl.registration.command_line import RL_TRAINER


@dataclass(frozen=True, slots=True)
class Plan:
    """What a composed configuration says about data.

    Attributes:
        program: verl's module, `RL_TRAINER` or `SFT_TRAINER`.
        evaluates: Whether it only validates (``trainer.val_only``).
        files: Split (``train``, ``val``) -> its files. An evaluation's training set is usually its validation set over
            again, which verl wants and never draws from; it is then left out.
        max_samples: Split -> rows that are used; -1 for all.
        model: Path or name.
        beside: Whether the data set that is named takes images that lie beside their file (`cinema_verl.data.movable`).
        mode: ``data.cinema_prompt_mode``, whose system prompt takes the place of the files'; None without one.
        limits: What a row may have. `limits.images` only where the rollout engine enforces it.
        limit_images: ``rollout.limit_images``, whatever the engine; None without one.
        template_kwargs, processor_kwargs: As verl passes them to the processor.
    """

    program: str
    evaluates: bool
    files: Mapping[str, tuple[str, ...]]
    max_samples: Mapping[str, int]
    model: str
    beside: bool
    mode: str | None
    limits: Limits
    limit_images: int | None
    template_kwargs: Mapping[str, Any]
    processor_kwargs: Mapping[str, Any]

    @property
    def form(self) -> Form:
        return RL if self.program == RL_TRAINER else SFT

    @classmethod
    def of(cls, config: Any, program: str) -> Plan:
        """Read a composed configuration."""
        data = config.data
        rl = program == RL_TRAINER
        rollout = config.actor_rollout_ref.rollout if rl else None
        evaluates = rl and bool(config.trainer.get("val_only"))
        files = {split: _listed(data.get(f"{split}_files")) for split in ("train", "val")}
        if evaluates and files["train"] == files["val"]:
            del files["train"]
        return cls(
            program=program,
            evaluates=evaluates,
            files=files,
            max_samples={split: data.get(f"{split}_max_samples", -1) for split in ("train", "val")},
            model=str((config.actor_rollout_ref.model if rl else config.model).path),
            beside=str((data.get("custom_cls") or {}).get("path") or "").startswith("pkg://cinema_verl.data."),
            mode=data.get("cinema_prompt_mode") if rl else None,
            limits=Limits(
                tokens=data.max_prompt_length if rl else data.max_length,
                images=image_limit(rollout),
                root=data.get("cinema_image_root"),
            ),
            limit_images=rollout.get("limit_images") if rollout is not None else None,
            template_kwargs=dict(data.get("apply_chat_template_kwargs") or {}),
            processor_kwargs=dict(data.get("mm_processor_kwargs") or {}),
        )


def _listed(files: Any) -> tuple[str, ...]:
    if files is None:
        return ()
    return (files,) if isinstance(files, str) else tuple(map(str, files))
