"""What a run needs of its files as a whole, and what it will hold in memory for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cinema_verl.checks import host_memory
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.plan import Plan
from cinema_verl.checks.survey import FileSurvey, Survey
from cinema_verl.data.check import DataError
from cinema_verl.data.tokens import Patching
from cinema_verl.evaluate.questions import check_questions
from cinema_verl.registration.command_line import RL_TRAINER, SFT_TRAINER
from cinema_verl.training.settings import group_sizes, stages_of


def inspect_files(plan: Plan, config: Any, found: Survey) -> list[Finding]:
    """What is true of the files as a whole, and of what the run needs of them."""
    findings = list(found.findings)
    for split, files in plan.files.items():
        if not files and (split == "train" or plan.program == RL_TRAINER):
            findings.append(
                Finding("files", split, False, f"data.{split}_files names no file", f"set data.{split}_files")
            )
    broken = sum(file.wrong for file in found.files)
    if broken:
        advice = "mend them or leave them out; the run refuses them all at once (data.cinema_checks)"
        findings.append(Finding("rows", "checks", False, f"{broken:,} rows that the run cannot train on", advice))
    elif found.files:
        findings.append(Finding("rows", "checks", True, "no row that the run could not train on"))
    if not any(file.wrong for file in found.of("val")):
        findings += _name_findings(plan, config, found)
    for split, most in plan.max_samples.items():
        if 0 < most < (rows := sum(file.rows for file in found.of(split))):
            detail = f"data.{split}_max_samples={most:,}: the run uses some of the {rows:,} rows; all count here"
            findings.append(Finding("rows", split, None, detail))
    if both := len(found.uids.get("train", set()) & found.uids.get("val", set())):
        findings.append(Finding("rows", "leak", None, f"{both:,} uids are in the training and the validation files"))
    return findings


def _name_findings(plan: Plan, config: Any, found: Survey) -> Iterator[Finding]:
    """Whether validation can put answers together by the question's uid, where the trainer does so."""
    section = config.get("cinema") if plan.program == RL_TRAINER else None
    if section is None or not (plan.evaluates or section.get("image_conditions")):
        return
    try:
        sources = section.get("other_sources") if plan.evaluates else None
        check_questions(found.validated, sources, found.places.__getitem__)
    except DataError as error:
        yield Finding("rows", "val", False, str(error))


def project(plan: Plan, config: Any, found: Survey, patching: Patching) -> list[host_memory.Projection]:
    """Host memory for the files' mean row."""
    train, val = (_mean_row(plan, config, found.of(split), patching) for split in ("train", "val"))
    if plan.program == SFT_TRAINER:
        if train is None:
            return []
        return host_memory.project_sft(sum(train), batch=config.data.train_batch_size, workers=config.data.num_workers)
    groups, rollout = config.algorithm.filter_groups, config.actor_rollout_ref.rollout
    questions = sum(file.rows for file in found.of("val"))
    return host_memory.project_rl(
        None if plan.evaluates else train,
        val,
        batch=config.data.train_batch_size,
        group=max(group_sizes(config)),
        ranks=config.trainer.nnodes * config.trainer.n_gpus_per_node,
        # A round asks for two prompts for every group that is missing (`dynamic_sampling`).
        rounds=min(2, groups.get("max_inflight_gen_batches") or 1) if _filters(config) else 1,
        val_batch=min(config.data.val_batch_size or questions, questions),
        val_group=rollout.val_kwargs.n,
    )


def _filters(config: Any) -> bool:
    """Whether any stage drops groups; so it counts where the settings are wrong, which the verdict says."""
    stages = stages_of(config)
    return stages is None or stages.filters


def _mean_row(plan: Plan, config: Any, files: Sequence[FileSurvey], patching: Patching) -> host_memory.Row | None:
    rows = sum(file.seen for file in files)
    if not rows:
        return None
    vision = sum(sum(file.vision) for file in files) / rows
    text = sum(sum(file.text) for file in files) / rows
    response = config.data.max_response_length if plan.program == RL_TRAINER else 0
    return host_memory.row_bytes(vision, vision + text + response, patching)
