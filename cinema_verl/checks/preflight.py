"""`cinema-verl preflight`: will a run get through its data, and what will that cost?

The configuration is composed as the run composes it, and the files that it names are read as the run reads them: every
row is checked, images and tokens are counted, host memory is projected. A minute here finds what a training job meets
one row at a time, hours later. `--gallery` shows the rows as a person looks at them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from cinema_verl.checks import gallery, host_memory
from cinema_verl.checks.doctor import Finding, compose
from cinema_verl.checks.run_files import FileSurvey, Plan, Survey, survey
from cinema_verl.data.check import CHECKS, DataError, Problem, check_tokenizer
from cinema_verl.data.faults import CODES, WARNINGS
from cinema_verl.data.tokens import QWEN2_5_VL, Patching, PromptCounter
from cinema_verl.prompts import MODES
from cinema_verl.registration.command_line import RL_TRAINER, SFT_TRAINER, program_of, shipped_recipes
from cinema_verl.utils.files import atomic_write

EXAMPLES = """\
examples:
  cinema-verl preflight +recipe=cinema data.train_files=data/rl/train-00000.parquet \\
      data.val_files=data/rl/val-00000.parquet actor_rollout_ref.model.path=/models/qwen2.5-vl-7b-cold-start
  cinema-verl preflight +recipe=cinema ... --gallery rows.html      look at the rows, in a browser
  cinema-verl preflight +recipe=cinema ... --full                   decode every image, not its header only
  cinema-verl preflight +recipe=cinema ... --sample 2000            of millions, some of each file
  cinema-verl preflight +recipe=cinema_cold_start data.train_files=sft_train.parquet

Give it what the run is given, after the program's name. Text is counted with the model's own tokenizer where the
model's path is a folder, or a name whose files are cached here; nothing is downloaded. Otherwise images are counted
as Qwen2.5-VL cuts them, text is not counted, and the report says so.

The exit code is 0 when the run would get through its data, 1 when it would fail, 2 for a command line that is not
understood. Lines with "-" are worth knowing and stop nothing.
"""

PERCENTILES: Final = (50, 95, 99, 100)
_SHARES_SHOWN: Final = 12  # values of a column in the printed report; all are in the JSON


class UsageError(ValueError):
    """A command line that no run could have."""


# --- How tokens are counted ----------------------------------------------------------------------------------


class Counting(NamedTuple):
    """How tokens are counted: with the model's processor, or, `counter` being None, images alone and by estimate."""

    counter: PromptCounter | None
    patching: Patching
    findings: Sequence[Finding]


def load_counting(plan: Plan) -> Counting:
    """The model's own counter where its files are on this machine; never a download."""
    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()  # before transformers, whose processors import torchvision
    from transformers import AutoProcessor

    local = Path(plan.model)
    if plan.model.startswith("~"):
        detail, advice = f"{plan.model}: neither verl nor transformers expands ~", "write the whole path"
        return Counting(None, QWEN2_5_VL, [Finding("tokens", "model", False, detail, advice)])
    try:
        processor = AutoProcessor.from_pretrained(plan.model, local_files_only=True)
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
        advice = "give a Qwen-VL model's folder, with its tokenizer and processor"
        return Counting(None, QWEN2_5_VL, [Finding("tokens", "model", False, detail, advice)])
    detail = f"with the tokenizer and the image processor of {plan.model}"
    return Counting(counter, counter.patching, [Finding("tokens", "counted", True, detail)])


# --- What the run needs of it all -----------------------------------------------------------------------------


