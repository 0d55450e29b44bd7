"""The published cases: nothing wrong accepted, and what is refused although right is the known handful."""

import importlib.util
import json
from pathlib import Path

from cinema_verl.verify import ANSWER_TYPES, verify

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASES = [json.loads(line) for line in (BENCHMARKS / "verifier_cases.jsonl").read_text("utf-8").splitlines()]


def test_the_cases_are_a_table() -> None:
    assert len(CASES) >= 1500
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert {case["type"] for case in CASES} == set(ANSWER_TYPES) - {"judge"}
    for case in CASES:
        assert {"id", "type", "answer", "gold", "verdict", "why"} <= case.keys()
        assert case.keys() <= {"id", "type", "answer", "gold", "verdict", "why", "options", "aliases", "tolerance"}
    for answer_type in set(ANSWER_TYPES) - {"judge"}:
        assert {case["verdict"] for case in CASES if case["type"] == answer_type} == {True, False, None}


def test_ours() -> None:
    accepted, refused = [], []
    for case in CASES:
        given = {key: case[key] for key in ("options", "aliases", "tolerance") if key in case}
        verdict = verify(case["answer"], case["gold"], case["type"], **given)
        if verdict is True and case["verdict"] is not True:
            accepted.append(case)
        elif case["verdict"] is True and verdict is not True:
            refused.append(case)
        elif verdict is not case["verdict"]:
            raise AssertionError(f"{case}: {verdict}")
    assert accepted == []
    assert {case["why"].partition(",")[0] for case in refused} <= {"right"}, refused
    assert len(refused) < 0.015 * sum(case["verdict"] is True for case in CASES)


def test_the_table_has_its_columns() -> None:
    spec = importlib.util.spec_from_file_location("verifier_conformance", BENCHMARKS / "verifier_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert next(iter(module.VERIFIERS)) == "ours"
    assert len(module.cases_for(())) == len(CASES)
    assert {case["type"] for case in module.cases_for(("number",))} == {"number"}
