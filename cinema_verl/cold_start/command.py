"""`cinema-verl cold-start`: the command line of Retrieval-Based Tree Sampling."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from cinema_verl.cold_start.breaker import FIRST, SHARE, WINDOW
from cinema_verl.cold_start.estimate import estimate
from cinema_verl.cold_start.outputs import LEFT, PROVENANCE, RL_POOL, SFT, write_outputs
from cinema_verl.cold_start.pipeline import Results, WorkerFailed, work_all
from cinema_verl.cold_start.plan import SamplingPlan
from cinema_verl.cold_start.requests import SamplingSettings, modes, path_line, policy_messages, teacher_messages
from cinema_verl.cold_start.retrieval import DEFAULT_ENCODER, PACKAGED_ENCODER, SIMILARITIES
from cinema_verl.cold_start.trees_page import SAMPLED, Gallery
from cinema_verl.data.directory import check_unchanged, fingerprint, sole_writer
from cinema_verl.endpoint.ledger import Ledger, LedgerError
from cinema_verl.endpoint.outcomes import Outcome
from cinema_verl.endpoint.settings import Endpoint, StopRun
from cinema_verl.endpoint.token_costs import VISION
from cinema_verl.utils.arguments import Parser, area, not_negative, positive
from cinema_verl.utils.files import Locked
from cinema_verl.utils.native_reasoning import NATIVE_REASONING
from cinema_verl.utils.ray_map import ClusterFailed

DESCRIPTION = """\
Make two distinct, verified trajectories for each question (Retrieval-Based Tree Sampling, the cold start of CINEMA).

  1. A student writes drafts with the meta-actions. They are kept, correct or incorrect.
  2. A teacher solves the question again along the path of the first well-formed draft.
     Incorrect: the question goes to the RL pool. Correct: it goes to the cold start.
  3. The second trajectory is the correct one on another path that is least similar to the teacher's.
     If none was sampled, the teacher is asked to follow other paths.

Every reply is in a ledger before it is used. After an interruption, a kill or a reached budget, the same command
continues the run and pays for nothing twice."""

EXAMPLES = """\
output:
  OUTPUT/sft.parquet         the cold start, two rows a question     torchrun … +recipe=cinema_cold_start
  OUTPUT/rl.parquet          the RL pool                             python -m verl.trainer.main_ppo +recipe=cinema
  OUTPUT/provenance.jsonl    every sample, verdict and similarity, and the reason for the second path
  OUTPUT/left_out.jsonl      questions that were left out, with reasons and what was wrong with the replies
  OUTPUT/summary.json        counts that add up, tokens, cost
  OUTPUT/trees.html          a sample of the trees, for a browser
  OUTPUT/work/               ledger and results; keep them until the run is done

examples:
  What would it cost? Nothing is asked, and no key is needed.
    cinema-verl cold-start --questions data/train --output out/cold_start --dry-run \\
      --student-url http://localhost:8000/v1 --student-model Qwen/Qwen2.5-VL-7B-Instruct \\
      --teacher-url https://api.openai.com/v1 --teacher-model gpt-4o --teacher-price 2.5 10 --teacher-vision tiles
  Then run it, with the key in the environment and never on the command line.
    export OPENAI_API_KEY=…
    cinema-verl cold-start … --teacher-key-env OPENAI_API_KEY --teacher-rpm 500 --teacher-tpm 800000 --budget 300
  Try it on the first 50 questions. Later, without --limit, their calls are not paid again.
    cinema-verl cold-start … --limit 50
  The ablations of the paper, each in its own directory. The one with one trajectory pays for nothing again.
    cinema-verl cold-start … --trajectories 1 --output out/one --work out/cold_start/work
    cinema-verl cold-start … --mode cot --output out/cot
  `cinema-verl prepare rl_parquet` turns a parquet of RL rows into questions; `make cold-start` is an offline demo.

