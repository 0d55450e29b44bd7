"""The reward function: the same keys always, the paper's weights, and a named row instead of a default score."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.meta_action import TAGS
from cinema_verl.reward import compute_score
from cinema_verl.verify import ANSWER_TYPES, judge

CORRECT = "<focus>Image 1 is red.</focus>\n<think>So B.</think>\n<answer>B</answer>"
INCORRECT = CORRECT.replace("<answer>B", "<answer>A")
MALFORMED = CORRECT + " Done."
BOTH = "<think>It is A or B.</think><answer>A or B</answer>"


def row(**changes: Any) -> dict[str, Any]:
    """extra_info as the RL parquet has it, with what verl adds to it."""
    info: dict[str, Any] = {
        "index": 7,
        "uid": "muir-7",
        "split": "train",
        "modality": "multi",
        "num_images": 2,
        "answer_type": "mcq",
        "options_json": '["red", "blue", "green"]',
        "aliases_json": "[]",
        "tolerance": math.nan,
        "question": "<image><image>Which?",
        "num_turns": 2,
        "rollout_reward_scores": {},
    }
    return info | changes


def score(solution: str, gold: str = "B", **changes: Any) -> dict[str, Any]:
    return compute_score("muir", solution, gold, row(**changes))


def test_one_score_in_full() -> None:
    assert score(CORRECT) == {
        "score": 1.0,
        "acc": 1.0,
        "format": 1.0,
        "pattern": "focus>think>answer",
        "answer": "B",
        "abstained": 0.0,
        "timed_out": 0.0,
        "violations": "",
        "verdict": "equal",
        "answer_type": "mcq",
        "num_images": 2.0,
        "question_uid": "muir-7",
        "native_reasoning": 0.0,
        "stripped": "",
    }


@pytest.mark.parametrize(
    ("solution", "acc", "format_", "total"),
    [
        (CORRECT, 1.0, 1.0, 1.0),
        (INCORRECT, 0.0, 1.0, 0.5),
        (MALFORMED, 1.0, 0.0, 0.5),
        (BOTH, 0.0, 1.0, 0.5),
        (CORRECT + "<answer>B</answer>", 0.0, 0.0, 0.0),
        (CORRECT + "<answer>A</answer>", 0.0, 0.0, 0.0),
        ("<answer>B</answer>", 1.0, 0.0, 0.5),
        ("B", 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0),
        ("<think>x</think><answer>blue</answer>", 1.0, 1.0, 1.0),
    ],
)
def test_accuracy_and_format(solution: str, acc: float, format_: float, total: float) -> None:
    result = score(solution)
    assert (result["acc"], result["format"], result["score"]) == (acc, format_, total)


OPENED = "It is blue, not red.\n</think>\n\n"
OWN = "<think>" + OPENED


@pytest.mark.parametrize(
    ("solution", "declared", "stripped", "pattern", "format_"),
    [
        (CORRECT, "none", "", "focus>think>answer", 1.0),
        (CORRECT, "strip", "", "focus>think>answer", 1.0),
        (CORRECT, "refuse", "", "focus>think>answer", 1.0),
        (OPENED + CORRECT, "none", "", "focus>think>answer", 0.0),
        (OPENED + CORRECT, "strip", OPENED.rstrip(), "focus>think>answer", 1.0),
        (OPENED + CORRECT, "refuse", "", "focus>think>answer", 0.0),
        (OWN + CORRECT, "none", "", "think>focus>think>answer", 1.0),
        (" " + OWN + CORRECT, "strip", " " + OWN.rstrip(), "focus>think>answer", 1.0),
        (OWN + CORRECT, "refuse", "", "think>focus>think>answer", 1.0),
        (OPENED + OWN + CORRECT, "strip", OPENED.rstrip(), "think>focus>think>answer", 1.0),
        ("never closed " + CORRECT.replace("think>", "hint>"), "strip", "", "focus>hint>answer", 0.0),
    ],
)
def test_reasoning_of_the_policys_own_is_no_action(solution, declared, stripped, pattern, format_) -> None:
    result = compute_score("muir", solution, "B", row(), native_reasoning=declared)
    assert (result["stripped"], result["pattern"], result["format"], result["acc"]) == (stripped, pattern, format_, 1.0)
    refused = declared == "refuse" and solution.startswith(OPENED)
    assert result["native_reasoning"] == float(bool(stripped) or refused)
    assert ("native_reasoning" in result["violations"].split(",")) == refused


@given(st.text(max_size=40), st.text(max_size=40).filter(lambda text: "<" not in text))
def test_what_is_stripped_and_what_is_scored_make_up_the_response(solution: str, own: str) -> None:
    whole = f"{own}</think>{solution}"
    result = compute_score("muir", whole, "B", row(), native_reasoning="strip")
    assert result["stripped"] == own + "</think>"
    assert {**result, "stripped": "", "native_reasoning": 0.0} == score(solution)


def test_an_answer_in_the_reasoning_is_none() -> None:
    solution = "Perhaps <answer>B</answer>?</think><think>No.</think><answer>A</answer>"
    assert compute_score("muir", solution, "B", row(), native_reasoning="strip")["acc"] == 0.0


def test_an_unknown_declaration_of_reasoning() -> None:
    with pytest.raises(ValueError, match="none, strip, refuse"):
        compute_score("muir", CORRECT, "B", row(), native_reasoning="on")


def test_global_on_a_single_image_is_a_violation() -> None:
    solution = "<global>x</global><answer>B</answer>"
    assert score(solution, num_images=2)["format"] == 1.0
    assert score(solution, num_images=1)["format"] == 0.0
    assert score(solution, num_images=1)["violations"] == "global_on_single_image"


def test_violations_are_codes() -> None:
    assert score("<think>x")["violations"] == "unclosed_tag,no_action,no_answer"


def test_an_unreadable_gold_abstains_and_is_never_correct() -> None:
    for solution in (CORRECT, INCORRECT, "<think>x</think><answer>Z</answer>"):
        result = score(solution, gold="Z")
        assert (result["abstained"], result["acc"], result["score"]) == (1.0, 0.0, 0.5)
    assert score("", gold="Z")["abstained"] == 1.0


@given(
    st.one_of(st.text(max_size=40), st.sampled_from([CORRECT, INCORRECT, MALFORMED, BOTH])),
    st.sampled_from(["B", "", "?"]),
)
def test_keys_and_types_never_change(solution: str, gold: str) -> None:
    result, reference = score(solution, gold), score(CORRECT)
    assert {key: type(value) for key, value in result.items()} == {k: type(v) for k, v in reference.items()}
    assert result["score"] == 0.5 * result["acc"] + 0.5 * result["format"]
    json.dumps(result)


PIECES = [
    "<think>B</think>",
    "<answer>B</answer>",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "B",
    "(B)",
    "so B",
    "\n",
]
BOUNDARIES = [
    INCORRECT.index("<focus>"),
    INCORRECT.index("\n"),
    INCORRECT.index("So B"),
    INCORRECT.index("<answer>"),
    len(INCORRECT),
]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), st.sampled_from(BOUNDARIES))
def test_text_added_around_an_incorrect_answer_earns_nothing(extra: str, position: int) -> None:
    """The incorrect answer stays an answer; a second one beside it makes none count."""
    result = score(INCORRECT[:position] + extra + INCORRECT[position:])
    assert result["acc"] == 0.0
    assert result["score"] <= score(INCORRECT)["score"]


INNER = ["A", "B", "(B)", " or ", ", ", " so B", " maybe ", "<b>", "<think>B</think>", "<answer>", "<answer>B", " "]


@given(
    st.lists(st.sampled_from(INNER), max_size=4).map("".join), st.lists(st.sampled_from(INNER), max_size=4).map("".join)
)
def test_text_added_inside_an_incorrect_answer_earns_nothing(before: str, after: str) -> None:
    text = INCORRECT.replace("<answer>A</answer>", f"<answer>{before} A {after}</answer>")
    assert score(text)["acc"] == 0.0


def test_pattern_mode() -> None:
    solution = "<think>x</think><think>y</think><focus>z</focus><answer>B</answer>"
    modes = {"exact": "think>think>focus>answer", "collapsed": "think>focus>answer", "set": "focus>think>answer"}
    for mode, pattern in modes.items():
        assert compute_score("muir", solution, "B", row(), pattern_mode=mode)["pattern"] == pattern
    assert score(solution)["pattern"] == modes["exact"]
    with pytest.raises(ValueError, match="exact, collapsed, set"):
        compute_score("muir", solution, "B", row(), pattern_mode="sorted")


def test_an_action_that_the_prompt_takes_out_breaks_the_format_rule() -> None:
    without = compute_score("muir", CORRECT, "B", row(), prompt_mode="cinema_without_focus")
    assert (without["acc"], without["format"], without["violations"]) == (1.0, 0.0, "removed_action")
    for mode in (None, "cinema", "cot", "cinema_without_hint"):
        assert compute_score("muir", CORRECT, "B", row(), prompt_mode=mode)["format"] == 1.0
    with pytest.raises(ValueError, match="unknown prompt mode 'socratic'"):
        compute_score("muir", CORRECT, "B", row(), prompt_mode="socratic")


def test_as_verl_calls_it() -> None:
    """verl 0.9.1 calls by keyword and adds these two when a reward router runs."""
    result = compute_score(
        data_source="muir",
        solution_str=CORRECT,
        ground_truth="B",
        extra_info=row(),
        reward_router_address="10.0.0.1:80",
        reward_model_tokenizer=None,
    )
    assert result["score"] == 1.0


class Int64:
    """An integer of another library: numpy's, arrow's."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize(
    ("changes", "gold", "solution", "acc"),
    [
        ({"num_images": Int64()}, "B", CORRECT, 1.0),
        ({"options_json": None, "aliases_json": None, "tolerance": None}, "B", CORRECT, 1.0),
        ({"answer_type": "number", "tolerance": 0.1}, "3.14", "<think>x</think><answer>3.1</answer>", 1.0),
        ({"answer_type": "number"}, "3.14", "<think>x</think><answer>3.1</answer>", 0.0),
        ({"answer_type": "text", "aliases_json": '["auto"]'}, "car", "<think>x</think><answer>Auto</answer>", 1.0),
    ],
)
def test_what_extra_info_may_hold(changes: dict[str, Any], gold: str, solution: str, acc: float) -> None:
    assert score(solution, gold, **changes)["acc"] == acc


