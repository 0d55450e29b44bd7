"""Ask a trained policy a question over pictures, and watch it act: `cinema-verl ask MODEL --image a.jpg "…"`."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cinema_verl.ask import harness
from cinema_verl.ask.pictures import BadPicture, data_url
from cinema_verl.ask.samples import NoSample, Reading, Sample, Sampling, chat_of, from_endpoint, from_folder
from cinema_verl.ask.show import Painter, Stream, escaped, wants_colour
from cinema_verl.ask.vote import ANY, Vote, count
from cinema_verl.endpoint.settings import Endpoint, StopRun
from cinema_verl.export.find import TEMPLATE_KWARGS, find, manner_of
from cinema_verl.export.manner import STOP, Manner, NoManner, default, read
from cinema_verl.export.shards import ExportError
from cinema_verl.prompts import modes, system_prompt
from cinema_verl.rollout import openai_server
from cinema_verl.training.model_folder import model_refusals, opens_think
from cinema_verl.utils import native_reasoning
from cinema_verl.utils.arguments import Parser, positive
from cinema_verl.utils.resolvers import package_path
from cinema_verl.verify import answer_types

DEMO: Final = "demo"
ABOUT_DEMO: Final = """\
demo: the tiny policy that ships with this package, 0.76 M weights after a cold start. Each picture must show one
handwritten digit, dark on white. It knows the questions of its training, such as
  Which image shows the largest digit?      Which image is the odd one out?
  What is the sum of the digits?            Order the images from smallest to largest digit.
  Do all images show the same digit?        How many images show an even digit?
  Which digit is shown?
Its greedy answers are correct on 0.77 of held-out questions, from 0.28 (odd one out) to 1.00 (which digit).
Training makes it better: `python -m cinema_verl.demo`, then `cinema-verl ask outputs/demo`.
"""
EPILOG: Final = f"""\
MODEL is a folder that `cinema-verl export` made, any folder of a run whose checkpoint has weights in huggingface/,
another Hugging Face folder of a vision-language model, or `{DEMO}`. It is asked as it was trained (cinema.json).

{ABOUT_DEMO}
examples:
  cinema-verl ask demo --image a.png --image b.png "Which image shows the largest digit?"
  cinema-verl ask outputs/policy --image a.jpg --image b.jpg -n 8 --seed 1 "Which picture was taken first?"
  cinema-verl ask outputs/policy --image a.jpg --json "What is written on the sign?"
  cinema-verl ask NAME --endpoint http://localhost:8000/v1 --image a.jpg "…"      a server that is running
  cinema-verl ask outputs/policy --serve --port 8000                              be that server
  cinema-verl ask outputs/policy --endpoint http://localhost:8000/v1 --serve --port 8001    one for a harness

