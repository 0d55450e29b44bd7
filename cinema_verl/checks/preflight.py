"""`cinema-verl preflight`: will a run get through, and what will it cost?

The configuration is composed as the run composes it and judged as the run judges it. The model's folder is looked at,
and the files are read as the run reads them: every row is checked, images and tokens are counted, host memory is
projected. A minute here finds what a training job meets hours later. `--gallery` shows the rows as a person looks at
them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cinema_verl.checks import gallery
from cinema_verl.checks.compose import UsageError, compose, program_for, split_overrides
from cinema_verl.checks.counting import Counting, load_counting
from cinema_verl.checks.engine import inspect_engine
from cinema_verl.checks.finding import Finding
from cinema_verl.checks.judge import inspect_judge
from cinema_verl.checks.machine import inspect_machine
from cinema_verl.checks.needs import inspect_files, project
from cinema_verl.checks.plan import Plan
from cinema_verl.checks.report import summarise, text_report
from cinema_verl.checks.survey import Survey, survey
from cinema_verl.data.tokens import QWEN2_5_VL
from cinema_verl.registration.command_line import RL_TRAINER
from cinema_verl.training.model_folder import folder_of, folder_refusals
from cinema_verl.training.refusal import Facts
from cinema_verl.training.registered import unregistered
from cinema_verl.training.resume import resume_refusals
from cinema_verl.training.run_folder import Taken, refuse_taken
from cinema_verl.training.verdict import refusals
from cinema_verl.utils.arguments import Parser, positive
from cinema_verl.utils.files import atomic_write

EXAMPLES = """\
examples:
  cinema-verl preflight +recipe=cinema data.train_files=data/rl/train-00000.parquet \\
      data.val_files=data/rl/val-00000.parquet actor_rollout_ref.model.path=/models/qwen2.5-vl-7b-cold-start
  cinema-verl preflight +recipe=cinema ... --gallery rows.html      look at the rows, in a browser
  cinema-verl preflight +recipe=cinema ... --full                   decode every image, not its header only
  cinema-verl preflight +recipe=cinema ... --sample 2000            of millions, some of each file
  cinema-verl preflight +recipe=cinema ... --other-machine          the run will be on another machine than this
  cinema-verl preflight +recipe=cinema_cold_start data.train_files=sft_train.parquet

Give it what the run is given, after the program's name. Text is counted with the model's own tokenizer where the
model's path is a folder, or a name whose files are cached here; nothing is downloaded. Otherwise images are counted
as Qwen2.5-VL cuts them, text is not counted, and the report says so.

The exit code is 0 when the run would get through, 1 when it would fail, 2 for a command line that is not understood.
Lines that begin with "-" are for your information and stop nothing.
"""


def examine(
    config: Any,
    program: str,
    *,
    sample: int | None = None,
    decode: bool = False,
    show: gallery.Chosen | None = None,
    here: bool = True,
    known: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Everything about a composed configuration, as JSON values; ``ok`` is whether the run would get through.

    Args:
        program: `RL_TRAINER` or `SFT_TRAINER`.
        sample, decode, show: See `survey`.
        here: Whether the run will be on this machine, or on machines like it.
        known: What was found already.
    """
    plan = Plan.of(config, program)
    model, counting = _look_at_model(config, plan)
    decode = decode or config.data.get("cinema_checks") == "full"
    found = survey(plan, counting.counter, counting.patching, sample=sample, decode=decode, show=show)
    judged = [*refusals(config, _facts(found, here=here)), *unregistered(config)]
    verdict = [Finding.of("run", refusal) for refusal in judged]
    findings = [*known, *model, *counting.findings, *inspect_files(plan, config, found), *inspect_judge(found)]
    findings += inspect_engine(config, counting.patching)
    batch = config.data.train_batch_size
    memory = project(plan, config, found, counting.patching) if isinstance(batch, int) and batch > 0 else []
    if here:
        findings += inspect_machine(config, folder_of(plan.model), memory, rl=program == RL_TRAINER)
        findings += _where_it_writes(plan, config)
    said = {(finding.what, finding.detail) for finding in model}  # the family is the verdict's, and the folder's, too
    findings += [finding for finding in verdict if (finding.what, finding.detail) not in said]
    return summarise(plan, counting, found, findings, memory)


def _look_at_model(config: Any, plan: Plan) -> tuple[list[Finding], Counting]:
    """What is wrong with the model's folder; and how tokens are counted, without its processor if it is of no use."""
    unusable = [refusal for refusal in refusals(config, Facts(rows={})) if refusal.key.endswith("model.path")]
    found = [Finding.of("model", refusal) for refusal in unusable or folder_refusals(config)]
    if unusable:
        return found, Counting(None, QWEN2_5_VL, ())
    return found, load_counting(plan)


def _where_it_writes(plan: Plan, config: Any) -> list[Finding]:
    """Whether the run's folder is free, or holds the run that this one goes on with."""
    if plan.evaluates:
        return []
    found = [Finding.of("run", refusal) for refusal in resume_refusals(config)]
    try:
        refuse_taken(config)
    except Taken as error:
        advice = "name another folder, or go on with that run as it was started"
        found.append(Finding("run", "trainer.default_local_dir", False, str(error), advice))
    return found


def _facts(found: Survey, *, here: bool) -> Facts:
    """What the verdict may go by: the rows counted, and this machine unless the run will be elsewhere."""
    rows = {split: sum(file.rows for file in found.of(split)) for split in ("train", "val") if found.of(split)}
    facts = Facts.here()._replace(rows=rows)
    return facts if here else facts._replace(cpus=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl preflight`; see `--help`."""
    parser = _parser()
    parsed = parser.parse_intermixed_args(arguments)
    try:
        recipe, overrides = split_overrides(parsed.overrides)
        config, composed = compose(recipe, overrides)
        if config is None:
            raise UsageError(f"{composed[-1].detail}\n{composed[-1].advice}")
    except UsageError as error:
        parser.error(str(error))

    show = gallery.Chosen(parsed.show) if parsed.gallery else None
    summary = examine(
        config,
        program_for(recipe),
        sample=parsed.sample,
        decode=parsed.full,
        show=show,
        here=not parsed.other_machine,
        known=[finding for finding in composed if finding.ok is False],
    )
    print(text_report(summary))
    try:
        if parsed.json:
            with atomic_write(parsed.json) as file:
                file.write(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
        if show is not None:
            with atomic_write(parsed.gallery) as file:
                file.write(gallery.page(show, summary, config.data.get("cinema_prompt_mode")))
    except OSError as error:
        print(
            f"cinema-verl preflight: the report is above, a file of it could not be written: {error}", file=sys.stderr
        )
        return 2
    if parsed.gallery:
        print(f"look at {parsed.gallery}")
    return int(not summary["ok"])


def _parser() -> Parser:
    parser = Parser(
        prog="cinema-verl preflight",
        description="Check configuration, model and rows before a run, count images and tokens, project host memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="+", metavar="+recipe=NAME key=value", help="what the run is given")
    parser.add_argument("--full", action="store_true", help="decode every image; finds truncated files")
    parser.add_argument("--sample", type=positive, metavar="N", help="look at N rows of each file (default: all)")
    parser.add_argument(
        "--other-machine", action="store_true", help="do not compare with the CPUs, memory and disk of this machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--gallery", type=Path, metavar="FILE", help="write an HTML page with rows to look at")
    parser.add_argument(
        "--show", type=positive, default=gallery.SHOWN, metavar="N", help="rows on the page (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