def test_optional_keys_may_be_missing() -> None:
    assert compute_score("muir", CORRECT, "B", {"num_images": 2, "answer_type": "mcq"})["score"] == 1.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_images": None}, "no 'num_images'"),
        ({"num_images": 0}, "num_images.*at least 1, got 0"),
        ({"num_images": "2"}, "num_images.*integer.*'2'"),
        ({"num_images": 2.0}, "num_images.*integer.*2.0"),
        ({"num_images": True}, "num_images.*True"),
        ({"answer_type": None}, "no 'answer_type'"),
        ({"answer_type": "essay"}, "'essay'; known: mcq, mcq_multi"),
        ({"options_json": "[red, blue]"}, "options_json.*not JSON.*red"),
        ({"options_json": ""}, "options_json.*not JSON"),
        ({"options_json": "[" * 100_000}, "options_json.*not JSON"),
        ({"options_json": '{"A": "red"}'}, "options_json.*list of strings"),
        ({"options_json": "[1, 2]"}, "options_json.*list of strings"),
        ({"options_json": ["red"]}, "options_json.*not JSON"),
        ({"aliases_json": '"auto"'}, "aliases_json.*list of strings"),
        ({"tolerance": "small"}, "tolerance.*no number.*small"),
        ({"tolerance": -1.0}, "tolerance must be finite and not negative"),
    ],
)
def test_a_bad_row_is_named_and_not_scored(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)row uid='muir-7' index=7 of data_source='muir'.*{complaint}"):
        score(CORRECT, **changes)