exit codes: 0 there is an answer, 1 there is none, 2 the command line is not understood
"""
_NO_PROMPT: Final = "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask, show, and return the exit code."""
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if not options.serve and (not (options.question or "").strip() or not options.image):
        parser.error("a question and at least one --image are needed (or --serve)")
    if options.served_name and not options.endpoint:
        parser.error("--served-name is the model's name at an --endpoint")
    if not (0 <= options.temperature < math.inf if options.temperature is not None else True):
        parser.error("--temperature must not be negative")
    try:
        if options.endpoint:
            folder, manner = None, _manner_at_endpoint(options)
        else:
            folder, manner = _model(options.model)
        if options.prompt_mode:
            system = None if options.prompt_mode == _NO_PROMPT else system_prompt(options.prompt_mode)
            manner = replace(manner, system=system)
        if options.native_reasoning:
            manner = replace(manner, native_reasoning=options.native_reasoning)
        if options.serve:
            return _serve(folder, manner, options)
        return _ask(folder, manner, options)
    except (BadPicture, NoSample, NoManner, ExportError, StopRun, ValueError) as error:
        print(f"cinema-verl ask: {escaped(str(error))}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="cinema-verl ask",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help=f"a folder, or `{DEMO}`; with --endpoint the model's name there")
    add("question", nargs="?", metavar="QUESTION", help="the question; <image> in it places the pictures")
    add("--image", type=Path, action="append", default=[], metavar="FILE", help="a picture; once for each, in order")
    add("-n", type=positive, default=1, metavar="N", help="samples, whose answers vote (default: %(default)s)")
    add(
        "--temperature",
        type=float,
        metavar="T",
        help="Of sampling; 0 is greedy. (default: 0 for one sample, 1 for several)",
    )
    add(
        "--seed", type=int, metavar="SEED", help="of the first sample, the next one's is one more (default: fresh ones)"
    )
    add("--max-tokens", type=positive, default=1024, metavar="N", help="of a sample (default: %(default)s)")
    add(
        "--answer-type",
        default=ANY,
        choices=(ANY, *answer_types()),
        metavar="TYPE",
        help=f"by whose rule two answers are one in the vote: {', '.join(answer_types())} (default: the same text or "
        "number); of equally many votes, the answer that came first wins",
    )
    add("--option", action="append", default=[], metavar="TEXT", help="a choice, for --answer-type mcq; once for each")
    add("--prompt-mode", choices=(*modes(), _NO_PROMPT), metavar="MODE", help="another system prompt than in training")
    add(
        "--native-reasoning",
        choices=[*native_reasoning.NATIVE_REASONING],
        help="whose a leading <think> is: "
        + "; ".join(f"{name}, {meaning}" for name, meaning in native_reasoning.NATIVE_REASONING.items())
        + " (default: as the policy was trained; strip where its chat template opens <think>)",
    )
    add("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    add("--endpoint", metavar="URL", help="ask an OpenAI-compatible server, such as http://localhost:8000/v1")
    add("--api-key-env", default="", metavar="NAME", help="environment variable that holds the endpoint's key")
    add("--served-name", metavar="NAME", help="with --endpoint: the model's name there, where it is not MODEL's own")
    add(
        "--serve",
        action="store_true",
        help="answer others over an OpenAI-compatible server, until interrupted; with --endpoint, answer evaluation "
        "harnesses: each question is asked there as in training, and the reply is the answer alone",
    )
    add("--port", type=int, default=0, help="with --serve: on 127.0.0.1; 0 (the default) chooses a free one")
    return parser


# ---- whom to ask, and how ---------------------------------------------------------------------------------------


def _model(name: str) -> tuple[Path, Manner]:
    """The folder of a model, and how it was asked in training."""
    if name == DEMO:
        folder = Path(package_path("demo/digits_cold_start"))
    else:
        folder = Path(name)
    if (folder / "config.json").is_file():
        _refuse_what_is_not_whole(folder, name)
        manner = read(folder)
        if manner is None:
            print(
                f"cinema-verl ask: {folder} does not say how it was asked in training (cinema.json): it is asked as "
                "the recipes ask; --prompt-mode changes that",
                file=sys.stderr,
            )
        return folder, _as_its_template(folder, manner or default())
    found = find(folder)
    policy, command = found.shards / "huggingface", shlex.join(["cinema-verl", "export", name, "--output", "policy"])
    if not any(policy.glob("*.safetensors")):
        if not any(found.shards.glob("model_world_size_*.pt")):
            raise NoSample(f"step {found.step} of {name} has no weights, neither as shards nor in huggingface/")
        raise NoSample(f"step {found.step} of {name} has its weights in shards: {command}, and ask policy")
    _refuse_what_is_not_whole(policy, name)
    if found.setting(TEMPLATE_KWARGS):  # the export writes them into the template
        raise NoSample(f"{name} was trained with {TEMPLATE_KWARGS}: {command}, and ask policy")
    print(f"cinema-verl ask: step {found.step} of {name}", file=sys.stderr)
    return policy, _as_its_template(policy, manner_of(found)[0])


def _refuse_what_is_not_whole(folder: Path, name: str) -> None:
    """A model of another family, or one whose weights or processor are another's, would answer nonsense."""
    if name != DEMO and (refusals := model_refusals(folder, name, rl=None)):
        raise NoSample("\n".join(map(str, refusals)))


def _as_its_template(folder: Path, manner: Manner) -> Manner:
    """A model whose chat template opens `<think>` reasons on its own, where nothing else is declared of it."""
    strips = manner.native_reasoning == "none" and opens_think(folder)
    return replace(manner, native_reasoning="strip") if strips else manner


def _manner_at_endpoint(options: argparse.Namespace) -> Manner:
    """How the model behind an endpoint is asked: as its folder says, if its name is a folder's."""
    folder = Path(options.model)
    if not (folder / "config.json").is_file():
        return (read(folder) if folder.is_dir() else None) or default()
    return _as_its_template(folder, read(folder) or default())


def _serve(folder: Path | None, manner: Manner, options: argparse.Namespace) -> int:
    if folder is None:
        model = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
        endpoint = Endpoint(options.endpoint, options.served_name or model, api_key_env=options.api_key_env)
        print(
            f"For evaluation harnesses: {endpoint.model} at {options.endpoint}, asked as in training; replies are "
            "answers alone. The base URL follows.",
            file=sys.stderr,
        )
        return harness.serve(harness.application(endpoint, manner, model, options.max_tokens), options.port)
    name = DEMO if options.model == DEMO else folder.resolve().name
    if name == DEMO:
        print(ABOUT_DEMO, file=sys.stderr)
    print(
        f"Serving {name} with transformers; the base URL follows. On a GPU, vLLM is the better choice:\n"
        f"  {shlex.join(['vllm', 'serve', str(folder), '--served-model-name', name])}\n"
        f'with "stop": ["{STOP}"], "include_stop_str_in_output": true in each request. To ask either:\n'
        f'  cinema-verl ask {shlex.quote(name)} --endpoint URL --image a.jpg "…"',
        file=sys.stderr,
    )
    return openai_server.main([str(folder), "--name", name, "--port", str(options.port)])


# ---- asking -----------------------------------------------------------------------------------------------------


def _ask(folder: Path | None, manner: Manner, options: argparse.Namespace) -> int:
    chat = chat_of(manner, options.question, [data_url(path, manner) for path in options.image])
    if folder is not None and options.model == DEMO:
        print(ABOUT_DEMO, file=sys.stderr)
    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if options.n == 1 else 1.0
    sampling = Sampling(options.n, temperature, options.seed, options.max_tokens)
    declared = manner.native_reasoning
    stream = Stream(lambda number: _painter(number, options, own=declared == "strip"))
    if folder is None:
        endpoint = Endpoint(options.endpoint, options.served_name or options.model, api_key_env=options.api_key_env)
        samples = from_endpoint(endpoint, chat, sampling, stream)
    else:
        samples = from_folder(folder, chat, sampling, stream)
    readings = [sample.read(declared) for sample in samples]
    vote = count([each.trajectory.answer for each in readings], options.answer_type, options.option)
    if options.json:
        print(json.dumps(_as_json(options, samples, readings, vote, declared), ensure_ascii=True, indent=1))
    else:
        _say(vote, options.n)
        _say_whose(readings, declared)
    return 0 if vote.answer is not None else 1


def _painter(number: int, options: argparse.Namespace, *, own: bool) -> Painter:
    """Where a sample is shown, and whether it may begin with the model's own reasoning: not at all for programs."""
    if options.json:
        return Painter(lambda text: None, False)
    colour = wants_colour(sys.stdout)
    if options.n > 1:
        heading = f"— sample {number + 1} —"
        print(f"\x1b[2m{heading}\x1b[0m" if colour else heading)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return Painter(write, colour, own)


def _say(vote: Vote, samples: int) -> None:
    """What the vote says, where there is one."""
    if vote.answer is None:
        print(f"cinema-verl ask: no answer: not one of {samples} has exactly one <answer>", file=sys.stderr)
    elif samples > 1:
        shown = ", ".join(f"{escaped(answer)} ({votes})" for answer, votes in vote.groups)
        tie = "; a tie, of which the first is taken" if vote.tie else ""
        print(f"vote: {escaped(vote.answer)}, {vote.votes} of {samples}{tie}. All: {shown}")


def _say_whose(readings: Sequence[Reading], declared: str) -> None:
    """How many samples show reasoning of the model's own, which the trajectory above them does not tell."""
    if found := sum(bool(reading.stripped) or reading.refused for reading in readings):
        counts = "is refused" if declared == "refuse" else "is no part of the trajectory"
        print(
            f"cinema-verl ask: reasoning of the model's own in {found} of {len(readings)}, which {counts} "
            f"(--native-reasoning {declared})",
            file=sys.stderr,
        )


def _as_json(
    options: argparse.Namespace, samples: Sequence[Sample], readings: Sequence[Reading], vote: Vote, declared: str
) -> dict[str, Any]:
    shown = []
    for sample, reading in zip(samples, readings, strict=True):
        trajectory, violations = reading.trajectory, reading.violations_for(len(options.image))
        shown.append(
            {
                "text": sample.text,
                "stripped": reading.stripped,
                "actions": [{"name": name, "text": text} for name, text in trajectory.actions],
                "pattern": trajectory.pattern,
                "answer": trajectory.answer,
                "well_formed": not violations,
                "violations": list(violations),
                "finish_reason": sample.finish_reason,
                "seed": sample.seed,
            }
        )
    return {
        "model": options.model,
        "question": options.question,
        "images": [str(path) for path in options.image],
        "native_reasoning": declared,
        "answer": vote.answer,
        "vote": {
            "votes": vote.votes,
            "samples": len(samples),
            "tie": vote.tie,
            "answers": [{"answer": answer, "votes": votes} for answer, votes in vote.groups],
        },
        "samples": shown,
    }


if __name__ == "__main__":
    sys.exit(main())
