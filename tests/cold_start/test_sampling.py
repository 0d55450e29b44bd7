"""One question through the cold start, with models that say what the test says: every route by hand."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cinema_verl.cold_start.command import waits
from cinema_verl.cold_start.requests import Calls, SamplingSettings
from cinema_verl.cold_start.sampling import COLD_START, LEFT_OUT, REASONS, RL, QuestionResult, Sampler
from cinema_verl.endpoint.ledger import Call
from cinema_verl.endpoint.outcomes import Outcome, Reply
from cinema_verl.endpoint.paid import BudgetReached


def ok(text: str) -> Reply:
    return Reply(text, "stop", Outcome.OK, 10, 5, 0.25)


class Models:
    """Student and teacher out of lists of replies; `asked` is what they were asked."""

    def __init__(self, student=(), teacher=()):
        self._student, self._teacher = list(student), list(teacher)
        self.asked: list[Call] = []

    async def student(self, call, images):
        self.asked.append(call)
        await asyncio.sleep(0)
        reply = self._student[call.draw]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else ok(reply)

    async def teacher(self, call, images):
        self.asked.append(call)
        reply = self._teacher.pop(0)
        return reply if isinstance(reply, Reply) else ok(reply)


async def by_order(samples):
    """Later samples are less like the first."""
    angles = np.linspace(0, np.pi / 2, len(samples))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def sample(question, models: Models, **settings) -> QuestionResult:
    calls = Calls(replace(SamplingSettings(drafts=2, explorations=2), **settings), "s", "t")
    return asyncio.run(Sampler(calls, models.student, models.teacher, by_order)(question))


def followed(call: Call) -> str:
    """The path that a teacher's call names."""
    return call.messages[-1]["content"][-1]["text"].rsplit("\n", 1)[-1]


def test_a_draft_is_followed_correct_or_incorrect_and_another_draft_is_the_second_path(make_question, text):
    models = Models([text("focus think", "A"), text("hint", "B")], [text("focus think", "B")])
    result = sample(make_question(), models)
    assert (result.route, result.reason) == (COLD_START, "two_paths")
    assert (result.draft, result.refined, result.second) == (0, 2, 1)
    assert [each.origin for each in result.samples] == ["student/0", "student/1", "teacher/0"]
    assert followed(models.asked[2]) == "Path: <focus>…</focus> <think>…</think> <answer>…</answer>"
    assert dict(result.calls) == {("draft", "ok"): 2, ("refine", "ok"): 1}
    assert (result.prompt_tokens, result.completion_tokens, result.cost) == (30, 15, 0.75)
    assert result.final


def test_the_first_well_formed_draft_shows_the_path(make_question, text):
    models = Models(["I think B", text("hint", "A")], [text("hint", "B"), text("focus"), text("think")])
    result = sample(make_question(), models)
    assert (result.draft, result.path) == (1, ("hint", "answer"))


def test_an_incorrect_teacher_sends_the_question_to_the_rl_pool_whatever_the_student_knew(make_question, text):
    models = Models([text("focus think"), text("hint")], [text("focus think", "C")])
    result = sample(make_question(), models)
    assert (result.route, result.reason) == (RL, "teacher_wrong")
    assert result.second is None
    assert len(models.asked) == 3  # an incorrect refinement is a result, and not asked again


def test_a_teacher_that_strays_is_asked_again_and_what_it_wrote_is_kept(make_question, text):
    strays = text("focus hint think", "B")
    models = Models([text("focus think", "A")] * 2, [strays, "no tags", text("focus think", "B")])
    result = sample(make_question(), models)
    assert (result.route, result.reason, result.refined) == (COLD_START, "two_paths", 4)
    assert result.samples[result.second].text == strays  # the only correct one on another path
    assert [call.draw for call in models.asked] == [0, 1, 0, 1, 2]
    assert len({call.key for call in models.asked}) == 5


def test_a_teacher_that_never_follows_leaves_the_question_out(make_question, text):
    models = Models([text("focus think")] * 2, [text("focus"), text("hint"), text("think")])
    result = sample(make_question(), models)
    assert (result.route, result.reason) == (LEFT_OUT, "teacher_off_path")


def test_a_student_that_never_follows_the_format_costs_no_teacher(make_question):
    models = Models(["the answer is B", "<think>never closed"])
    result = sample(make_question(), models)
    assert (result.route, result.reason, result.final) == (LEFT_OUT, "student_off_format", True)
    assert [call.purpose for call in models.asked] == ["draft", "draft"]


@pytest.mark.parametrize("outcome", ["truncated", "refused", "filtered", "empty", "bad_image", "unavailable"])
def test_replies_that_are_no_text_have_reasons_of_their_own(make_question, text, outcome):
    none = Reply("cut <think>", "length", Outcome(outcome))
    result = sample(make_question(), Models([none, none]))
    assert (result.route, result.reason, result.samples) == (LEFT_OUT, f"student_{outcome}", [])
    result = sample(make_question(), Models([text("focus")] * 2, [none, none, none]))
    assert (result.route, result.reason) == (LEFT_OUT, f"teacher_{outcome}")
    kept = outcome in ("truncated", "refused", "filtered", "empty")
    assert result.final == kept  # what was not answered is asked again by the next run
    assert result.calls["refine", outcome] == (3 if kept else 1)  # and not again by this one


@pytest.mark.parametrize("outcome", ["bad_image", "bad_request", "unavailable"])
def test_what_was_not_answered_says_why(make_question, text, outcome):
    none = Reply("no such parameter: seed", "", Outcome(outcome))
    assert sample(make_question(), Models([none, none])).detail == none.text
    assert sample(make_question(), Models([text("focus")] * 2, [none])).detail == none.text