exit codes: 0: all questions are done. 1: the run stopped before (the reason is printed; the same command continues it),
or no question became a row. 2: the command line is not understood."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    main = Parser(
        prog="cinema-verl cold-start",
        usage="cinema-verl cold-start --questions PATH --output DIR --student-url URL --student-model NAME "
        "--teacher-url URL --teacher-model NAME [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument(
        "--questions",
        type=Path,
        required=True,
        metavar="PATH",
        help="A dataset directory, or a JSONL file of questions.",
    )
    main.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="Directory of the run. Naming it again continues the run.",
    )
    main.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="Directory of the ledger and the results. Runs that name the same one share what is paid. "
        "(default: OUTPUT/work)",
    )
    main.add_argument("--limit", type=positive, metavar="N", help="Take only the first N questions. (default: all)")
    main.add_argument("--dry-run", action="store_true", help="Print what would be asked and what it would cost.")
    main.add_argument(
        "--budget",
        type=float,
        metavar="COST",
        help="Stop before all runs on this ledger together could cost more. (default: no limit)",
    )
    main.add_argument(
        "--failing-alike",
        type=float,
        default=SHARE,
        metavar="SHARE",
        help=f"Stop when this share of the first {FIRST} replies of a model, or of the latest {WINDOW}, fails in the "
        "same way; 2 never stops. (default: %(default)s)",
    )
    main.add_argument(
        "--no-model-check",
        action="store_true",
        help="Do not ask the endpoints for their models before the run. Without it, an endpoint that does not list its "
        "model is asked one question.",
    )
    _endpoint_options(main, "student", vision="qwen2.5")
    _endpoint_options(main, "teacher", vision="tiles")
    _method_options(main)
    _row_options(main)
    _scale_options(main)
    return main


_ENDPOINT_OPTIONS: Final = (
    # option, field of Endpoint, metavar, help
    ("key-env", "api_key_env", "VARIABLE", "Environment variable that holds the key."),
    ("rpm", "requests_per_minute", "N", "Most requests per minute; 0 for no limit."),
    ("tpm", "tokens_per_minute", "N", "Most tokens per minute; 0 for no limit."),
    ("concurrency", "concurrency", "N", "Most requests at the same time."),
    ("timeout", "timeout", "SECONDS", "Seconds for a request with its answer."),
    ("retries", "max_retries", "N", "Attempts after the first one of a call."),
    ("image-pixels", "max_image_pixels", "N", "Images with more pixels are shrunk; 0 for no limit."),
    ("image-bytes", "max_image_bytes", "N", "Larger image files are shrunk; 0 for no limit."),
    ("request-bytes", "max_request_bytes", "N", "Larger requests are not sent."),
    ("proxy", "proxy", "URL", "URL of an HTTP proxy."),
)
_VISION_HELP: Final = (
    "How the model counts images, for costs, budget and tokens per minute: tiles as GPT-4o and GPT-4.1; tiles-mini as "
    "GPT-4o-mini; patches as GPT-4.1-mini and o4-mini; qwen2.5 and qwen3 as Qwen-VL, wherever it is served; for other "
    "models, a rule that counts no less."
)
_FIELD_HELP: Final = (
    "Name of the field for the most tokens to write. OpenAI's reasoning models know max_completion_tokens only."
)

_REASONING_HELP: Final = (
    "What is known of the model's own reasoning, because <think> is one of the five tags, too: "
    + "; ".join(f"{name}: {meaning}" for name, meaning in NATIVE_REASONING.items())
    + ". Reasoning that an endpoint gives in a field of its own needs no declaration."
)
_EXTRA_HELP: Final = (
    "A JSON object whose fields are added to each request, such as "
    '\'{"chat_template_kwargs": {"enable_thinking": false}}\' for vLLM.'
)


def _endpoint_options(main: argparse.ArgumentParser, who: str, *, vision: str) -> None:
    group = main.add_argument_group(who, "An OpenAI-compatible endpoint.")

    def add(option: str, field: str, text: str, **options: Any) -> None:
        shown = {"": "none", (0.0, 0.0): "0 0"}.get(options.get("default", 0), "%(default)s")
        text += "" if options.get("required") else f" (default: {shown})"
        group.add_argument(f"--{who}-{option}", dest=f"{who}_{field}", help=text, **options)

    add("url", "base_url", "Base URL, which usually ends in /v1.", metavar="URL", required=True)
    add("model", "model", "Name of the model there.", metavar="NAME", required=True)
    price = {"type": float, "nargs": 2, "default": (0.0, 0.0), "metavar": ("IN", "OUT")}
    add("price", "price", "Price of a million tokens, read and written.", **price)
    default: dict[str, Any] = {field.name: field.default for field in fields(Endpoint)}
    for option, name, metavar, text in _ENDPOINT_OPTIONS:
        add(option, name, text, metavar=metavar, type=type(default[name]), default=default[name])
    add("vision", "vision", _VISION_HELP, choices=sorted(VISION), default=vision)
    names = ("max_tokens", "max_completion_tokens")
    add("max-tokens-field", "max_tokens_field", _FIELD_HELP, choices=names, default=default["max_tokens_field"])
    add("native-reasoning", "native_reasoning", _REASONING_HELP, choices=[*NATIVE_REASONING], default="none")
    add("extra-body", "extra_body", _EXTRA_HELP, metavar="JSON", default="{}")