def judge(plan: Plan, config: Any, found: Survey) -> list[Finding]:
    """What is true of the files as a whole, and of what the run wants of them."""
    findings = list(found.findings)
    for split, files in plan.files.items():
        if not files and (split == "train" or plan.program == RL_TRAINER):
            findings.append(
                Finding("files", split, False, f"data.{split}_files names no file", f"set data.{split}_files")
            )
    findings += _option_findings(config, plan)
    broken = sum(file.wrong for file in found.files)
    if broken:
        advice = "mend them or leave them out; the run refuses them all at once (data.cinema_checks)"
        findings.append(Finding("rows", "checks", False, f"{broken:,} rows that the run cannot train on", advice))
    elif found.files:
        findings.append(Finding("rows", "checks", True, "no row that the run could not train on"))
    findings += _batch_findings(plan, config, found)
    if not any(file.wrong for file in found.of("val")):
        findings += _name_findings(plan, config, found)
    for split, most in plan.max_samples.items():
        if 0 < most < (rows := sum(file.rows for file in found.of(split))):
            detail = f"data.{split}_max_samples={most:,}: the run uses some of the {rows:,} rows; all count here"
            findings.append(Finding("rows", split, None, detail))
    if both := len(found.uids.get("train", set()) & found.uids.get("val", set())):
        findings.append(Finding("rows", "leak", None, f"{both:,} uids are in the training and the validation files"))
    return findings


def _option_findings(config: Any, plan: Plan) -> Iterator[Finding]:
    """Values of `CinemaDataset`'s options that it refuses."""
    if plan.program != RL_TRAINER:
        return
    for key, value, known in (
        ("cinema_checks", config.data.get("cinema_checks", "header"), (*CHECKS, False)),  # False: off, in YAML
        ("cinema_prompt_mode", config.data.get("cinema_prompt_mode"), (*MODES, None)),
    ):
        if value not in known:
            advice = f"use one of {', '.join(map(str, known[:-1]))}"
            yield Finding("rows", key, False, f"data.{key}={value} is unknown", advice)
    if config.data.filter_overlong_prompts:
        advice = "set data.filter_overlong_prompts=false"
        detail = "data.filter_overlong_prompts is on: it drops broken rows without a word, and CinemaDataset refuses it"
        yield Finding("rows", "filter", False, detail, advice)


def _name_findings(plan: Plan, config: Any, found: Survey) -> Iterator[Finding]:
    """Whether validation can put answers together by the question's uid, where the trainer does so."""
    section = config.get("cinema") if plan.program == RL_TRAINER else None
    if section is None or not (plan.evaluates or section.image_conditions):
        return
    from cinema_verl.evaluate.questions import check_questions  # imports verl's data set: seconds

    try:
        check_questions(found.validated, section.other_sources if plan.evaluates else None, found.places.__getitem__)
    except DataError as error:
        yield Finding("rows", "val", False, str(error))


def _batch_findings(plan: Plan, config: Any, found: Survey) -> Iterator[Finding]:
    batch = config.data.train_batch_size
    for split in ("train", "val"):
        rows = sum(file.rows for file in found.of(split))
        used = plan.max_samples[split] if 0 < plan.max_samples[split] < rows else rows
        # Of reinforcement learning, validation has batches of its own; verl divides by the batches of an epoch.
        if not rows or used >= batch or (plan.program == RL_TRAINER and (split == "val" or plan.evaluates)):
            continue
        detail = f"{used:,} rows, fewer than data.train_batch_size={batch}: not one batch"
        advice = f"lower data.train_batch_size to {used:,} or less"
        yield Finding("rows", split, False if split == "train" else None, detail, advice)


def project(plan: Plan, config: Any, found: Survey, patching: Patching) -> list[host_memory.Projection]:
    """Host memory for the files' mean row."""
    train, val = (_mean_bytes(plan, config, found.of(split), patching) for split in ("train", "val"))
    if plan.program == SFT_TRAINER:
        if train is None:
            return []
        return host_memory.project_sft(train, batch=config.data.train_batch_size, workers=config.data.num_workers)
    groups, rollout = config.algorithm.filter_groups, config.actor_rollout_ref.rollout
    questions = sum(file.rows for file in found.of("val"))
    return host_memory.project_rl(
        None if plan.evaluates else train,
        val,
        batch=config.data.train_batch_size,
        group=rollout.n,
        # A round asks for two prompts for every group that is missing (`dynamic_sampling`).
        rounds=min(2, groups.get("max_inflight_gen_batches") or 1) if groups and groups.enable else 1,
        val_batch=min(config.data.val_batch_size or questions, questions),
        val_group=rollout.val_kwargs.n,
    )


