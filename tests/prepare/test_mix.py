"""A mix has the size and the shares that were asked for, or says what stands in the way."""

import json
import math
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinema_verl.data.canonical import REASONS, ImageRef, Question
from cinema_verl.data.directory import read_questions, write_dataset
from cinema_verl.prepare.mix import NOT_IN_MIX, PASS_RATE, PASS_RATE_UNKNOWN, Selection, fill, lines, plan, table
from cinema_verl.prepare.mix_spec import OTHER, MixError, MixSpec, Stratum

ROOT = Path(__file__).parents[2]
SCRIPT, EXAMPLE = (ROOT / "data_preprocess" / name for name in ("mix.py", "mix_example.yaml"))


def spec_of(size, **values):
    return MixSpec.of({"size": size, **values})


# --- Water-filling --------------------------------------------------------------------------------------------------


def filled(weights, low, high, total):
    return fill(*(np.array(values, dtype=float) for values in (weights, low, high)), total).tolist()


def test_filling_by_hand():
    assert filled([1, 1, 2], [0, 0, 0], [9, 9, 9], 8) == pytest.approx([2, 2, 4])
    assert filled([2, 1, 1], [0, 0, 0], [9, 9, 1], 7) == pytest.approx([4, 2, 1])  # the third runs short
    assert filled([1, 1], [5, 0], [9, 9], 6) == pytest.approx([5, 1])  # the first may not be less
    assert filled([0, 1], [0, 0], [9, 9], 4) == pytest.approx([0, 4])  # no weight, nothing
    assert filled([1, 1], [0, 0], [2, 2], 9) == pytest.approx([2, 2])  # all that there is
    assert filled([1, 1], [3, 3], [9, 9], 1) == pytest.approx([3, 3])  # no less than must be


@st.composite
def fillings(draw):
    size = draw(st.integers(1, 8))
    high = draw(st.lists(st.integers(0, 1000), min_size=size, max_size=size))
    low = [draw(st.integers(0, value)) for value in high]
    weights = draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))
    return weights, low, high, draw(st.integers(sum(low), sum(high)))


@given(fillings())
def test_filling_meets_the_total_within_bounds_and_in_proportion(filling):
    weights, low, high, total = filling
    values = filled(*filling)
    assert sum(values) == pytest.approx(total, abs=1e-6)
    assert all(a <= value <= b for a, value, b in zip(low, values, high, strict=True))
    free = [
        value / weight
        for weight, a, value, b in zip(weights, low, values, high, strict=True)
        if a + 1e-9 < value < b - 1e-9
    ]
    assert not free or max(free) == pytest.approx(min(free), rel=1e-6)


# --- Plans ----------------------------------------------------------------------------------------------------------


def test_a_stratum_that_runs_short_is_made_up_for_in_proportion():
    spec = spec_of(60, source={"a": 0.5, "b": 0.25, "c": 0.25})
    # c has 10 of its 15; a and b share 50 as 2 to 1: 33.33 and 16.67.
    assert plan(spec, {("a",): 100, ("b",): 100, ("c",): 10}) == {("a",): 33, ("b",): 17, ("c",): 10}


def test_what_the_targets_leave_goes_to_the_others_by_what_there_is():
    spec = spec_of(100, source={"a": 40, "b": {"at_most": 10}})
    # 60 are left for b and the others, 30 each by what there is; b stops at 10.
    taken = plan(spec, {("a",): 500, ("b",): 300, (OTHER,): 300})
    assert taken[("b",)] == 10
    # level L: 40 L + 10 + 30 L = 100
    assert taken[("a",)] == 51
    assert taken[(OTHER,)] == 39


def test_dimensions_are_met_together():
    spec = spec_of(100, source={"a": 0.5, "b": 0.5}, modality={"multi": 0.8, "single": 0.2})
    cells = {(source, kind): 100 for source in "ab" for kind in ("multi", "single")}
    assert plan(spec, cells) == {
        ("a", "multi"): 40,
        ("a", "single"): 10,
        ("b", "multi"): 40,
        ("b", "single"): 10,
    }


