"""What is asked: the words, the paths and the calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl import prompts
from cinema_verl.cold_start.requests import (
    COT_PATH,
    Calls,
    SamplingSettings,
    modes,
    other_paths,
    path_line,
    policy_messages,
    teacher_messages,
    with_images,
)
from cinema_verl.cold_start.tree import read
from cinema_verl.meta_action import GLOBAL, TAGS


def test_the_student_reads_what_the_rl_row_holds(make_question):
    question = make_question()
    row = question.rl_row(0, min_pixels=1, max_pixels=2)
    assert policy_messages(question, "cinema") == row["prompt"]
    assert policy_messages(question, "none") == row["prompt"][1:]


def test_the_teacher_is_told_the_rules_and_the_path_and_not_the_gold(make_question):
    system, user = teacher_messages(make_question(answer="B"), ("hint", "focus", "answer"), SamplingSettings())
    for tags in TAGS.values():
        assert tags.open in system["content"]
    assert user["content"].endswith("\nPath: <hint>…</hint> <focus>…</focus> <answer>…</answer>")
    assert user["content"].count("<image>") == 2
    assert "gold" not in (system["content"] + user["content"]).lower()


def test_images_stand_where_the_text_names_them(make_question):
    question = make_question(question="Compare <image> with <image>", options=())
    (message,) = with_images([{"role": "user", "content": question.prompt}], question.images)
    first, second = (image.sha256 for image in question.images)
    assert message["content"] == [
        {"type": "text", "text": "Compare "},
        {"type": "image", "sha256": first},
        {"type": "text", "text": " with "},
        {"type": "image", "sha256": second},
    ]
    assert with_images([{"role": "system", "content": "words"}], ()) == [{"role": "system", "content": "words"}]


def test_other_paths_are_the_students_own_first_and_then_the_standard_ones(make_question, text):
    question = make_question()
    samples = [read("s", text(path, "A"), question) for path in ("focus think", "hint", "think think", "hint")]
    samples.append(read("s", "off format", question))
    paths = other_paths(samples, ("focus", "think", "answer"), 2, "uid")
    assert paths[:2] == [("hint", "answer"), ("think", "think", "answer")]
    assert ("focus", "think", "answer") not in paths
    assert len(paths) == len(set(paths)) == 2 + 6
    assert any(GLOBAL in path for path in paths)
    assert not any(GLOBAL in path for path in other_paths(samples, ("hint", "answer"), 1, "uid"))


def test_questions_start_at_different_standard_paths():
    firsts = {other_paths([], COT_PATH, 2, f"q/{number}")[0] for number in range(100)}
    assert len(firsts) == 6  # all standard ones but the refined path itself


def test_calls_differ_where_they_must_and_only_there(make_question):
    calls = Calls(SamplingSettings(), "student", "teacher")
    a, b = make_question(0), make_question(1)
    path = ("focus", "answer")
    keys = [
        calls.draft(a, 0).key, calls.draft(a, 1).key, calls.draft(b, 0).key, calls.refine(a, path, 0).key,
        calls.refine(a, path, 1).key, calls.refine(a, ("hint", "answer"), 0).key, calls.explore(a, path).key,
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert calls.draft(make_question(0), 0).key == keys[0]
    # What is done with a call's result is no part of it: ablations share the ledger.
    assert (
        Calls(SamplingSettings(trajectories=1, similarity="actions"), "student", "teacher").draft(a, 0).key == keys[0]
    )
    assert Calls(SamplingSettings(), "other", "teacher").draft(a, 0).key != keys[0]


def test_seeds_differ_between_questions_and_can_be_left_out(make_question):
    calls = Calls(SamplingSettings(), "s", "t")
    seeds = {calls.draft(make_question(number), draw).sampling["seed"] for number in range(5) for draw in range(4)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert "seed" not in Calls(SamplingSettings(seeds=False), "s", "t").draft(make_question(0), 0).sampling


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "direct"},
        {"similarity": "letters"},
        {"trajectories": 3},
        {"drafts": 0},
        {"draft_tokens": 0},
        {"draft_temperature": -0.1},
        {"teacher_temperature": float("nan")},
        {"refinements": 0},
        {"explorations": -1},
        {"min_pixels": 10, "max_pixels": 9},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingSettings(**wrong)


def test_plain_chain_of_thought_wants_one_trajectory():
    assert {mode for mode in modes() if SamplingSettings(mode=mode).wanted == 1} == {"cot"}


def test_a_mode_of_another_package_is_a_mode_of_the_cold_start(install):
    install("mine", {prompts.GROUP: {"brief": "mine:BRIEF"}}, "BRIEF = '{think}…{/think}{answer}…{/answer}'")
    assert SamplingSettings(mode="brief").mode == "brief"
    assert not {"direct"} & {*modes()}


@pytest.mark.parametrize("action", [name for name in TAGS if name != "answer"])
def test_an_action_that_is_taken_out_is_nowhere(make_question, text, action):
    settings = SamplingSettings(mode=f"cinema_without_{action}")
    question, path = make_question(), ("think" if action != "think" else "hint", "answer")
    words = [message["content"] for message in teacher_messages(question, path, settings)]
    words += [message["content"] for message in policy_messages(question, settings.mode)]
    assert not any(TAGS[action].open in each for each in words)
    assert not read("student/0", text(action), question, settings.removed).usable
    paths = other_paths([], path, 2, question.uid, settings.removed)
    assert len(paths) >= 2
    assert not any(action in each or each == ("answer",) for each in paths)


@given(st.lists(st.sampled_from(list(TAGS)), max_size=6))
def test_a_path_line_names_every_action_in_order(names):
    line = path_line(tuple(names))
    assert line.count("<") == 2 * len(names)
    assert [part.partition(">")[0] for part in line.split("<")[1::2]] == names