def _mean_bytes(plan: Plan, config: Any, files: Sequence[FileSurvey], patching: Patching) -> float | None:
    rows = sum(file.seen for file in files)
    if not rows:
        return None
    vision = sum(sum(file.vision) for file in files) / rows
    text = sum(sum(file.text) for file in files) / rows
    response = config.data.max_response_length if plan.program == RL_TRAINER else 0
    return host_memory.trajectory_bytes(vision, vision + text + response, patching)


# --- The report -----------------------------------------------------------------------------------------------


def summarise(
    plan: Plan, counting: Counting, found: Survey, findings: Sequence[Finding], memory: Any
) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "program": plan.program,
        "model": plan.model,
        "text_counted": counting.counter is not None,
        "limits": {plan.form.limit: plan.limits.tokens, "limit_images": plan.limit_images},
        "ok": not any(finding.ok is False for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "files": [_file_summary(plan, file, text_counted=counting.counter is not None) for file in found.files],
        "shares": {column: dict(counts.most_common()) for column, counts in found.shares.items()},
        "problems": {
            code: {"count": found.counts[code], "first": [asdict(problem) for problem in found.examples[code]]}
            for code in CODES
            if code in found.counts
        },
        "host_memory": [asdict(item) for item in memory],
    }


def _file_summary(plan: Plan, file: FileSurvey, *, text_counted: bool) -> dict[str, Any]:
    columns = {"images": file.images, "text_tokens": file.text, "vision_tokens": file.vision, "tokens": file.total}
    shown = [name for name in columns if text_counted or name in ("images", "vision_tokens")]
    over = {"tokens": plan.limits.tokens, "images": plan.limit_images}
    return {
        "split": file.split,
        "path": file.path,
        "rows": file.rows,
        "looked_at": file.seen,
        "with_problems": file.wrong,
        **{name: _percentiles(values) if name in shown and file.seen else None for name, values in columns.items()},
        "over_limit": {
            name: 0 if limit is None else int((np.asarray(columns[name]) > limit).sum()) for name, limit in over.items()
        },
    }


def _percentiles(values: Any) -> dict[str, int]:
    """Of whole numbers, each percentile a value that occurs."""
    points = np.percentile(np.asarray(values), PERCENTILES, method="inverted_cdf")
    return {"max" if p == 100 else f"p{p}": int(value) for p, value in zip(PERCENTILES, points, strict=True)}


def text_report(summary: Mapping[str, Any]) -> str:
    """The report as lines to read."""
    lines = [f"{summary['program']}, {summary['model']}"]
    if not summary["text_counted"]:
        lines.append(
            "Image tokens are ESTIMATES and text is NOT counted: the model is not on this machine (see below)."
        )
    for file in summary["files"]:
        looked = "" if file["looked_at"] == file["rows"] else f", {file['looked_at']:,} looked at"
        lines.append(f"\n{file['split']}: {file['path']}, {file['rows']:,} rows{looked}")
        if not file["looked_at"]:
            continue
        lines.append(f"  {'':<15}" + "".join(f"{name:>9}" for name in file["images"]))
        for name in ("images", "text_tokens", "vision_tokens", "tokens"):
            cells = "".join(f"{value:>9,}" for value in file[name].values()) if file[name] else "  not counted"
            lines.append(f"  {name.replace('_', ' '):<15}{cells}")
        for (limit, value), over in zip(summary["limits"].items(), file["over_limit"].values(), strict=True):
            if value is not None:
                alone = "" if summary["text_counted"] or limit == "limit_images" else " by images alone"
                lines.append(f"  over {limit}={value}{alone}: {over:,} rows ({over / file['looked_at']:.2%})")
    for column, counts in summary["shares"].items():
        lines.append(f"\nby {column}, of the {summary['files'][0]['split']} rows looked at")
        whole = sum(counts.values())
        for value, count in list(counts.items())[:_SHARES_SHOWN]:
            lines.append(f"  {count / whole:>7.2%}  {count:>10,}  {value or '(none)'}")
        if len(counts) > _SHARES_SHOWN:
            lines.append(f"  and {len(counts) - _SHARES_SHOWN} more, in --json")
    if summary["host_memory"]:
        lines.append("\nhost memory for the mean row, all nodes together (beside models, engines and Ray)")
        for item in summary["host_memory"]:
            lines.append(f"  {host_memory.size(item['bytes']):>13}  {item['what']}: {item['formula']}")
    for code, problem in summary["problems"].items():
        kind = " (a warning)" if code in WARNINGS else ""
        lines.append(f"\n{code}: {problem['count']:,}{kind}")
        lines += [f"  {Problem(**first)}" for first in problem["first"]]
        if problem["count"] > len(problem["first"]):
            lines.append(f"  and {problem['count'] - len(problem['first']):,} more")
    lines.append("")
    lines += [str(Finding(**finding)) for finding in summary["findings"]]
    lines.append("\n" + ("The run would get through its data." if summary["ok"] else "The run would fail."))
    return "\n".join(lines)


