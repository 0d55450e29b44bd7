"""How tokens are counted: with the model's own tokenizer and processor where they are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cinema_verl.checks.finding import Finding
from cinema_verl.checks.plan import Plan
from cinema_verl.data.check import check_tokenizer
from cinema_verl.data.families import names
from cinema_verl.data.tokens import QWEN2_5_VL, Patching, PromptCounter
from cinema_verl.registration.command_line import RL_TRAINER
from cinema_verl.utils.pretrained import read_files
from cinema_verl.utils.torchvision import ensure_torchvision_importable


class Counting(NamedTuple):
    """How tokens are counted: with the model's processor, or, `counter` being None, images alone and by estimate."""

    counter: PromptCounter | None
    patching: Patching
    findings: Sequence[Finding]


def load_counting(plan: Plan) -> Counting:
    """The model's own counter where its files are on this machine; never a download."""
    ensure_torchvision_importable()  # before transformers, whose processors import torchvision
    from transformers import AutoProcessor

    local = Path(plan.model)
    try:
        processor = read_files(AutoProcessor, plan.model, local_files_only=True)
        counter = PromptCounter(processor, plan.template_kwargs, plan.processor_kwargs)
        if plan.program == RL_TRAINER:
            check_tokenizer(processor.tokenizer)
    except (OSError, ValueError, TypeError, ImportError) as error:
        if isinstance(error, OSError) and not local.is_dir():
            detail = (
                f"{plan.model} is not on this machine: image tokens are ESTIMATES, as Qwen2.5-VL cuts images, and text "
                "is NOT counted; give the model's folder for exact counts"
            )
            return Counting(None, QWEN2_5_VL, [Finding("tokens", "estimated", None, detail)])
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        detail = f"{plan.model}: {cause}"
        advice = f"give the folder of a model of {names()}, with its tokenizer and processor"
        return Counting(None, QWEN2_5_VL, [Finding("tokens", "model", False, detail, advice)])
    detail = f"with the tokenizer and the image processor of {plan.model}"
    return Counting(counter, counter.patching, [Finding("tokens", "counted", True, detail)])
