"""`cinema-verl env`: what to paste into an issue. Versions, platform, plugin; no secrets, and no paths of yours."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from cinema_verl import __version__
from cinema_verl.checks.host_memory import size
from cinema_verl.checks.machine import memory_here
from cinema_verl.checks.process import TESTED_WITH, inspect_process, version_of
from cinema_verl.utils.arguments import Parser

OPTIONAL: Final = ("torchvision", "vllm", "flash-attn", "datasets", "sentence-transformers", "av")
SHOWN: Final = ("VERL_PLATFORM", "VERL_USE_EXTERNAL_PLUGINS", "CINEMA_VERL_ALLOW_UNTESTED_VERL", "CUDA_VISIBLE_DEVICES")
"""Variables whose values are shown. Of others that are ours or verl's, only the names are: a value may be a key."""

EXAMPLES = """\
examples:
  cinema-verl env                     print it, and copy it into the issue
  cinema-verl env | xclip             … or straight to the clipboard

Nothing is sent anywhere. Look it over before you paste it: names of variables are listed, never their values, but for
a few switches.
"""


def describe() -> list[str]:
    """The lines to paste."""
    lines = [f"cinema-verl {__version__} ({_installation()})"]
    lines += [f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"]
    lines += [f"{os.cpu_count()} CPUs, {size(memory_here())} of memory", _accelerators(), ""]
    lines += [f"{name} {version_of(name) or 'missing'}" for name in (*TESTED_WITH, *OPTIONAL)]
    lines += [""]
    for finding in inspect_process("driver"):
        if finding.what != "versions":  # above
            lines.append(without_paths(str(finding)))
    lines += ["", *(f"{name}={os.environ[name]}" for name in SHOWN if name in os.environ)]
    others = sorted(n for n in os.environ if n.startswith(("VERL_", "CINEMA_", "RAY_")) and n not in SHOWN)
    lines.append(f"also set: {', '.join(others)}" if others else "no other VERL_, CINEMA_ or RAY_ variable is set")
    return lines


def _installation() -> str:
    """From a wheel, or from a checkout and at which commit."""
    try:
        origin = json.loads(metadata.distribution("cinema-verl").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        return "not installed"
    if not origin.get("dir_info", {}).get("editable"):
        return "installed"
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return f"editable, commit {done.stdout.strip() or 'unknown'}"


def _accelerators() -> str:
    try:
        import torch
    except ImportError as error:
        return f"no PyTorch: {without_paths(str(error))}"
    if not torch.cuda.is_available():
        return f"no GPU that PyTorch sees (built for CUDA {torch.version.cuda or 'none'})"
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"{len(names)} GPUs: {', '.join(sorted(set(names)))}, CUDA {torch.version.cuda}"


def without_paths(text: str) -> str:
    """The text with what comes before a file's package, or below a home, taken out."""
    text = re.sub(r"\S*/site-packages/", ".../", text)
    for folder, name in (
        (str(Path(__file__).parents[2]), "<checkout>"),
        (sys.prefix, "<python>"),
        (str(Path.home()), "~"),
    ):
        text = text.replace(folder, name)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """`cinema-verl env`; see `--help`."""
    parser = Parser(
        prog="cinema-verl env",
        description="Print what to paste into an issue: versions, platform, and whether the plugin is loaded.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    print("\n".join(("```", *describe(), "```")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