def test_of_targets_that_contradict_each_other_the_first_is_met():
    cells = {("a", "multi"): 10, ("a", "single"): 100, ("b", "multi"): 100, ("b", "single"): 100}
    taken = plan(spec_of(100, source={"a": 0.5, "b": 0.5}, modality={"multi": 0.8, "single": 0.2}), cells)
    assert taken == {("a", "multi"): 10, ("a", "single"): 40, ("b", "multi"): 50, ("b", "single"): 0}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"size": 90}, "size is 90, and there are only 71 questions"),
        ({"source": {"z": 0.5}}, "source 'z' has no question among the inputs .*none of those named"),
        ({"source": {"a": 0.5, "z": 0.5}}, "source 'z' .*found: a"),
        ({"source": {"a": {"at_least": 25}}}, "source.a wants at least 25, and there are 21"),
        (
            {"modality": {"multi": 30}, "source": {"a": {"at_least": 25}}},
            "source.a wants at least 25, and there are 21",
        ),
        ({"source": {"a": {"at_most": 5}, "b": {"at_most": 5}}}, "source that may grow hold 10 of 30"),
        ({"source": {"a": 10, "b": 20}, "modality": {"multi": {"at_most": 5}}}, r"modality\.multi wants at most 5"),
    ],
)
def test_what_cannot_be_is_said(values, says):
    spec = MixSpec.of({"size": 30, **values})
    there = Counter()
    for source, kind, count in (("a", "multi", 20), ("a", "single", 1), ("b", "multi", 20), ("b", "single", 30)):
        place = {"source": source, "modality": kind}
        there[tuple(place[name] if place[name] in values[name] else OTHER for name in spec.dimensions)] += count
    with pytest.raises(MixError, match=says):
        plan(spec, there)


SOURCES, KINDS = ("a", "b", OTHER), ("multi", "single", OTHER)


@st.composite
def mixes(draw):
    """A specification of two dimensions, and what there is."""
    cells = {(source, kind): draw(st.integers(0, 60)) for source in SOURCES for kind in KINDS}
    total = sum(cells.values())
    size = draw(st.integers(20, max(20, total)))

    def stratum():
        kind = draw(st.sampled_from(["target", "at_most", "at_least", "absent"]))
        share = draw(st.floats(0.05, 0.5))
        return {"target": share, "at_most": {"at_most": share + 0.3}, "at_least": {"at_least": share / 4}}.get(kind)

    values = {"size": size}
    for dimension, names in (("source", SOURCES), ("modality", KINDS)):
        strata = {name: value for name in names[:2] if (value := stratum()) is not None}
        if strata:
            values[dimension] = strata
    spec = MixSpec.of(values)
    there = {}
    for (source, kind), count in cells.items():
        place = {"source": source, "modality": kind}
        cell = tuple(place[name] if place[name] in values[name] else OTHER for name in spec.dimensions)
        there[cell] = there.get(cell, 0) + count
    return spec, there


@settings(max_examples=50)
@given(mixes())
def test_a_plan_is_exact_possible_and_within_its_bounds_or_there_is_none(mix):
    spec, there = mix
    try:
        taken = plan(spec, there)
    except MixError:
        return
    assert sum(taken.values()) == spec.size
    assert all(0 <= count <= there[cell] for cell, count in taken.items())
    for place, strata in enumerate(spec.dimensions.values()):
        for stratum in strata:
            count = sum(count for cell, count in taken.items() if cell[place] == stratum.name)
            assert stratum.at_least <= count <= stratum.at_most
    assert plan(spec, dict(reversed(there.items()))) == taken


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6), st.data())
def test_without_bounds_there_is_always_a_plan(counts, data):
    there = {(f"s{number}",): count for number, count in enumerate(counts)}
    size = data.draw(st.integers(1, sum(counts)))
    share = 1 / len(counts)
    taken = plan(spec_of(size, source={name: share for (name,) in there}), there)
    assert sum(taken.values()) == size
    wanted = size * share
    short = {cell for cell, count in there.items() if count < wanted}
    if not short:
        assert all(abs(count - wanted) < 1 for count in taken.values())
    assert all(taken[cell] == there[cell] for cell in short)