@pytest.mark.parametrize("extra_info", [None, {}, "num_images=2", []])
def test_no_extra_info(extra_info: Any) -> None:
    with pytest.raises(ValueError, match=r"row \(no uid\) of data_source='muir'.*preflight"):
        compute_score("muir", CORRECT, "B", extra_info)


@pytest.mark.parametrize("gold", [None, 3, ["B"], {"ground_truth": "B"}])
def test_gold_of_another_type(gold: Any) -> None:
    with pytest.raises(ValueError, match=f"muir-7.*ground_truth is {type(gold).__name__}, not str"):
        compute_score("muir", CORRECT, gold, row())
    with pytest.raises(ValueError, match=f"muir-7.*solution_str is {type(gold).__name__}, not str"):
        compute_score("muir", gold, "B", row())


def test_megabytes() -> None:
    for text in ("<think>" * 200_000, CORRECT.replace("B</answer>", "B" * 2_000_000 + "</answer>"), "<" * 1_000_000):
        assert score(text)["acc"] == 0.0


TEN_MB = "B" * 10_000_000
UNTYPED = [None, 3, 2.5, True, b"B", ["B"], {"B": 1}, object(), np.float64(1), np.int64(1), np.array(["B", "C"])]


@pytest.mark.parametrize("answer_type", ANSWER_TYPES)
@pytest.mark.parametrize("answer", [TEN_MB, "\x00", "\x00B", "\ud800", "B\udfff", "(" * 100_000, "\u0301" * 100_000])
def test_hostile_answers_get_a_verdict(answer: str, answer_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_current", lambda: SimpleNamespace(ask=lambda *_: judge.NOT_SAME))
    golds = {"mcq_multi": "AC", "yesno": "no", "number": "4", "regression": "4", "ordering": "BAC", "judge": "because"}
    result = score(f"<think>x</think><answer>{answer}</answer>", golds.get(answer_type, "C"), answer_type=answer_type)
    assert (result["acc"], result["abstained"]) == (0.0, 0.0)
    result = score(CORRECT, answer, answer_type=answer_type, options_json=None)
    assert result["acc"] in (0.0, 1.0)
    assert not (result["acc"] and result["abstained"])


@pytest.mark.parametrize("key", ["uid", "index", "question", "split", "aliases_json", "options_json", "tolerance"])
@pytest.mark.parametrize("value", UNTYPED, ids=lambda value: type(value).__name__)
def test_any_type_in_any_column_is_a_verdict_or_a_named_row(key: str, value: Any) -> None:
    """Users' own data: numpy scalars are numbers, and what cannot be meant is an error that says where."""
    complaint = ""
    try:
        assert score(CORRECT, **{key: value})["acc"] == 1.0
    except ValueError as error:
        complaint = str(error)
    if complaint:
        assert key in ("aliases_json", "options_json", "tolerance")
        assert complaint.startswith("cannot score row uid='muir-7' index=7 of data_source='muir': ")


def test_every_tag_is_plain_ascii() -> None:
    """verl decodes with skip_special_tokens=True: the tags must survive as ordinary text."""
    assert all(tag.isascii() for pair in TAGS.values() for tag in pair)


def test_light_import(run: Any) -> None:
    """Every reward worker imports this; nothing of a training stack may come with it."""
    heavy = ("torch", "verl", "numpy", "transformers", "rapidfuzz", "sympy", "math_verify", "httpx", "multiprocessing")
    code = (
        "import sys, cinema_verl.reward as r\n"
        "r.compute_score('d', '<think>x</think><answer>B</answer>', 'B', {'num_images': 2, 'answer_type': 'mcq'})\n"
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
