"""The command line that every source's script in ``data_preprocess/`` has: one set of options, one help."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cinema_verl.data.canonical import SourceError
from cinema_verl.data.tokens import MIN_SIDE
from cinema_verl.prepare.convert import Settings, load_counter
from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.pipeline import Stopped, prepare, processors, summary
from cinema_verl.prepare.sources import adapter as adapter_of
from cinema_verl.prompts import MODES


def script(adapter_name: str, doc: str | None, arguments: Sequence[str] | None = None) -> int:
    """Run a source's script.

    Args:
        adapter_name: The source.
        doc: The script's docstring, the first part of its help.
        arguments: Without the program's name; None takes `sys.argv`.

    Returns:
        The exit code: 0 is well; 1 is a failure, or an input of which no row became a question.
    """
    adapter = adapter_of(adapter_name)
    parser = _parser(adapter, doc or "")
    parsed = parser.parse_args(arguments)
    if parsed.max_prompt_tokens is not None and not parsed.processor:
        parser.error("--max-prompt-tokens counts with a model's tokenizer: give --processor MODEL, too")
    if parsed.max_pixels < MIN_SIDE**2:
        parser.error(f"--max-pixels {parsed.max_pixels} is under {MIN_SIDE**2}, one vision token")
    if not parsed.min_pixels <= parsed.max_pixels:
        parser.error(f"--min-pixels {parsed.min_pixels} is over --max-pixels {parsed.max_pixels}")
    command = ["python", sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    if parsed.processor:
        try:
            load_counter(parsed.processor)  # a wrong name is said now, not by every worker
        except (OSError, TypeError) as error:
            parser.error(f"--processor {parsed.processor}: {error}")
    try:
        result = prepare(
            adapter,
            parsed.input,
            parsed.output,
            _settings(parsed),
            limit=parsed.limit,
            workers=parsed.workers,
            ray_address=parsed.ray_address,
            command=command,
        )
    except (SourceError, Stopped, OSError) as error:
        print(f"{adapter.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{adapter.name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 1
    print(summary(result.manifest))
    print(f"in {parsed.output}; what was rejected, and why, is in {Path(parsed.output) / 'rejected.jsonl'}")
    if not result.manifest["questions"]:
        print(f"{adapter.name}: no row became a question", file=sys.stderr)
        return 1
    return 0


def _settings(parsed: argparse.Namespace) -> Settings:
    given: dict[str, Any] = {field.name: getattr(parsed, field.name) for field in fields(Settings)}
    given["media_root"] = str(Path(parsed.media_root or _folder(parsed.input)).absolute())
    given["allow_download"] = tuple(sorted(set(parsed.allow_download)))
    if parsed.fps is not None:
        given["frames"] = None
    return Settings(**given)


def _folder(source: Path) -> Path:
    return source.parent if source.is_file() else source


def _parser(adapter: Adapter, doc: str) -> argparse.ArgumentParser:
    default = {field.name: field.default for field in fields(Settings)}
    script = f"data_preprocess/{adapter.name}.py"
    parser = argparse.ArgumentParser(
        prog=Path(script).name,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{doc.strip()}\n\n{adapter.name}: {adapter.summary}\nlicence: {adapter.license}\n"
        f"reads {', '.join(adapter.patterns)}, or a folder that `datasets` saved; a row looks like this:\n\n"
        + _indented(adapter),
        epilog=f"""\
examples:
  a first look:
    python {script} --input downloads/{adapter.name} --output outputs/first --limit 200
  all of it, prompts counted:
    python {script} --input downloads/{adapter.name} --output outputs/{adapter.name} \\
        --processor Qwen/Qwen2.5-VL-7B-Instruct --max-prompt-tokens 8192
  what verl reads:
    python data_preprocess/to_parquet.py --input outputs/{adapter.name} --output data/rl

Killed at any moment, the same command goes on where it was. Rows that cannot become questions are in
OUTPUT/rejected.jsonl with a reason and their place in the input; questions and rejected rows add up to the input.""",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", type=Path, required=True, help="a file of rows, or the folder of the source")
    files.add_argument("--output", type=Path, required=True, help="dataset directory to make")
    files.add_argument("--media-root", help="folder that images and videos are named from, and never leave; --input's")
    files.add_argument(
        "--allow-download", action="append", default=[], metavar="HOST", help="fetch URLs of this host; repeatable"
    )
    files.add_argument("--limit", type=_positive, metavar="ROWS", help="the first rows only")
    files.add_argument("--split", default="", choices=("train", "test"), help="over what the source says")
    images = parser.add_argument_group("images and videos")
    images.add_argument("--max-pixels", type=_positive, default=default["max_pixels"], metavar="AREA", help=_LARGEST)
    images.add_argument("--min-pixels", type=_positive, default=default["min_pixels"], metavar="AREA", help=_SMALLEST)
    images.add_argument("--max-images", type=_positive, default=default["max_images"], metavar="N", help=_MOST)
    how = images.add_mutually_exclusive_group()
    how.add_argument("--frames", type=_positive, default=default["frames"], metavar="N", help="of a video; %(default)s")
    how.add_argument("--fps", type=_rate, help="frames a second of a video, instead of --frames")
    images.add_argument("--max-frames", type=_positive, default=default["max_frames"], metavar="N", help=_FRAMES)
    images.add_argument("--folder-fps", type=_rate, default=default["folder_fps"], metavar="FPS", help=_FOLDER)
    prompt = parser.add_argument_group("prompt length")
    prompt.add_argument("--processor", default="", metavar="MODEL", help=_PROCESSOR)
    prompt.add_argument("--max-prompt-tokens", type=_positive, metavar="N", help="reject longer prompts; no limit")
    prompt.add_argument("--mode", choices=MODES, default=default["mode"], metavar="MODE", help=_COUNTED)
    work = parser.add_argument_group("who works")
    work.add_argument(
        "--workers", type=_count, default=processors(), metavar="N", help="processes, 0 for this one; %(default)s"
    )
    work.add_argument("--ray-address", metavar="HOST:PORT", help="a Ray cluster whose machines see the same files")
    return parser


_LARGEST = "larger images are stored shrunk to it; %(default)s"
_SMALLEST = "smaller ones are enlarged to it when they are used; %(default)s"
_MOST = "of a row; %(default)s"
_COUNTED = f"prompt that is counted: {', '.join(MODES)}; %(default)s"
_PROCESSOR = "Qwen-VL model, path or name: images are shrunk for it, text is counted; else Qwen2.5-VL, and no text"
_FRAMES = "most at --fps; %(default)s"
_FOLDER = "at which folders of frames were cut; %(default)s"


def _indented(adapter: Adapter) -> str:
    row = json.dumps(dict(adapter.example), ensure_ascii=False, default=repr, indent=2)
    return "\n".join(f"  {line}" for line in row.splitlines())


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _rate(text: str) -> float:
    if not 0 < (value := float(text)) < 1000:
        raise argparse.ArgumentTypeError(f"{text} is no rate")
    return value