# --- The command ----------------------------------------------------------------------------------------------


def examine(
    config: Any,
    program: str,
    *,
    sample: int | None = None,
    decode: bool = False,
    show: gallery.Chosen | None = None,
) -> dict[str, Any]:
    """Everything about the data of a composed configuration, as JSON values; ``ok`` is whether the run would go on.

    Args:
        program: `RL_TRAINER` or `SFT_TRAINER`.
        sample, decode, show: See `survey`.
    """
    plan = Plan.of(config, program)
    counting = load_counting(plan)
    decode = decode or config.data.get("cinema_checks") == "full"
    found = survey(plan, counting.counter, counting.patching, sample=sample, decode=decode, show=show)
    findings = [*counting.findings, *judge(plan, config, found)]
    return summarise(plan, counting, found, findings, project(plan, config, found, counting.patching))


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl preflight`; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="cinema-verl preflight",
        description="Check the rows that a run would read, count their images and tokens, project host memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="+", metavar="+recipe=NAME key=value", help="what the run is given")
    parser.add_argument("--full", action="store_true", help="decode every image; finds truncated files")
    parser.add_argument("--sample", type=_positive, metavar="N", help="look at N rows of each file; all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON, too")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="write an HTML page with rows to look at")
    parser.add_argument(
        "--show", type=_positive, default=gallery.SHOWN, metavar="N", help="rows on the page; %(default)s"
    )
    parsed = parser.parse_intermixed_args(arguments)
    try:
        recipe, overrides = split_overrides(parsed.overrides)
        config, composed = compose(recipe, overrides)
        if config is None:
            raise UsageError(composed[-1].detail)
    except UsageError as error:
        parser.error(str(error))
    program = program_of(recipe) if recipe in shipped_recipes() else RL_TRAINER

    show = gallery.Chosen(parsed.show) if parsed.gallery else None
    summary = examine(config, program, sample=parsed.sample, decode=parsed.full, show=show)
    print(text_report(summary))
    try:
        if parsed.json:
            with atomic_write(parsed.json) as file:
                file.write(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
        if show is not None:
            with atomic_write(parsed.gallery) as file:
                file.write(gallery.page(show, summary))
    except OSError as error:
        print(
            f"cinema-verl preflight: the report is above, a file of it could not be written: {error}", file=sys.stderr
        )
        return 2
    if parsed.gallery:
        print(f"look at {parsed.gallery}")
    return int(not summary["ok"])


def split_overrides(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe's name, and the other overrides.

    Raises:
        UsageError: no recipe, or two.
    """
    recipes = [argument.removeprefix("+recipe=") for argument in arguments if argument.startswith("+recipe=")]
    if len(recipes) != 1:
        raise UsageError(f"name one recipe, as the run does: +recipe=NAME, of {', '.join(shipped_recipes())}")
    return recipes[0], [argument for argument in arguments if not argument.startswith("+recipe=")]


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
