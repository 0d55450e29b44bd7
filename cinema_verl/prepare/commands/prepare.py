"""`cinema-verl prepare SOURCE`: the rows of a source become a dataset directory of canonical questions."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from cinema_verl.data import sources
from cinema_verl.data.canonical import SourceError
from cinema_verl.data.tokens import MIN_SIDE
from cinema_verl.prepare.commands import add_overwrite, command, load_processor
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.pipeline import Stopped, prepare, processors, summary
from cinema_verl.prepare.sources import adapter as adapter_of
from cinema_verl.prompts import modes
from cinema_verl.utils.arguments import Parser, area, not_negative, positive

_PROG: Final = "cinema-verl prepare"


@command("prepare")
def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code, 1 for a failure, or an input of which no row became a question."""
    chosen = _chooser().parse_args(arguments)
    adapter = adapter_of(chosen.source)
    parser = _parser(adapter)
    parsed = parser.parse_args(chosen.arguments)
    _check(parser, parsed)
    try:
        result = prepare(
            adapter,
            parsed.input,
            parsed.output,
            _settings(parsed),
            limit=parsed.limit,
            workers=parsed.workers,
            ray_address=parsed.ray_address,
            overwrite="always" if parsed.overwrite else "never",
            command=[*_PROG.split(), *arguments],
        )
    except (SourceError, Stopped, OSError) as error:
        print(f"{adapter.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{adapter.name}: interrupted; run the same command to go on from here", file=sys.stderr)
        return 1
    print(summary(result.manifest))
    print(f"in {parsed.output}; what was rejected, and why, is in {Path(parsed.output) / 'rejected.jsonl'}")
    if not result.manifest["questions"]:
        print(f"{adapter.name}: no row became a question; rejected.jsonl says why of each", file=sys.stderr)
        return 1
    return 0