# --- Specifications -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"size": True}, "size is True"),
        ({"size": 9, "seed": "x"}, "seed is 'x'"),
        ({"size": 9, "colour": {}}, "unknown keys colour: use size, seed"),
        ({"size": 9, "source": {}}, "source is {}: give a mapping"),
        ({"size": 9, "source": {"a": 1.5}}, "source.a is 1.5: give a share"),
        ({"size": 9, "source": {"a": -1}}, "source.a is -1"),
        ({"size": 9, "source": {"a": {"most": 1}}}, "use target, at_least and at_most"),
        ({"size": 9, "source": {"a": {"at_least": 5, "at_most": 4}}}, "at_least 5 is over at_most 4"),
        ({"size": 9, "source": {"a": 0.6, "b": 0.6}}, "targets of source add up to 11, more than the size of 9"),
        ({"size": 9, "source": {"a": {"at_least": 5}, "b": {"at_least": 5}}}, "at_least of source adds up to 10"),
        ({"size": 9, "modality": {"multy": 1}}, "modality 'multy' does not exist: use multi, frames, single"),
        ({"size": 9, "answer_type": {"essay": 1}}, "answer_type 'essay' does not exist: use mcq"),
        ({"size": 9, "num_images": {"2-4": 1, "4+": 1}}, "ranges of num_images overlap"),
        ({"size": 9, "num_images": {"4-2": 1}}, "ends before it begins"),
        ({"size": 9, "num_images": {"few": 1}}, "'few' is no range"),
        ({"size": 9, "pass_rate": {"0.5": 1}}, "'0.5' is no range"),
        ({"size": 9, "pass_rate": {"0-0.5": 1, "0.4-1": 1}}, "ranges of pass_rate overlap"),
        ({"size": 9, "pass_rate_window": {"over": 1}}, "pass_rate_window is"),
        ({"size": 9, "pass_rate_window": {"above": 2}}, "pass_rate_window.above is 2"),
        ({"size": 9, "pass_rate_window": {"above": 0.5, "below": 0.5}}, "leaves nothing"),
        ({"size": 9, "pass_rate_window": {"unknown": "maybe"}}, "use keep or drop"),
    ],
)
def test_a_specification_that_is_wrong_is_refused(values, says):
    with pytest.raises(MixError, match=says):
        MixSpec.of(values)


def test_the_example_is_a_specification():
    spec = MixSpec.read(EXAMPLE)
    assert spec.size == 57_000 + 58_000
    assert list(spec.dimensions) == ["modality", "source", "num_images", "answer_type", "pass_rate"]


@pytest.mark.parametrize("content", [b"size: [", b"- 1", b"", b"\xff\xd8"])
def test_a_file_that_is_no_specification(tmp_path, content):
    (tmp_path / "mix.yaml").write_bytes(content)
    with pytest.raises(MixError, match=r"mix\.yaml is not"):
        MixSpec.read(tmp_path / "mix.yaml")
    with pytest.raises(MixError, match=f"--spec {tmp_path} cannot be read: Is a directory"):
        MixSpec.read(tmp_path)


def question(number, source="a", images=2, pass_rate=None, answer_type="yesno"):
    return Question(
        uid=f"{source}/{number}",
        source=source,
        source_id=str(number),
        split="train",
        license="made up",
        modality="single" if images == 1 else "multi",
        question="<image>" * images + f"Same in {number}?",
        images=tuple(
            ImageRef(f"/pictures/{number}-{place}.png", 28, 28, "0" * 64, "0" * 16) for place in range(images)
        ),
        answer_type=answer_type,
        answer="yes",
        pass_rate=pass_rate,
    )


def test_which_stratum_a_question_is_in():
    spec = spec_of(
        9,
        source={"a": 1, "a/b": 1},
        num_images={"1": 1, "2-4": 1, "6+": 1},
        pass_rate={"0-0.5": 1, "0.5-1": 1, "unknown": 1},
        modality={"multi": 1},
    )
    assert spec.cell_of(question(1, "a", 1, 0.5)) == ("a", "1", "0.5-1", OTHER)
    assert spec.cell_of(question(1, "a/b", 4, 0.0)) == ("a/b", "2-4", "0-0.5", "multi")
    assert spec.cell_of(question(1, "a/b/c", 5, 1.0)) == ("a/b", OTHER, "0.5-1", "multi")
    assert spec.cell_of(question(1, "ab", 6)) == (OTHER, "6+", "unknown", "multi")


# --- A run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path):
    """Two dataset directories, of 60 and 40 questions."""
    dice = random.Random(0)
    made = [
        question(number, source, 1 + number % 4, dice.choice([None, 0.0, 0.25, 0.5, 1.0]))
        for source, count in (("a", 60), ("b/x", 40))
        for number in range(count)
    ]
    write_dataset(tmp_path / "one", made[:60], [], {})
    write_dataset(tmp_path / "two", made[60:], [], {})
    return [tmp_path / "one", tmp_path / "two"]


VALUES = {
    "pass_rate_window": {"above": 0.0, "below": 1.0},
    "source": {"a": 0.5},
    "num_images": {"1": 0.1, "2+": {"at_least": 10}},
}


def uids(mix):
    return [question.uid for question in mix.questions()]


