"""`cinema-verl cold-start`: the command line of Retrieval-Based Tree Sampling."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from cinema_verl.cold_start.estimate import estimate
from cinema_verl.cold_start.outputs import LEFT, PROVENANCE, RL_POOL, SFT, write_outputs
from cinema_verl.cold_start.pipeline import Results, WorkerFailed, work_all
from cinema_verl.cold_start.plan import Plan
from cinema_verl.cold_start.requests import MODES, Settings, path_line, policy_messages, teacher_messages
from cinema_verl.cold_start.retrieval import DEFAULT_ENCODER, PACKAGED_ENCODER, SIMILARITIES
from cinema_verl.cold_start.trees_page import SAMPLED, Gallery
from cinema_verl.endpoint.client import Endpoint, StopRun
from cinema_verl.endpoint.ledger import Ledger, LedgerError
from cinema_verl.endpoint.token_costs import VISION
from cinema_verl.utils.arguments import Parser
from cinema_verl.utils.ray_map import ClusterFailed

DESCRIPTION = """\
Two distinct, verified trajectories for each question (Retrieval-Based Tree Sampling, the cold start of CINEMA).

  1. a student writes drafts with the meta-actions; they are kept, right or wrong
  2. a teacher solves the question again along the path of the first well-formed draft
       wrong: the question goes to the RL pool        right: it goes to the cold start
  3. from the trajectory least like the teacher's upwards, the first right one on another path is the second;
     where there is none, the teacher is asked along other paths

Every reply is in a ledger before it is used. Interrupt it, kill it, let it run into its budget: the same command goes
on, and pays for nothing twice."""

EXAMPLES = """\
output:
  OUTPUT/sft.parquet         the cold start, two rows a question     torchrun … +recipe=cinema_cold_start
  OUTPUT/rl.parquet          the RL pool                             python -m verl.trainer.main_ppo +recipe=cinema
  OUTPUT/provenance.jsonl    every sample, verdict and similarity, and why this second path
  OUTPUT/left_out.jsonl      what went nowhere, and why
  OUTPUT/summary.json        counts that add up, tokens, cost
  OUTPUT/trees.html          a sample of the trees, to look at in a browser
  OUTPUT/work/               ledger and results: keep them until you are done

examples:
  what would it cost? nothing is asked, no key is needed
    cinema-verl cold-start --questions data/train --output out/cold_start --dry-run \\
      --student-url http://localhost:8000/v1 --student-model Qwen/Qwen2.5-VL-7B-Instruct \\
      --teacher-url https://api.openai.com/v1 --teacher-model gpt-4o --teacher-price 2.5 10 --teacher-vision tiles
  then, with a key in the environment and never on the command line
    export OPENAI_API_KEY=…
    cinema-verl cold-start … --teacher-key-env OPENAI_API_KEY --teacher-rpm 500 --teacher-tpm 800000 --budget 300
  try it on the first 50 questions; later, without --limit, their calls are not paid again
    cinema-verl cold-start … --limit 50
  the ablations of the paper, each into a directory of its own; one trajectory a question is made of what is paid
    cinema-verl cold-start … --trajectories 1 --output out/one --work out/cold_start/work
    cinema-verl cold-start … --mode cot --output out/cot
  a parquet of RL rows as questions: cinema-verl prepare rl_parquet; the whole of it offline: make cold-start