def _method_options(main: argparse.ArgumentParser) -> None:
    group = main.add_argument_group("method", "What the paper leaves open. docs/cold_start.md gives the reasons.")
    default = SamplingSettings()

    def add(name: str, text: str, **options: Any) -> None:
        value = getattr(default, name)
        kind: Callable[[str], Any] = type(value)
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, default=value, help=f"{text} (default: %(default)s)", type=kind, **options)

    add(
        "mode",
        f"Prompt of the student and of the SFT rows, one of {', '.join(modes())}. cot is the ablation with plain chain "
        "of thought; cinema_without_ACTION takes an action out; none sends no system prompt.",
        choices=modes(),
        metavar="MODE",
    )
    add("trajectories", "Trajectories per question. The paper has 2; 1 is its ablation.", choices=(1, 2))
    add("drafts", "Drafts of the student per question.", metavar="N")
    add("draft_temperature", "Temperature of the drafts.", metavar="T")
    add("draft_tokens", "Most tokens of a draft.", metavar="N")
    add("refinements", "Attempts of the teacher to follow the path.", metavar="N")
    add("explorations", "Other paths that the teacher is asked to follow if no second one was sampled.", metavar="N")
    add("teacher_temperature", "Temperature of the teacher.", metavar="T")
    add("teacher_tokens", "Most tokens of a reply of the teacher.", metavar="N")
    add("similarity", "What retrieval compares: the text of all actions, or their names.", choices=SIMILARITIES)
    group.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        metavar="NAME",
        help=f"A sentence-transformers model: a name on the Hugging Face hub, a directory, or {PACKAGED_ENCODER}. "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--no-seeds", action="store_true", help="Do not send the field `seed`, which some endpoints lack."
    )


def _row_options(main: argparse.ArgumentParser) -> None:
    group = main.add_argument_group("rows for verl")
    default = SamplingSettings()
    group.add_argument(
        "--singles", action="store_true", help="Keep questions without a second path, as one SFT row each."
    )
    for most, value in (("min", default.min_pixels), ("max", default.max_pixels)):
        group.add_argument(
            f"--{most}-pixels",
            type=area,
            default=value,
            metavar="AREA",
            help=f"{most.capitalize()}imum area of an image, in pixels or as 640x480. (default: %(default)s)",
        )
    group.add_argument(
        "--browse",
        type=not_negative,
        default=SAMPLED,
        metavar="N",
        help="Questions shown in trees.html. (default: %(default)s)",
    )


def _scale_options(main: argparse.ArgumentParser) -> None:
    group = main.add_argument_group("scale")
    group.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="Processes that divide questions, rate limits and budget; more than one run under Ray. "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--ray-address",
        default="",
        metavar="HOST:PORT",
        help="Head of a running Ray cluster that sees OUTPUT and has the keys in its environment; `auto` is not "
        "accepted. (default: this machine)",
    )


def plan_of(options: argparse.Namespace) -> SamplingPlan:
    """The run that a command line describes.

    Raises:
        ValueError: values that do not fit together.
    """
    if options.budget is not None and not any((*options.student_price, *options.teacher_price)):
        raise ValueError("--budget needs a price to have an effect: give --teacher-price (or --student-price)")
    if options.budget is not None and not options.budget >= 0:
        raise ValueError(f"--budget must be a number of at least 0, not {options.budget}")
    if not options.failing_alike > 0:
        raise ValueError(f"--failing-alike must be above 0, not {options.failing_alike}")
    names = [field.name for field in fields(SamplingSettings) if field.name != "seeds"]
    return SamplingPlan(
        questions=options.questions.absolute(),
        output=options.output.absolute(),
        student=_endpoint(options, "student"),
        teacher=_endpoint(options, "teacher"),
        settings=SamplingSettings(**{name: getattr(options, name) for name in names}, seeds=not options.no_seeds),
        encoder=options.encoder,
        budget=options.budget,
        failing_alike=options.failing_alike,
        model_check=not options.no_model_check,
        limit=options.limit,
        work=options.work and options.work.absolute(),
        workers=options.workers,
        ray_address=options.ray_address,
    )