def test_taken_and_left_add_up_to_what_was_read(inputs):
    mix = Selection(inputs, spec_of(30, **VALUES))
    taken, left = uids(mix), list(mix.rejections())
    assert len(taken) == len(set(taken)) == 30
    assert mix.read == 100
    assert {*taken, *(rejection.uid for rejection in left)} == {q.uid for path in inputs for q in read_questions(path)}
    assert len(left) == 70
    assert left == sorted(left)
    assert sum(uid.startswith("a/") for uid in taken) == 15
    reasons = {rejection.uid: rejection for rejection in left}
    outside = [q for path in inputs for q in read_questions(path) if q.pass_rate in (0.0, 1.0)]
    assert {q.uid for q in outside} == {uid for uid, rejection in reasons.items() if rejection.reason == PASS_RATE}
    assert reasons[outside[0].uid].detail in ("0 is not over 0 and under 1", "1 is not over 0 and under 1")
    assert {rejection.reason for rejection in left} == {PASS_RATE, NOT_IN_MIX}


def test_questions_come_back_whole(inputs):
    mix = Selection(inputs, spec_of(30, **VALUES))
    known = {q.uid: q for path in inputs for q in read_questions(path)}
    assert all(q == known[q.uid] for q in mix.questions())


def test_the_same_for_any_order_of_the_inputs_and_other_questions_for_another_seed(inputs, tmp_path):
    one = uids(Selection(inputs, spec_of(30, **VALUES)))
    assert uids(Selection(inputs[::-1], spec_of(30, **VALUES))) == one
    everything = [q for path in inputs for q in read_questions(path)]
    write_dataset(tmp_path / "shuffled", random.Random(1).sample(everything, 100), [], {})
    assert uids(Selection([tmp_path / "shuffled"], spec_of(30, **VALUES))) == one
    other = uids(Selection(inputs, spec_of(30, seed=1, **VALUES)))
    assert set(other) != set(one)


def test_a_smaller_mix_of_the_same_shares_is_part_of_the_larger(inputs):
    small, large = (set(uids(Selection(inputs, spec_of(size, source={"a": 0.5})))) for size in (20, 40))
    assert small < large


def test_unknown_pass_rates_may_be_left_out(inputs):
    mix = Selection(inputs, spec_of(10, pass_rate_window={"unknown": "drop"}))
    assert all(question.pass_rate is not None for question in mix.questions())
    assert PASS_RATE_UNKNOWN in {rejection.reason for rejection in mix.rejections()}


def test_an_input_given_twice_is_refused(inputs):
    with pytest.raises(ValueError, match="two questions have the uid 'a/0': give each input once"):
        Selection([inputs[0], inputs[0]], spec_of(10))


def test_reasons_are_known():
    assert {PASS_RATE, PASS_RATE_UNKNOWN, NOT_IN_MIX} <= set(REASONS)


def test_the_table_names_every_stratum(inputs):
    spec = spec_of(30, **VALUES)
    mix = Selection(inputs, spec)
    rows = lines(spec, mix.available, mix.taken)
    assert [(row.dimension, row.stratum, row.wanted) for row in rows] == [
        ("source", "a", "15"),
        ("source", OTHER, "the rest"),
        ("num_images", "1", "3"),
        ("num_images", "2+", "≥ 10"),
    ]
    assert sum(row.taken for row in rows if row.dimension == "source") == 30
    assert table(rows).count("\n") == len(rows) + 1
    assert Stratum("x").at_most == math.inf


def test_the_script(inputs, tmp_path, run):
    spec = tmp_path / "mix.yaml"
    spec.write_text("size: 30\nsource: {a: 0.5}\n")
    given = [str(SCRIPT), "--spec", str(spec), "--output", str(tmp_path / "mix")]
    given += [part for path in inputs for part in ("--input", str(path))]
    dry = run(*given, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "| source | a | 15 | 60 | 15 |" in dry.stdout
    assert not (tmp_path / "mix").exists()
    done = run(*given)
    assert "100 questions read = 30 in the mix + 70 left" in done.stdout
    manifest = json.loads((tmp_path / "mix" / "manifest.json").read_text())
    assert (manifest["input_rows"], manifest["questions"], manifest["rejected"]) == (100, 30, 70)
    assert manifest["command"] == ["cinema-verl", "mix", *given[1:]]
    assert manifest["spec"]["text"] == spec.read_text()
    assert len(list(read_questions(tmp_path / "mix"))) == 30
    again = run(*given)
    assert (again.returncode, "holds a complete data set" in again.stderr) == (1, True)
    spec.write_text("size: 3000\n")
    less = run(*given[:3], "--output", str(tmp_path / "other"), *given[5:])
    assert (less.returncode, less.stderr) == (
        1,
        "mix: size is 3,000, and there are only 100 questions to take from\n",
    )
    assert "mix_example.yaml" in run(str(SCRIPT), "--help", python=sys.executable).stdout
