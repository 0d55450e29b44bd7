"""What a policy might try for reward without being correct, as properties of reward and verifier together.

2,000 examples each; HYPOTHESIS_PROFILE=thorough looks at 20,000. The workers that do mathematics are tested elsewhere:
here `latex` goes by spelling, but for one property.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cinema_verl.diversity import group_rewards
from cinema_verl.meta_action import PATTERN_MODES, TAGS, parse, pattern_in_mode
from cinema_verl.reward import compute_score
from cinema_verl.verify import latex, math_pool, verify

many = settings(max_examples=20 * settings.default.max_examples)

OPTIONS = ("a red car", "a blue car", "two dogs", "none of the above")
# An incorrect answer, the gold, and what else the row has: for every rule.
INCORRECT: list[tuple[str, str, str, dict[str, Any]]] = [
    ("mcq", "A", "B", {}),
    ("mcq", "a red car", "B", {"options_json": json.dumps(OPTIONS)}),
    ("mcq_multi", "A, B", "AC", {}),
    ("yesno", "no", "yes", {}),
    ("number", "41", "42", {}),
    ("latex", "x-1", "x+1", {}),
    ("ordering", "A, B, C", "BAC", {}),
    ("ocr", "x", "the quick brown fox jumps over the lazy dog " * 3, {}),
    ("regression", "50", "100", {}),
    ("text", "dog", "cat", {"aliases_json": '["kitten"]'}),
]


@pytest.fixture(autouse=True, scope="module")
def _no_engine() -> Iterator[None]:
    latex.set_engine(None)
    yield
    latex.set_engine(math_pool.equivalent)


def acc(trajectory: str, answer_type: str, gold: str, more: dict[str, Any]) -> float:
    score = compute_score("d", trajectory, gold, {"num_images": 2, "answer_type": answer_type, **more})
    return float(score["acc"])


# ---- text around an incorrect answer -------------------------------------------------------------------------------

tags = [tag for pair in TAGS.values() for tag in pair]
SAID = [
    "so ",
    "the answer is ",
    " or ",
    "\n",
    " ",
    "not ",
    "**",
    r"\boxed{",
    "}",
    "(",
    ")",
    "<b>",
    "\u200b",
    "答案是",
    "<Answer>",
]


@st.composite
def texts(draw: st.DrawFn, gold: str) -> str:
    """What could be inserted: the gold, tags, phrases, anything; with a whole answer of its own now and then."""
    pieces = st.one_of(
        st.sampled_from(
            [*tags, *SAID, gold, f"<answer>{gold}</answer>", f"</answer><answer>{gold}", f"<answer>{gold}"]
        ),
        st.text(max_size=8),
    )
    return "".join(draw(st.lists(pieces, min_size=1, max_size=5)))


@many
@given(st.data(), st.sampled_from(INCORRECT))
def test_text_anywhere_around_an_incorrect_answer_does_not_make_it_correct(data: st.DataObject, row: Any) -> None:
    """Anywhere but inside the answer, where 4 becomes 42: that is another answer."""
    answer_type, incorrect, gold, more = row
    before, after = "<global>Both.</global>\n<think>It is so.</think>\n", "\n"
    answer = f"<answer>{incorrect}</answer>"
    for _ in range(data.draw(st.integers(1, 3))):
        inserted = data.draw(texts(gold))
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(before)))
            before = before[:at] + inserted + before[at:]
        else:
            at = data.draw(st.integers(0, len(after)))
            after = after[:at] + inserted + after[at:]
    assert acc(before + answer + after, answer_type, gold, more) == 0.0


@many
@given(st.data(), st.sampled_from(INCORRECT))
def test_an_incorrect_answer_with_the_gold_beside_it_is_incorrect(data: st.DataObject, row: Any) -> None:
    """Inside the answer: both in one answer, in either order, joined by anything that is not empty."""
    answer_type, incorrect, gold, more = row
    assume(answer_type != "ordering")  # its answers are lists: see the next one
    joint = data.draw(
        st.sampled_from([" or ", ", ", "; ", " and ", "\n", " / ", " -> ", ", no, ", " (or ", "或", " | ", " "])
    )
    pair = [incorrect, gold] if data.draw(st.booleans()) else [gold, incorrect]
    body = joint.join(pair * data.draw(st.integers(1, 3)))
    # (gold, then a slip within OCR's tolerance, is an answer within the tolerance: that rule's own business)
    assume(answer_type != "ocr" or len(joint + incorrect) > 0.1 * len(gold))
    if answer_type == "mcq_multi":
        assume(joint not in (" ", "\n"))
    assert acc(f"<think>x</think><answer>{body}</answer>", answer_type, gold, more) == 0.0


@many
@given(
    st.lists(
        st.text(st.characters(codec="ascii", categories=["Ll", "Lu", "Nd"]), min_size=2, max_size=8),
        min_size=2,
        max_size=6,
        unique_by=str.lower,
    ),
    st.sampled_from([" ", ", ", "; ", "\n", " or ", " and ", "/", " | ", "、", ") ("]),
    st.data(),
)
def test_enumerating_options_never_scores(options: list[str], joint: str, data: st.DataObject) -> None:
    """Two or more of the options, as letters, as texts or as both: correct for no gold."""
    chosen = data.draw(st.lists(st.integers(0, len(options) - 1), min_size=2, max_size=len(options), unique=True))
    style = data.draw(
        st.sampled_from(["{letter}", "{text}", "({letter})", "{letter}. {text}", "{letter} {text}", "**{letter}**"])
    )
    body = joint.join(style.format(letter="ABCDEF"[i], text=options[i]) for i in chosen)
    assume(body.lower() not in {text.lower() for text in options})
    for i in range(len(options)):
        assert verify(body, "ABCDEF"[i], "mcq", options=options) is not True, (body, i)
        if not style.count("text"):
            assert verify(body, "ABCDEF"[i], "mcq") is not True


@many
@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=5, unique=True),
    st.sampled_from([" ", ", ", " or ", "\n", "/", " to ", "; "]),
)
def test_enumerating_numbers_never_scores(numbers: list[int], joint: str) -> None:
    body = joint.join(map(str, numbers))
    assume(not (joint == "/" and len(numbers) == 2))  # a fraction is one number
    for number in numbers:
        assert verify(body, str(number), "number") is False
        assert verify(body, str(number), "latex") is False


@settings(max_examples=settings.default.max_examples // 4)
@given(st.integers(2, 60), st.integers(2, 60), st.sampled_from(["+", "-", r"\cdot ", r"\times ", "*", "^"]))
def test_repeating_the_question_is_no_answer(a: int, b: int, operation: str) -> None:
    """A computer algebra system would say that 17*23 equals 391. With the real engine."""
    value = {"+": a + b, "-": a - b, "^": a ** min(b, 3)}.get(operation, a * b)
    b = min(b, 3) if operation == "^" else b
    latex.set_engine(math_pool.equivalent)
    try:
        assert verify(f"{a}{operation}{b}", str(value), "latex") is ((a, operation) == (10, "^"))
    finally:
        latex.set_engine(None)


# ---- diversity -----------------------------------------------------------------------------------------------------

rollouts = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from(["a>answer", "b>answer", "a>b>answer", ""])),
    min_size=1,
    max_size=16,
)
coefficients = st.floats(0, 1)
seeds = st.integers(0, 999)


@many
@given(rollouts, coefficients)
def test_diversity_never_lifts_an_incorrect_answer_over_a_correct_one(
    group: list[tuple[bool, bool, str]], c: float
) -> None:
    """At equal format a correct answer earns at least what an incorrect one does, for all patterns and c in [0, 1].

    They are level only at c = 1, for a correct answer whose whole group has its pattern. (Across formats the paper's
    weights decide: a malformed correct answer and a well-formed incorrect one are worth 0.5 each before diversity.)
    """
    correct, well_formed, patterns = zip(*group, strict=True)
    rewards = group_rewards(correct, well_formed, patterns, [0] * len(group), c)
    plain = group_rewards(correct, well_formed, patterns, [0] * len(group), 0.0)
    for i, (is_correct, form, pattern) in enumerate(group):
        if not is_correct:
            assert rewards[i] == plain[i], "no pattern changes what an incorrect answer earns"
        for j, (other_correct, other_form, _) in enumerate(group):
            if is_correct and not other_correct and form == other_form:
                assert rewards[i] >= rewards[j]
                if rewards[i] == rewards[j]:
                    assert c == pytest.approx(1)
                    assert set(patterns) == {pattern}
    assert ((rewards >= 0) & (rewards <= 1)).all()


# ---- padding -------------------------------------------------------------------------------------------------------

names = st.sampled_from(["global", "focus", "hint", "think"])
paths = st.lists(names, min_size=1, max_size=5)


def write(path: list[str], bodies: dict[int, str] | None = None) -> str:
    bodies = bodies or {}
    return "".join(f"<{n}>{bodies.get(i, 'word')}</{n}>" for i, n in enumerate(path)) + "<answer>B</answer>"


def earned(trajectory: str, others: list[list[str]], mode: str, c: float) -> float:
    """What a trajectory earns in a group with others that are all correct and well formed."""
    row = {"num_images": 2, "answer_type": "mcq"}
    scores = [compute_score("d", text, "B", row, pattern_mode=mode) for text in (trajectory, *map(write, others))]
    columns = {key: [score[key] for score in scores] for key in ("acc", "format", "pattern")}
    return float(group_rewards(columns["acc"], columns["format"], columns["pattern"], [0] * len(scores), c)[0])


@many
@given(
    paths,
    st.lists(paths, min_size=1, max_size=7),
    names,
    st.sampled_from(["", " ", "\n\t", "\u200b", "\u00ad \ufeff"]),
    st.data(),
)
def test_empty_actions_never_pay(
    path: list[str], others: list[list[str]], name: str, blank: str, data: st.DataObject
) -> None:
    """In any mode, for any c: the half that an empty action costs is more than diversity can give."""
    at = data.draw(st.integers(0, len(path)))
    mode, c = data.draw(st.sampled_from(PATTERN_MODES)), data.draw(coefficients)
    padded = write([*path[:at], name, *path[at:]], {at: blank})
    assert earned(padded, others, mode, c) <= earned(write(path), others, mode, c)


@many
@given(paths, st.lists(paths, min_size=1, max_size=7), st.integers(1, 5), coefficients, st.data())
def test_repeating_an_action_pays_nothing_but_in_exact_mode(
    path: list[str], others: list[list[str]], times: int, c: float, data: st.DataObject
) -> None:
    """`collapsed`: the same action again at once. `set`: any action of the path again, anywhere."""
    at = data.draw(st.integers(0, len(path) - 1))
    at_once = [*path[:at], *[path[at]] * times, *path[at:]]
    anywhere = data.draw(st.integers(0, len(path)))
    later = [*path[:anywhere], *[path[at]] * times, *path[anywhere:]]
    before = {mode: earned(write(path), others, mode, c) for mode in PATTERN_MODES}
    assert earned(write(at_once), others, "collapsed", c) == before["collapsed"]
    assert earned(write(later), others, "set", c) == before["set"]
    # What the paper's mode gives for it is bounded, and small: 0.05 at the paper's c = 0.1.
    assert earned(write(later), others, "exact", c) <= before["exact"] + 0.5 * c + 1e-12


@many
@given(st.lists(names, max_size=12))
def test_coarser_modes_see_fewer_patterns(path: list[str]) -> None:
    exact = parse(write(path)).pattern
    collapsed, present = pattern_in_mode(exact, "collapsed"), pattern_in_mode(exact, "set")
    assert pattern_in_mode(collapsed, "set") == present
    assert len(present) <= len(collapsed) <= len(exact)


# ---- company and order ---------------------------------------------------------------------------------------------


@many
@given(
    st.lists(st.tuples(st.sampled_from(INCORRECT), st.booleans()), min_size=2, max_size=8),
    seeds,
)
def test_verdicts_depend_on_nothing_but_the_row(rows: list[Any], seed: int) -> None:
    def score(item: Any) -> Any:
        (answer_type, incorrect, gold, more), correct = item
        text = f"<think>x</think><answer>{gold if correct else incorrect}</answer>"
        return compute_score("d", text, gold, {"num_images": 2, "answer_type": answer_type, **more})

    alone = [score(row) for row in rows]
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    assert [score(rows[i]) for i in order] == [alone[i] for i in order]
    assert [result["acc"] for result in alone] == [float(correct) for _, correct in rows]


@many
@given(rollouts, coefficients, seeds)
def test_rewards_do_not_depend_on_the_order_of_a_batch(group: list[Any], c: float, seed: int) -> None:
    order = random.Random(seed).sample(range(len(group)), len(group))
    groups = [i % 3 for i in range(len(group))]
    correct, well_formed, patterns = zip(*group, strict=True)
    here = group_rewards(correct, well_formed, patterns, groups, c)
    there = group_rewards(*([column[i] for i in order] for column in (correct, well_formed, patterns, groups)), c)
    assert np.array_equal(here[order], there)