def _chooser() -> argparse.ArgumentParser:
    """Reads the source's name; its help lists all sources."""
    lines = []
    for kind, heading in ((sources.TRAIN, "to train on"), (sources.BENCHMARK, "benchmarks, to evaluate on")):
        lines.append(f"{heading}:")
        lines += [f"  {name:<17} {adapter_of(name).summary}" for name in sources.names(kind)]
        lines.append("")
    parser = Parser(
        prog=_PROG,
        usage=f"{_PROG} SOURCE --input … --output … [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make a dataset directory of verified questions from the files of a source.\n"
        f"`{_PROG} SOURCE --help` shows the rows that a source has, its licence and all options.\n\n"
        "examples:\n"
        f"  {_PROG} own --input mine --output outputs/own\n"
        f"  {_PROG} virl39k --input downloads/virl39k --output outputs/virl39k --limit 200",
        epilog="\n".join(lines),
    )
    parser.add_argument("source", choices=sources.names(), metavar="SOURCE", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the options")
    return parser


def _check(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End with exit code 2 where options contradict each other, or name no model."""
    if parsed.max_prompt_tokens is not None and not parsed.processor:
        parser.error("--max-prompt-tokens counts with a model's tokenizer: give --processor MODEL, too")
    if parsed.max_pixels < MIN_SIDE**2:
        parser.error(f"--max-pixels {parsed.max_pixels} is under {MIN_SIDE**2}, one vision token")
    if not parsed.min_pixels <= parsed.max_pixels:
        parser.error(f"--min-pixels {parsed.min_pixels} is over --max-pixels {parsed.max_pixels}")
    if parsed.processor:
        load_processor(parser, parsed.processor, parsed.max_pixels)


def _settings(parsed: argparse.Namespace) -> ConvertSettings:
    given: dict[str, Any] = {field.name: getattr(parsed, field.name) for field in fields(ConvertSettings)}
    given["media_root"] = str((parsed.media_root or _folder(parsed.input)).absolute())
    given["allow_root"] = tuple(sorted({str(root.absolute()) for root in parsed.allow_root}))
    given["allow_download"] = tuple(sorted(set(parsed.allow_download)))
    if parsed.fps is not None:
        given["frames"] = None
    return ConvertSettings(**given)


def _folder(source: Path) -> Path:
    return source.parent if source.is_file() else source


def _parser(adapter: Adapter) -> argparse.ArgumentParser:
    row = json.dumps(dict(adapter.example), ensure_ascii=False, default=repr, indent=2)
    example = f"{_PROG} {adapter.name} --input downloads/{adapter.name}"
    parser = Parser(
        prog=f"{_PROG} {adapter.name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{(adapter.about or '').strip()}\n\n"
        f"{adapter.name}: {adapter.summary}\nlicence: {adapter.license}\n"
        f"reads {', '.join(adapter.patterns)}, or a folder that `datasets` saved; a row looks like this:\n\n"
        + "\n".join(f"  {line}" for line in row.splitlines()),
        epilog=f"""\
examples:
  a first look:
    {example} --output outputs/first --limit 200
  all of it, with the prompt's tokens counted:
    {example} --output outputs/{adapter.name} \\
        --processor Qwen/Qwen2.5-VL-7B-Instruct --max-prompt-tokens 8192
  then, the parquet that verl reads:
    cinema-verl to-parquet --input outputs/{adapter.name} --output data/rl

If it is killed at any moment, the same command goes on where it was. After you have mended rows or pictures, the same
command with --overwrite makes the data set anew in the same folder. Rows that cannot become questions are in
OUTPUT/rejected.jsonl with a reason and their place in the input; questions and rejected rows add up to the input.""",
    )
    _add_files(parser)
    _add_media(parser)
    _add_prompt(parser)
    work = parser.add_argument_group("who works")
    work.add_argument(
        "--workers",
        type=not_negative,
        default=processors(),
        metavar="N",
        help="processes that convert rows; 0 converts them in this process (default: one for each core, %(default)s)",
    )
    work.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="work on this Ray cluster, whose machines must see the same files under the same paths "
        "(default: on this machine)",
    )
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files")
    group.add_argument("--input", type=Path, required=True, help="a file of rows, or the folder of the source")
    group.add_argument("--output", type=Path, required=True, help="the dataset directory to make")
    add_overwrite(group, "begin anew where --output holds a finished run, or an interrupted one that differs")
    group.add_argument(
        "--media-root",
        type=_directory,
        metavar="DIR",
        help="the folder that paths of images and videos are relative to, and may not leave; absolute paths below it "
        "are taken, too (default: that of --input)",
    )
    group.add_argument(
        "--allow-root",
        type=_directory,
        action="append",
        default=[],
        metavar="DIR",
        help="take absolute paths below this folder, and links into it; may be given several times (default: none)",
    )
    group.add_argument(
        "--allow-download",
        action="append",
        default=[],
        metavar="HOST",
        help="fetch URLs of this host; may be given several times (default: no URL is fetched)",
    )
    group.add_argument("--limit", type=positive, metavar="ROWS", help="read only the first ROWS rows (default: all)")
    group.add_argument(
        "--split",
        default="",
        choices=("train", "test"),
        help="the split of all questions (default: as the source says)",
    )


def _add_media(parser: argparse.ArgumentParser) -> None:
    default = {field.name: field.default for field in fields(ConvertSettings)}
    group = parser.add_argument_group("images and videos")

    def number(name: str, metavar: str, says: str, *, to: Any = group, kind: Any = positive) -> None:
        flag, usual = f"--{name.replace('_', '-')}", default[name]
        to.add_argument(
            flag, type=kind, default=usual, metavar=metavar, help=says + (f" (default: {usual})" if usual else "")
        )

    shrunk = "area in pixels, or 640x480, that larger images are shrunk to when they are stored"
    number("max_pixels", "AREA", shrunk, kind=area)
    enlarged = "area in pixels that smaller images are enlarged to when the policy sees them"
    number("min_pixels", "AREA", enlarged, kind=area)
    number("max_images", "N", "reject rows with more than N images; frames of a video do not count")
    how = group.add_mutually_exclusive_group()
    number("frames", "N", "frames to take of a video, evenly spread", to=how)
    number("fps", "RATE", "frames to take per second of a video, instead of --frames", to=how, kind=_rate)
    number("max_frames", "N", "with --fps, the most frames of a video")
    number("folder_fps", "RATE", "frames per second at which folders of frames were cut", kind=_rate)


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompt length")
    group.add_argument(
        "--processor",
        default="",
        metavar="MODEL",
        help="Qwen-VL model, a path or a name: images are shrunk for it, and the tokens of the text are counted "
        "(default: images as for Qwen2.5-VL, text not counted)",
    )
    group.add_argument(
        "--max-prompt-tokens",
        type=positive,
        metavar="N",
        help="reject prompts of more than N tokens, text and images together; needs --processor (default: no limit)",
    )
    group.add_argument(
        "--mode",
        choices=modes(),
        default="cinema",
        metavar="MODE",
        help=f"prompt mode whose system prompt is counted, one of {', '.join(modes())} (default: %(default)s)",
    )


def _directory(text: str) -> Path:
    if not (path := Path(text)).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path


def _rate(text: str) -> float:
    if not 0 < (value := float(text)) < 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a rate: give a number over 0 and under 1000")
    return value
