"""Which vLLM goes with verl 0.9.1, and what is known of the others; docs/multinode.md has the same as a table."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from cinema_verl.checks.compose import WHERE
from cinema_verl.checks.finding import Finding

WHAT: Final = "vllm, version"
WITHOUT_WAITING: Final = Version("0.33")
"""The first whose `pause_generation` has no `wait_for_inflight_requests`, with which verl 0.9.1 calls it."""
NEEDS: Final = "torch 2.14 and transformers >= 5.16.1, < 5.21"
_ADVICE: Final = "pip install 'cinema-verl[gpu]', in an environment of its own"


def pinned() -> Requirement | None:
    """The vLLM that the installed verl asks for in its extra `vllm`."""
    lines = map(Requirement, metadata.requires("verl") or ())
    asked = (one for one in lines if one.name == "vllm" and one.marker and one.marker.evaluate({"extra": "vllm"}))
    return next(asked, None)


def inspect_vllm(installed: str | None, *, asynchronous: bool, asked: Requirement | None = None) -> Finding:
    """What is known of the installed vLLM.

    Args:
        installed: Its version.
        asynchronous: Whether the trainer pauses generation to send weights.
        asked: By verl; None for the installed verl's.
    """
    asked = asked or pinned()
    if installed is None:
        return Finding(WHERE, WHAT, False, f"vllm is not installed; verl asks for {asked}", _ADVICE)
    try:
        version = Version(installed)
    except InvalidVersion:
        return Finding(WHERE, WHAT, None, f"{installed}, a build whose number says nothing; verl asks for {asked}")
    if version >= WITHOUT_WAITING:
        detail = f"{installed} wants {NEEDS}, and has no pause_generation(wait_for_inflight_requests=)"
        if asynchronous:
            return Finding(WHERE, WHAT, False, f"{detail}, with which asynchronous trainers call it", _ADVICE)
        return Finding(WHERE, WHAT, None, f"{detail}; the synchronous trainer does not call it")
    if asked is not None and asked.specifier.contains(version, prereleases=True):
        return Finding(WHERE, WHAT, True, f"{installed}, as verl asks for ({asked.specifier})")
    return Finding(WHERE, WHAT, None, f"{installed}; verl asks for {asked}, and others are not tested on GPUs")