exit codes: 0 all questions are done; 1 it stopped before (the reason is printed, the same command goes on);
2 a command line that is not understood"""


def _usual(name: str) -> Any:
    """The default of an endpoint's field."""
    return next(field.default for field in fields(Endpoint) if field.name == name)


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
    main.add_argument("--questions", type=Path, required=True, help="a dataset directory, or JSONL of questions")
    main.add_argument("--output", type=Path, required=True, help="directory; go on with a run by naming its directory")
    main.add_argument("--work", type=Path, help="its ledger and results; runs that name the same share it; OUTPUT/work")
    main.add_argument("--limit", type=int, help="only the first so many questions")
    main.add_argument("--dry-run", action="store_true", help="print what would be asked and cost; ask nothing")
    main.add_argument("--budget", type=float, help="stop before all runs on this ledger together could cost more")
    for who, vision in (("student", "qwen2.5"), ("teacher", "tiles")):
        group = main.add_argument_group(who, "an OpenAI-compatible endpoint")
        group.add_argument(f"--{who}-url", required=True, metavar="URL", help="its base URL, which ends in /v1")
        group.add_argument(f"--{who}-model", required=True, metavar="NAME", help="the model's name there")
        group.add_argument(
            f"--{who}-key-env", default="", metavar="VARIABLE", help="environment variable that holds the key; none"
        )
        group.add_argument(
            f"--{who}-price",
            type=float,
            nargs=2,
            default=(0.0, 0.0),
            metavar=("IN", "OUT"),
            help="of a million tokens, read and written; 0 0",
        )
        group.add_argument(f"--{who}-rpm", type=float, default=0.0, help="most requests a minute; no limit")
        group.add_argument(f"--{who}-tpm", type=float, default=0.0, help="most tokens a minute; no limit")
        group.add_argument(f"--{who}-concurrency", type=int, default=64, help="requests at a time; %(default)s")
        group.add_argument(f"--{who}-timeout", type=float, default=120.0, help="seconds for a request; %(default)s")
        group.add_argument(
            f"--{who}-vision",
            choices=sorted(VISION),
            default=vision,
            help="how it counts images, for costs, budget and tokens a minute: tiles as GPT-4o and GPT-4.1; tiles-mini "
            "as GPT-4o-mini; patches as GPT-4.1-mini and o4-mini; qwen2.5 and qwen3 as Qwen-VL, wherever it is served; "
            "for others, one that counts no less; %(default)s",
        )
        group.add_argument(f"--{who}-retries", type=int, default=_usual("max_retries"), help="of a call; %(default)s")
        for limit, what in (
            ("image-pixels", "larger images are shrunk; 0: no limit"),
            ("image-bytes", "larger files are shrunk; 0: no limit"),
            ("request-bytes", "larger requests are not sent"),
        ):
            usual = _usual(f"max_{limit.replace('-', '_')}")
            group.add_argument(f"--{who}-{limit}", type=int, default=usual, help=f"{what}; %(default)s")
        group.add_argument(
            f"--{who}-max-tokens-field",
            choices=("max_tokens", "max_completion_tokens"),
            default=_usual("max_tokens_field"),
            help="OpenAI's reasoning models know the second only; %(default)s",
        )
        group.add_argument(f"--{who}-proxy", default="", metavar="URL", help="of an HTTP proxy; none")
    default = Settings()
    method = main.add_argument_group("the method", "what the paper leaves open; see docs/cold_start.md for the reasons")
    method.add_argument(
        "--mode",
        choices=MODES,
        default=default.mode,
        help="words for student and SFT rows; cot: the ablation by plain chain of thought; none: no system prompt",
    )
    method.add_argument("--trajectories", type=int, choices=(1, 2), default=2, help="a question; paper: %(default)s")
    method.add_argument("--drafts", type=int, default=default.drafts, help="of the student; %(default)s")
    method.add_argument("--draft-temperature", type=float, default=default.draft_temperature, help="%(default)s")
    method.add_argument("--draft-tokens", type=int, default=default.draft_tokens, help="most of a draft; %(default)s")
    method.add_argument(
        "--refinements",
        type=int,
        default=default.refinements,
        help="tries of the teacher to follow the path; %(default)s",
    )
    method.add_argument(
        "--explorations",
        type=int,
        default=default.explorations,
        help="other paths asked along where no second one was sampled; %(default)s",
    )
    method.add_argument("--teacher-temperature", type=float, default=default.teacher_temperature, help="%(default)s")
    method.add_argument(
        "--teacher-tokens", type=int, default=default.teacher_tokens, help="most of a reply; %(default)s"
    )
    method.add_argument(
        "--similarity",
        choices=SIMILARITIES,
        default=default.similarity,
        help="what retrieval compares: the words of all actions, or their names; %(default)s",
    )
    method.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        help=f"a sentence-transformers model: a name, a directory, or {PACKAGED_ENCODER}; %(default)s",
    )
    method.add_argument("--no-seeds", action="store_true", help="for endpoints that do not know the field `seed`")
    rows = main.add_argument_group("rows for verl")
    rows.add_argument("--singles", action="store_true", help="keep questions without a second path, as one row")
    rows.add_argument("--min-pixels", type=int, default=default.min_pixels, help="of an image's area; %(default)s")
    rows.add_argument("--max-pixels", type=int, default=default.max_pixels, help="of an image's area; %(default)s")
    rows.add_argument("--browse", type=int, default=SAMPLED, help="questions in trees.html; %(default)s")
    scale = main.add_argument_group("scale")
    scale.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that divide questions, limits and budget; several run under Ray; %(default)s",
    )
    scale.add_argument(
        "--ray-address",
        default="",
        metavar="HOST:PORT",
        help="head of a running cluster that sees OUTPUT and has the keys in its environment (`auto` is no address); "
        "without it, this machine",
    )
    return main