def _endpoint(options: argparse.Namespace, who: str) -> Endpoint:
    given = {name.removeprefix(f"{who}_"): value for name, value in vars(options).items() if name.startswith(f"{who}_")}
    prompt_price, completion_price = given.pop("price")
    fitting = {field.name: given[field.name] for field in fields(Endpoint) if field.name in given}
    try:
        return Endpoint(**fitting, prompt_price=prompt_price, completion_price=completion_price)
    except ValueError as error:
        raise ValueError(f"the {who}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; `EXAMPLES` explains the exit codes."""
    command = parser()
    options = command.parse_args(arguments)
    try:
        plan = plan_of(options)
        expected = estimate(plan)
    except (ValueError, OSError) as error:
        command.error(str(error))
    print(expected)
    if options.dry_run:
        print("\n".join(_shown(plan)))
        return 0
    try:
        with _sigterm_as_ctrl_c(), sole_writer(plan.output):
            read = fingerprint(plan.questions)
            stopped = work_all(plan)
            check_unchanged([read])
            done = finish(plan, singles=options.singles, browse=options.browse)
    except (StopRun, WorkerFailed, ClusterFailed, LedgerError, Locked, OSError, ValueError) as error:
        print(f"cinema-verl cold-start: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cinema-verl cold-start: interrupted; the same command continues the run", file=sys.stderr)
        return 1
    for reason in stopped:
        print(f"cinema-verl cold-start: stopped: {reason}", file=sys.stderr)
    return 0 if done and not stopped else 1


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What Slurm and Kubernetes send ends a run in order, too: nothing more is asked, and what was answered is kept."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def waits(record: Mapping[str, Any]) -> bool:
    """Whether the next run may get further by asking again."""
    return any(name.endswith(f"/{Outcome.UNAVAILABLE}") for name in record["calls"]) or any(
        sample["correct"] is None for sample in record["samples"]
    )


def finish(plan: SamplingPlan, *, singles: bool = False, browse: int = SAMPLED) -> bool:
    """Write the output files and print the summary.

    Returns:
        Whether no question is left for another run.
    """
    gallery = Gallery(browse)
    unfinished = 0

    def look(question: Any, record: Any) -> None:
        nonlocal unfinished
        unfinished += waits(record)
        gallery.look(question, record)

    with closing(Results(plan)) as results:
        if not results:
            return False  # nothing could be asked: the files of a run with other settings stay
        summary = write_outputs(plan.output, plan.read(), results.get, plan.settings, singles=singles, look=look)
    gallery.write(plan.output, summary.to_json())
    print(summary.table())
    print(_spent(plan))
    if unfinished:
        print(f"{unfinished:,} questions wait for an endpoint that did not answer: run the same command again")
    for name in (SFT, RL_POOL, PROVENANCE, LEFT, "trees.html"):
        if (plan.output / name).exists():
            print(f"  {plan.output / name}")
    if not summary.sft_rows and not summary.rl_rows:
        print(
            f"cinema-verl cold-start: no question became a row; {plan.output / LEFT} says why, question by question",
            file=sys.stderr,
        )
        return False
    return not unfinished and not summary.not_reached


def _spent(plan: SamplingPlan) -> str:
    """The sum of the ledgers, which includes calls of unfinished questions and of runs with other settings."""
    spent = []
    for path in (plan.shard(number).ledger for number in range(plan.workers)):
        if path.exists():
            with Ledger(path) as ledger:
                spent.append(ledger.spent())
    text = f"ledger: {sum(each.calls for each in spent):,} calls, cost {sum(each.cost for each in spent):,.2f}"
    if unknown := sum(each.maybe_paid for each in spent):
        most = sum(each.maybe_cost for each in spent)
        text += f"; {unknown:,} more requests broke off and may have been paid, at most {most:,.2f}"
    return text


def _shown(plan: SamplingPlan) -> Iterator[str]:
    """The first question as student and teacher would read it."""
    question = next(plan.read(), None)
    if question is None:
        return
    path = tuple(name for name in ("focus", "think", "answer") if name != plan.settings.removed)
    asked = [("teacher", teacher_messages(question, path, plan.settings))]
    if plan.settings.is_cot:
        asked = [("teacher", policy_messages(question, "cot"))]
    else:
        asked.insert(0, ("student", policy_messages(question, plan.settings.mode)))
    for who, chat in asked:
        yield f"\n--- the {who} reads, for {json.dumps(question.uid)}"
        for message in chat:
            yield f"[{message['role']}]\n{message['content']}"
    if not plan.settings.is_cot:
        yield f"\n(the last line, {path_line(path)!r}, names the path of the student's draft)"


if __name__ == "__main__":
    sys.exit(main())