def test_without_a_second_path_the_teacher_is_asked_along_others_one_at_a_time(make_question, text):
    # The student's other path first, then standard ones; the first try is incorrect, the second correct.
    models = Models([text("focus think"), text("hint", "A")], [text("focus think"), text("hint", "A"), text("think")])
    result = sample(make_question(), models)
    assert (result.route, result.reason) == (COLD_START, "two_paths")
    assert [call.purpose for call in models.asked] == ["draft", "draft", "refine", "explore", "explore"]
    assert followed(models.asked[3]) == "Path: <hint>…</hint> <answer>…</answer>"
    assert result.samples[2].path == ("focus", "think", "answer")
    assert result.samples[result.second].text == text("think")
    assert result.samples[result.second].origin.startswith("explore/")


def test_expansion_is_bounded_and_then_the_question_is_single(make_question, text):
    models = Models([text("focus think")] * 2, [text("focus think"), text("hint", "A"), text("focus think")])
    result = sample(make_question(), models)
    assert (result.route, result.reason, result.second) == (COLD_START, "single", None)
    assert result.calls["explore", "ok"] == 2
    none = sample(make_question(), Models([text("focus think")] * 2, [text("focus think")]), explorations=0)
    assert none.reason == "single"


def test_one_trajectory_asks_for_no_second(make_question, text):
    result = sample(make_question(), Models([text("focus")] * 2, [text("focus")]), trajectories=1)
    assert (result.route, result.reason, result.second) == (COLD_START, "one_wanted", None)


def test_plain_chain_of_thought_asks_no_student_and_names_no_path(make_question, text):
    models = Models([], [text("think")])
    result = sample(make_question(), models, mode="cot")
    assert (result.route, result.reason) == (COLD_START, "one_wanted")
    assert [call.purpose for call in models.asked] == ["refine"]
    assert "Path:" not in str(models.asked[0].messages)


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"answer_type": "number", "answer": "a few", "options": ()}, "gold_unreadable", "'a few'"),
        ({"answer": "Z"}, "gold_unreadable", "'Z'"),
        ({"question": "<image> only one?"}, "bad_row", "1 <image> placeholder"),
        ({"question": "Image 1: <image> Image 2: <image> <video>?"}, "bad_row", "<video>"),
    ],
)
def test_a_question_that_cannot_be_used_is_asked_of_nobody(make_question, changes, reason, says):
    models = Models()
    result = sample(make_question(**changes), models)
    assert (result.route, result.reason) == (LEFT_OUT, reason)
    assert says in result.detail
    assert models.asked == []


def test_over_one_image_no_path_has_global(make_question, text):
    question = make_question(1, images=1)
    models = Models([text("global think"), text("focus")], [text("focus"), text("hint", "A"), text("think", "A")])
    result = sample(question, models)
    assert result.draft == 1  # Global over one image is off format
    assert "<global>" not in "".join(followed(call) for call in models.asked[2:])


def test_where_the_judge_could_not_be_asked_the_next_run_asks_again(make_question, text, monkeypatch):
    def verify(answer, gold, *_, **__):
        return None if answer == "unsure" else answer == gold

    monkeypatch.setattr("cinema_verl.cold_start.tree.verify", verify)
    drafts = [text("focus", "A"), text("hint", "unsure")]
    result = sample(make_question(), Models(drafts, [text("focus"), text("hint", "A"), text("think", "A")]))
    assert (result.reason, result.final) == ("single", False)  # the second draft may be the second path
    assert waits(result.record())
    result = sample(make_question(), Models([text("focus", "A")] * 2, [text("focus", "unsure")]))
    assert (result.route, result.reason, result.final) == (LEFT_OUT, "verifier_abstained", False)
    assert waits(result.record())
    assert not waits(sample(make_question(), Models(["B", "B"])).record())


def test_a_call_that_stops_the_run_waits_for_its_siblings(make_question, text):
    """They are being paid: nobody goes home before they are in the ledger."""
    finished = []

    class Slow(Models):
        async def student(self, call, images):
            if call.draw == 0:
                raise BudgetReached("no more")
            await asyncio.sleep(0.05)
            finished.append(call.draw)
            return ok(text("focus"))

    with pytest.raises(BudgetReached):
        sample(make_question(), Slow(), drafts=3)
    assert finished == [1, 2]


def test_a_record_says_it_all_in_json(make_question, text):
    import json

    models = Models([text("focus think", "A"), text("hint", "B")], [text("focus think", "B")])
    record = sample(make_question(3), models).record()
    assert json.loads(json.dumps(record)) == record
    assert (record["uid"], record["path"], record["calls"]) == (
        "q/3",
        "focus>think>answer",
        {"draft/ok": 2, "refine/ok": 1},
    )
    assert record["why_second"] == "cosine 0.707 to the refinement; 1 less similar: 0.000 incorrect"
    assert [visit["sample"] for visit in record["retrieval"]] == [0, 1]
    assert record["samples"][1] == {
        "origin": "student/1",
        "pattern": "hint>answer",
        "correct": True,
        "usable": True,
        "violations": [],
        "text": text("hint", "B"),
        "taken_off": {},
    }


def test_a_reason_that_is_not_explained_cannot_be_given():
    with pytest.raises(KeyError):
        QuestionResult("q").end(LEFT_OUT, "just_because")
    assert all(REASONS.values())