def plan_of(options: argparse.Namespace) -> Plan:
    """The run that a command line describes.

    Raises:
        ValueError: values that do not fit together.
    """
    if options.budget is not None and not any((*options.student_price, *options.teacher_price)):
        raise ValueError("--budget stops nothing where nothing has a price: give --teacher-price (or --student-price)")
    if options.budget is not None and not options.budget >= 0:
        raise ValueError(f"--budget is a number from 0 upwards, not {options.budget}")
    if options.workers < 1 or (options.limit is not None and options.limit < 1):
        raise ValueError("--workers and --limit must be at least 1")
    if options.browse < 0:
        raise ValueError("--browse cannot be negative")
    named = {field.name: getattr(options, field.name) for field in fields(Settings) if hasattr(options, field.name)}
    return Plan(
        questions=options.questions.absolute(),
        output=options.output.absolute(),
        student=_endpoint(options, "student"),
        teacher=_endpoint(options, "teacher"),
        settings=Settings(**named, seeds=not options.no_seeds),
        encoder=options.encoder,
        budget=options.budget,
        limit=options.limit,
        work=options.work and options.work.absolute(),
        workers=options.workers,
        ray_address=options.ray_address,
    )


def _endpoint(options: argparse.Namespace, who: str) -> Endpoint:
    def given(name: str) -> Any:
        return getattr(options, f"{who}_{name}")

    prompt_price, completion_price = given("price")
    try:
        return Endpoint(
            base_url=given("url"),
            model=given("model"),
            api_key_env=given("key_env"),
            prompt_price=prompt_price,
            completion_price=completion_price,
            requests_per_minute=given("rpm"),
            tokens_per_minute=given("tpm"),
            concurrency=given("concurrency"),
            timeout=given("timeout"),
            vision=given("vision"),
            max_retries=given("retries"),
            max_image_pixels=given("image_pixels"),
            max_image_bytes=given("image_bytes"),
            max_request_bytes=given("request_bytes"),
            max_tokens_field=given("max_tokens_field"),
            proxy=given("proxy"),
        )
    except ValueError as error:
        raise ValueError(f"the {who}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; see `EXAMPLES` for the exit code."""
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
        stopped = work_all(plan)
        done = finish(plan, singles=options.singles, browse=options.browse)
    except (StopRun, WorkerFailed, ClusterFailed, LedgerError, OSError, ValueError) as error:
        print(f"cinema-verl cold-start: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cinema-verl cold-start: interrupted; the same command goes on", file=sys.stderr)
        return 1
    for reason in stopped:
        print(f"cinema-verl cold-start: stopped: {reason}", file=sys.stderr)
    return 0 if done and not stopped else 1


def waits(record: Mapping[str, Any]) -> bool:
    """Whether the next run may find something else by asking again, all else being as it is."""
    return any(name.endswith("/unavailable") for name in record["calls"]) or any(
        sample["correct"] is None for sample in record["samples"]
    )


def finish(plan: Plan, *, singles: bool = False, browse: int = SAMPLED) -> bool:
    """Write and print what the results come to; whether no question is left for another run."""
    gallery = Gallery(browse)
    unfinished = 0

    def look(question: Any, record: Any) -> None:
        nonlocal unfinished
        unfinished += waits(record)
        gallery.look(question, record)

    with closing(Results(plan)) as results:
        if not results:
            return False  # nothing could be asked: what a run with other settings has written stays
        summary = write_outputs(plan.output, plan.read(), results.get, plan.settings, singles=singles, look=look)
    gallery.write(plan.output, summary.to_json())
    print(summary.table())
    print(_spent(plan))
    if unfinished:
        print(f"{unfinished:,} questions wait for an endpoint that could not be asked: run the same command again")
    for name in (SFT, RL_POOL, PROVENANCE, LEFT, "trees.html"):
        if (plan.output / name).exists():
            print(f"  {plan.output / name}")
    return not unfinished and not summary.not_reached


def _spent(plan: Plan) -> str:
    """What the ledgers come to: calls whose questions are not done, and of other settings, are among it."""
    spent = []
    for path in (plan.shard(number).ledger for number in range(plan.workers)):
        if path.exists():
            with Ledger(path) as ledger:
                spent.append(ledger.spent())
    text = f"ledger: {sum(each.calls for each in spent):,} calls, cost {sum(each.cost for each in spent):,.2f}"
    if unknown := sum(each.maybe_paid for each in spent):
        most = sum(each.maybe_cost for each in spent)
        text += f"; beside them {unknown:,} requests that broke off and may have been paid, at most {most:,.2f}"
    return text


def _shown(plan: Plan) -> Iterator[str]:
    """The first question as student and teacher would read it."""
    question = next(plan.read(), None)
    if question is None:
        return
    path = ("focus", "think", "answer")
    asked = [("teacher", teacher_messages(question, path))]
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
