"""What the doctor says of a vLLM; the pin is read from verl's own requirements."""

import pytest
from packaging.requirements import Requirement

from cinema_verl.checks.vllm_versions import inspect_vllm, pinned

ASKED = Requirement("vllm==0.24.0")


@pytest.mark.parametrize(
    ("installed", "asynchronous", "ok", "says"),
    [
        ("0.24.0", False, True, "as verl asks for (==0.24.0)"),
        ("0.24.0+cu128", True, True, "as verl asks for"),
        ("0.27.1+cpu", False, None, "verl asks for vllm==0.24.0"),
        ("0.33.0", False, None, "torch 2.14 and transformers >= 5.16.1, < 5.21"),
        ("0.33.0", True, False, "wait_for_inflight_requests"),
        (None, False, False, "not installed"),
        ("dev", False, None, "says nothing"),
    ],
)
def test_versions(installed, asynchronous, ok, says):
    found = inspect_vllm(installed, asynchronous=asynchronous, asked=ASKED)
    assert found.ok is ok
    assert says in found.detail


def test_verl_says_which_it_wants():
    asked = pinned()
    assert asked is not None
    assert asked.specifier.contains("0.24.0")
