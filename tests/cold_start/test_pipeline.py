"""Whole runs against servers on loopback: faults, budgets, restarts, bad input; nothing lost, nothing paid twice."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cinema_verl.cold_start import command, pipeline
from cinema_verl.cold_start.breaker import FIRST
from cinema_verl.cold_start.outputs import LEFT, PROVENANCE, RL_POOL, SFT, SUMMARY
from cinema_verl.cold_start.pipeline import LIVES
from cinema_verl.cold_start.plan import SamplingPlan
from cinema_verl.cold_start.trees_page import PAGE
from cinema_verl.data.directory import write_dataset
from cinema_verl.endpoint.ledger import Ledger

FILES = (SFT, RL_POOL, PROVENANCE, LEFT, SUMMARY, PAGE)
PASSING = {"429": 0.1, "burst": 0.005, "500": 0.05, "503": 0.05, "reset": 0.04, "reset_late": 0.03, "half_json": 0.03,
           "html": 0.02, "no_choices": 0.02, "hang": 0.005, "echo": 0.02}  # fmt: skip


def contents(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in FILES if (output / name).exists()}


def summary(output: Path) -> dict:
    return json.loads((output / SUMMARY).read_text())


def left_out(output: Path) -> dict[str, str]:
    return {line["uid"]: line["reason"] for line in map(json.loads, (output / LEFT).read_text().splitlines())}


def test_a_run_makes_two_rows_a_question_and_counts_add_up(endpoints, capsys):
    run = endpoints(60)
    assert run.run() == 0
    found = summary(run.output)
    assert found["questions"] == 60 == found["cold_start"] + found["rl"] + found["left_out"]
    assert min(found["cold_start"], found["rl"], found["reasons"]["cold_start/two_paths"]) > 0
    assert found["sft_rows"] == 2 * found["reasons"]["cold_start/two_paths"]
    assert found["rl_rows"] == found["rl"]
    assert pq.read_metadata(run.output / SFT).num_rows == found["sft_rows"]
    # Every call was paid once, is in the summary once, and its price with it.
    paid, distinct = run.paid
    assert paid == distinct == sum(found["calls"].values())
    assert run.teacher.stats()["requests"] == run.teacher.stats()["paid"]
    record = [json.loads(line) for line in (run.output / PROVENANCE).read_text().splitlines()]
    assert found["cost"] > 0
    assert found["cost"] == pytest.approx(sum(each["cost"] for each in record), abs=1e-6)  # rounded
    assert f"ledger: {paid} calls" in capsys.readouterr().out


def test_a_finished_run_asks_for_nothing_even_when_nobody_is_there_any_more(endpoints):
    run = endpoints(12)
    assert run.run() == 0
    before, paid = contents(run.output), run.paid
    run.student.stop(), run.teacher.stop()
    assert run.run() == 0
    assert (contents(run.output), run.paid) == (before, paid)
    run.student.start(), run.teacher.start()


def test_faults_that_pass_leave_no_trace(endpoints, tmp_path):
    quiet = endpoints(40)
    assert quiet.run() == 0
    loud = endpoints(quiet.questions, faults=PASSING)
    assert loud.run("--teacher-retries", "30", "--student-retries", "30", output=tmp_path / "loud") == 0
    assert sum(loud.teacher.faults_made.values()) > 20
    assert contents(tmp_path / "loud") == contents(quiet.output)
    # Each request beyond the first was one that failed.
    for server in (loud.student, loud.teacher):
        assert server.stats()["requests"] - server.stats()["distinct"] <= server.faults_made.total() + 20


def test_refusals_truncations_and_filters_are_named(endpoints):
    run = endpoints(60, faults={"refusal": 0.3, "length": 0.3, "content_filter": 0.1, "filtered": 0.1})
    assert run.run("--drafts", "1", "--refinements", "1") == 0
    found = summary(run.output)
    assert {"draft/refused", "draft/truncated", "draft/filtered", "refine/refused"} <= set(found["calls"])
    assert {"left_out/student_refused", "left_out/student_truncated", "left_out/student_filtered"} <= set(
        found["reasons"]
    )
    assert sum(found["reasons"].values()) == 60


def test_a_server_that_is_killed_and_comes_back_costs_nothing_but_time(endpoints, tmp_path):
    quiet = endpoints(40)
    assert quiet.run() == 0
    run = endpoints(quiet.questions, latency=0.02)

    def restart():
        while not run.teacher.paid:  # the check before the run has passed, and there is more to ask
            time.sleep(0.002)
        run.teacher.stop()
        time.sleep(0.3)
        run.teacher.start()

    thread = threading.Thread(target=restart)
    thread.start()
    code = run.run("--teacher-retries", "200", output=tmp_path / "restarted")
    thread.join()
    assert code == 0
    assert contents(tmp_path / "restarted") == contents(quiet.output)


def test_an_endpoint_that_is_gone_for_good_stops_the_run_and_the_next_one_goes_on(endpoints, capsys):
    run = endpoints(60)
    run.teacher.latency = 0.1  # four at a time: the other fifty take longer than a busy machine takes to stop it

    def go():
        while run.teacher.paid.total() < 10:
            time.sleep(0.002)
        run.teacher.stop()

    watch = threading.Thread(target=go)
    watch.start()
    assert run.run("--teacher-retries", "1", "--teacher-concurrency", "4") == 1
    watch.join()
    assert "run the same command again" in capsys.readouterr().out
    assert summary(run.output)["not_reached"] > 0
    run.teacher.start()
    assert run.run() == 0
    assert summary(run.output)["not_reached"] == 0
    assert not any(name.endswith("unavailable") for name in summary(run.output)["calls"])


def test_a_budget_stops_in_time_and_a_larger_one_goes_on(endpoints, tmp_path, capsys):
    whole = endpoints(30)
    assert whole.run() == 0
    run = endpoints(whole.questions)
    budget = summary(whole.output)["cost"] * 0.8
    assert run.run("--budget", str(budget), output=tmp_path / "b") == 1
    assert "the budget of" in capsys.readouterr().err
    stopped = summary(tmp_path / "b")
    assert stopped["cost"] <= budget
    assert 0 < stopped["not_reached"] < 30
    paid, distinct = run.paid
    assert paid == distinct
    assert run.run("--budget", "100", output=tmp_path / "b") == 0
    assert contents(tmp_path / "b") == contents(whole.output)
    assert run.paid == whole.paid


def test_a_first_part_is_not_paid_again_by_the_whole(endpoints, tmp_path):
    whole = endpoints(20)
    assert whole.run() == 0
    run = endpoints(whole.questions)
    assert run.run("--limit", "7", output=tmp_path / "b") == 0
    assert summary(tmp_path / "b")["questions"] == 7
    assert run.run(output=tmp_path / "b") == 0
    assert contents(tmp_path / "b") == contents(whole.output)
    assert run.paid == whole.paid


def test_an_ablation_on_the_same_ledger_pays_for_nothing(endpoints, tmp_path):
    run = endpoints(20)
    assert run.run() == 0
    paid = run.paid
    for name, options in {"one": ("--trajectories", "1"), "actions": ("--similarity", "actions")}.items():
        assert run.run(*options, "--work", str(run.output / "work"), output=tmp_path / name) == 0
    assert run.paid == paid
    assert set(pq.read_table(tmp_path / "one" / SFT)["trajectory"].to_pylist()) == {0}
    assert summary(tmp_path / "actions")["reasons"] == summary(run.output)["reasons"]


def test_plain_chain_of_thought_needs_no_student(endpoints):
    run = endpoints(10)
    run.student.stop()
    assert run.run("--mode", "cot") == 0
    assert set(pq.read_table(run.output / SFT)["pattern"].to_pylist()) == {"think>answer"}
    run.student.start()


def test_an_action_that_is_taken_out_is_in_no_row_and_no_prompt(endpoints):
    run = endpoints(20)
    assert run.run("--mode", "cinema_without_hint") == 0
    rows = pq.read_table(run.output / SFT).to_pylist()
    assert len(rows) >= 10
    for row in rows:
        assert "hint" not in row["pattern"]
        assert "<hint>" not in row["messages"][0]["content"]


def test_a_dry_run_asks_nothing_needs_no_key_and_writes_nothing(endpoints, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    run = endpoints(9)
    run.student.stop(), run.teacher.stop()
    assert run.run("--dry-run", "--teacher-key-env", "NO_SUCH_KEY") == 0
    said = capsys.readouterr().out
    assert "9 questions: 36 drafts, 9 to 45 teacher calls" in said
    assert "--- the teacher reads" in said
    assert not run.output.exists()
    run.student.start(), run.teacher.start()
    assert run.paid == (0, 0)


@pytest.mark.slow
def test_two_workers_under_ray_find_the_same(endpoints, tmp_path):
    # Workers are other processes: the scripted encoder is not there, so one trajectory a question.
    alone = endpoints(24)
    assert alone.run("--trajectories", "1") == 0
    run = endpoints(alone.questions)
    options = ("--trajectories", "1", "--workers", "2")
    assert run.run(*options, output=tmp_path / "two") == 0
    assert contents(tmp_path / "two") == contents(alone.output)
    assert run.paid == alone.paid
    ledgers = sorted(path.parent.name for path in (tmp_path / "two" / "work").glob("*/ledger.sqlite"))
    assert ledgers == ["0-of-2", "1-of-2"]
    assert run.run(*options, output=tmp_path / "two") == 0
    assert run.paid == alone.paid


def test_another_number_of_workers_would_pay_again_and_is_refused(endpoints, capsys):
    run = endpoints(4)
    assert run.run() == 0
    assert run.run("--workers", "2") == 1
    assert "continue with --workers 1" in capsys.readouterr().err


def test_a_ledger_in_use_is_one_line(endpoints, capsys):
    run = endpoints(4)
    with Ledger(run.output / "work" / "0-of-1" / "ledger.sqlite"):
        assert run.run() == 1
    said = capsys.readouterr().err
    assert said.count("another process has this ledger open") == 1
    assert "Traceback" not in said
    assert run.paid == (0, 0)


def test_the_second_of_two_into_one_output_is_refused_whatever_its_work(endpoints, tmp_path, capsys):
    """The second has a ledger of its own, so that only the output is shared; it begins where the first is asking."""
    run, second = endpoints(4), []
    answer = run.teacher.responder

    def meanwhile(request, rng):
        if not second:
            second.append(None)
            second[0] = run.run("--work", str(tmp_path / "elsewhere"))
        return answer(request, rng)

    run.teacher.responder = meanwhile
    assert run.run() == 0
    assert second == [1]
    assert f"another run is writing to {run.output}" in capsys.readouterr().err


def test_questions_that_are_not_what_their_manifest_lists_are_refused(endpoints, make_question, tmp_path, capsys):
    data = tmp_path / "data"
    write_dataset(data, [make_question(number) for number in range(4)], [], {})
    part = data / "questions" / "part-00000.jsonl"
    part.write_text(part.read_text().replace("Question 3: which", "Question 3: what"))
    run = endpoints(data)
    assert run.run() == 1
    assert "is not what manifest.json lists" in capsys.readouterr().err
    assert run.paid == (0, 0)


def test_questions_that_change_during_the_run_make_no_rows(endpoints, make_question, capsys):
    run = endpoints(4)
    answer = run.teacher.responder

    def meanwhile(request, rng):
        run.questions.write_text(run.questions.read_text().replace("Question 3: which", "Question 3: what"))
        return answer(request, rng)

    run.teacher.responder = meanwhile
    assert run.run() == 1
    assert "changed while it was read" in capsys.readouterr().err
    assert not (run.output / SFT).exists()


@pytest.mark.slow
def test_a_ledger_in_use_is_one_line_under_ray_too(endpoints, capsys):
    run = endpoints(4)
    options = ("--workers", "2", "--encoder", "packaged")
    with Ledger(run.output / "work" / "0-of-2" / "ledger.sqlite"):
        assert run.run(*options) == 1
    said = capsys.readouterr().err
    assert said.count("another process has this ledger open") == 1
    assert "Traceback" not in said


class Deadly(SamplingPlan):
    """Worker 1 dies over a question: as one does whose memory runs out, or whose image decoder crashes."""

    def shard(self, number):
        Deadly.working = number
        return super().shard(number)

    def owner(self, uid):
        if os.getpid() != self.driver and self.working == 1 and uid == "q/9":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().owner(uid)


def test_a_worker_that_dies_each_time_is_given_up_and_named(endpoints, capsys, monkeypatch):
    run = endpoints(4)
    assert run.run("--limit", "1") == 0
    lives = run.output / "work" / "0-of-1" / "lives"
    assert not lives.exists()  # it ended

    def killed(work, items, **kwargs):
        lives.write_bytes(b"+" * LIVES)  # as Ray begins it for the fourth time
        return [work(item) for item in items]

    paid = run.paid
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "spread", killed)
        assert run.run() == 1
    assert f"worker 0 died {LIVES} times ({lives.parent})" in capsys.readouterr().err
    assert run.paid == paid
    lives.write_bytes(b"+" * LIVES)  # left by a run that was killed: its deaths are not the next one's
    assert run.run() == 0


@pytest.mark.slow
def test_a_worker_that_dies_each_time_does_not_hold_up_the_others(endpoints, capsys, monkeypatch, request):
    import ray

    ray.cloudpickle.register_pickle_by_value(request.module)  # the workers cannot import a test
    Deadly.driver = os.getpid()
    run = endpoints(24)
    options = ("--trajectories", "1", "--workers", "2")
    with monkeypatch.context() as patched:
        patched.setattr(command, "SamplingPlan", Deadly)
        assert run.run(*options) == 1
    said = capsys.readouterr()
    assert f"worker 1 died {LIVES} times" in said.err
    found = summary(run.output)
    assert 0 < found["not_reached"] < 24
    assert found["cold_start"] > 0
    assert run.run(*options) == 0
    assert summary(run.output)["not_reached"] == 0


def test_no_cluster_at_the_address(endpoints, capsys):
    run = endpoints(4)
    assert run.run("--ray-address", "127.0.0.1:9") == 1
    assert "no Ray at 127.0.0.1:9" in capsys.readouterr().err
    assert run.paid == (0, 0)


# --- Bad input ----------------------------------------------------------------------------------------------


def test_a_budget_without_prices_would_stop_nothing(endpoints, capsys):
    run = endpoints(5)
    with pytest.raises(SystemExit, match="2"):
        run.run("--budget", "3", "--teacher-price", "0", "0")
    assert "--budget needs a price" in capsys.readouterr().err
    assert run.run("--budget", "3", "--teacher-price", "0", "1", "--dry-run") == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--browse", "-1"), "--browse"),
        (("--limit", "0"), "--limit"),
        (("--budget", "-1"), "--budget"),
        (("--budget", "nan"), "--budget"),
        (("--draft-temperature", "nan"), "temperature"),
        (("--student-timeout", "inf"), "the student: timeout must be a finite number"),
        (("--teacher-url", "http://localhost:99999/v1"), "not the base URL"),
    ],
)
def test_values_that_make_no_sense_are_one_line_and_nothing_is_asked(endpoints, capsys, options, says):
    run = endpoints(3)
    with pytest.raises(SystemExit, match="2"):
        run.run(*options)
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not run.output.exists()


def test_no_key(endpoints, capsys, monkeypatch):
    monkeypatch.delenv("CINEMA_TEST_KEY", raising=False)
    run = endpoints(5)
    assert run.run("--teacher-key-env", "CINEMA_TEST_KEY") == 1
    assert capsys.readouterr().err.count("the environment variable CINEMA_TEST_KEY is not set") == 1
    assert run.paid == (0, 0)
    assert not (run.output / SUMMARY).exists()


def test_a_mistaken_command_leaves_what_an_earlier_one_has_written(endpoints):
    run = endpoints(8)
    assert run.run() == 0
    before = contents(run.output)
    assert run.run("--teacher-model", "gpt-9") == 1
    assert contents(run.output) == before


def test_wrong_model(endpoints, capsys):
    run = endpoints(5)
    assert run.run("--teacher-model", "gpt-9") == 1
    assert capsys.readouterr().err.count("there is no model 'gpt-9'; there are: stub") == 1
    assert run.paid == (0, 0)


def test_an_endpoint_that_is_none(endpoints, capsys):
    run = endpoints(5)
    assert run.run("--teacher-url", run.teacher.url.removesuffix("/v1")) == 1
    assert capsys.readouterr().err.count("not an OpenAI-compatible endpoint") == 1
    assert run.run("--teacher-url", "http://127.0.0.1:9/v1", "--teacher-retries", "0") == 1
    assert capsys.readouterr().err.count("nobody answers") == 1
    with pytest.raises(SystemExit, match="2"):
        run.run("--teacher-url", "no address")
    assert "not the base URL" in capsys.readouterr().err
    assert run.paid == (0, 0)


def test_questions_that_cannot_be_asked_are_counted_and_the_rest_goes_on(endpoints, make_question):
    fine = [make_question(number) for number in range(8)]
    bad = [
        make_question(90, answer="Z"),
        make_question(91, question="<image> one?"),
        make_question(92),
        make_question(93),
    ]
    run = endpoints([*bad[:2], *fine, *bad[2:]])
    Path(bad[2].images[0].path).unlink()
    Path(bad[3].images[1].path).write_bytes(b"not a picture")
    assert run.run() == 0
    left = left_out(run.output)
    expected = {
        "q/90": "gold_unreadable",
        "q/91": "bad_row",
        "q/92": "student_bad_image",
        "q/93": "student_bad_image",
    }
    assert {uid: left[uid] for uid in expected} == expected
    assert summary(run.output)["not_reached"] == 0
    assert sum(summary(run.output)["reasons"].values()) == 12
    # Put right, it is asked by the next run, and nothing else is.
    paid = run.paid[0]
    Path(bad[2].images[0].path).write_bytes(Path(bad[3].images[0].path).read_bytes())
    assert run.run() == 0
    assert left_out(run.output)["q/92"] == "student_bad_image"  # still not the image that was stored
    assert run.paid[0] == paid


def test_an_image_over_the_endpoint_s_limit(endpoints):
    run = endpoints(6)
    assert run.run("--teacher-request-bytes", "300") == 1
    assert summary(run.output)["reasons"].get("left_out/teacher_image_too_large", 0) >= 5
    assert run.teacher.stats()["requests"] == 0
    strict = endpoints(run.questions, max_request_bytes=400)  # the endpoint says so itself
    assert strict.run("--drafts", "1", output=run.output.with_name("strict")) == 1  # no row has come of it
    assert summary(strict.output.with_name("strict"))["reasons"] == {"left_out/student_image_too_large": 6}


def test_a_student_that_never_follows_the_format(endpoints):
    run = endpoints(6)
    run.student.responder = lambda request, rng: "The answer is B."
    assert run.run() == 1  # no row has come of it
    assert summary(run.output)["reasons"] == {"left_out/student_off_format": 6}
    assert summary(run.output)["violations"]["student/text_outside"] == 24
    for line in map(json.loads, (run.output / LEFT).read_text().splitlines()):
        assert line["violations"]["student/text_outside"] == 4
    assert run.teacher.stats()["requests"] == 0
    assert not (run.output / SFT).exists()


# --- Teachers and students as they are ----------------------------------------------------------------------


CALM = ("--student-timeout", "60", "--teacher-timeout", "60")  # on a busy machine nothing is asked twice


def test_a_run_whose_replies_fail_alike_stops_before_its_money_is_gone(endpoints, teacher, capsys):
    run = endpoints(300)
    run.teacher.responder = lambda request, rng: f"<think>\x1b[31mLet me see.</think>\n{teacher(request, rng)}"
    assert run.run(*CALM) == 1
    said = capsys.readouterr().err
    assert "replies of the teacher fail alike: off_path" in said
    assert r"\x1b[31mLet me see." in said, "a model's control characters are shown, not obeyed"
    assert "--teacher-native-reasoning strip" in said
    paid = run.teacher.stats()["paid"]
    assert paid <= FIRST + 2 * 16, "what was in flight, and one more of each"
    # The same command stops again, and pays for nothing.
    assert run.run(*CALM) == 1
    assert "fail alike" in capsys.readouterr().err
    assert run.teacher.stats()["paid"] == paid
    # Declared, the replies that are paid are read again.
    student_paid = run.student.stats()["paid"]
    assert run.run(*CALM, "--teacher-native-reasoning", "strip", "--limit", "20") == 0
    assert run.paid[0] == run.paid[1], "no call is paid twice"
    assert run.student.stats()["paid"] == student_paid
    found = summary(run.output)
    assert found["sft_rows"] > 10
    assert found["taken_off"] == {"teacher/leading_think": sum(
        n for name, n in found["calls"].items() if name in ("refine/ok", "explore/ok")
    )}  # fmt: skip
    kept = [json.loads(line) for line in (run.output / PROVENANCE).read_text().splitlines()]
    texts = [each["taken_off"].get("leading_think") for line in kept for each in line["samples"]]
    assert "<think>\x1b[31mLet me see.</think>" in texts
    assert not any("Let me see" in str(row) for row in pq.read_table(run.output / SFT).to_pylist())


def test_a_run_that_fails_alike_goes_on_when_that_is_wanted(endpoints):
    run = endpoints(30)
    run.student.responder = lambda request, rng: "The answer is B."
    assert run.run() == 1
    assert 0 < summary(run.output)["not_reached"] < 30
    assert run.run("--failing-alike", "2") == 1  # to the end, and without a row
    assert summary(run.output)["not_reached"] == 0


def test_what_is_around_a_trajectory_is_taken_off_and_counted(endpoints, teacher):
    plain = endpoints(20)
    assert plain.run() == 0
    run = endpoints(plain.questions)
    run.teacher.responder = lambda request, rng: f"Looking.</think>\n```xml\n{teacher(request, rng)}\n```"
    assert run.run(output=run.output.with_name("wrapped")) == 0
    wrapped = summary(run.output.with_name("wrapped"))
    assert wrapped["taken_off"]["teacher/code_fence"] == wrapped["taken_off"]["teacher/bare_closing_think"] > 20
    assert pq.read_table(run.output.with_name("wrapped") / SFT).equals(pq.read_table(plain.output / SFT))


def test_reasoning_in_a_field_of_its_own_is_kept_and_leaves_the_think_action_alone(endpoints, teacher):
    plain = endpoints(20)
    assert plain.run() == 0
    run = endpoints(plain.questions)
    run.teacher.responder = lambda request, rng: {"content": teacher(request, rng), "reasoning_content": "Both."}
    out = run.output.with_name("separate")
    assert run.run(*CALM, "--teacher-native-reasoning", "strip", output=out) == 0
    assert pq.read_table(out / SFT).equals(pq.read_table(plain.output / SFT))
    assert set(summary(out)["taken_off"]) == {"teacher/separate_reasoning"}
    assert run.run(*CALM, "--teacher-native-reasoning", "refuse", output=out) == 1
    assert summary(out)["violations"]["teacher/native_reasoning"] > 0
    assert run.paid[0] == run.paid[1]


def test_an_extra_body_is_sent_and_is_part_of_the_call(endpoints, teacher):
    seen = []
    run = endpoints(3)
    run.teacher.responder = lambda request, rng: seen.append(request.get("reasoning_effort")) or teacher(request, rng)
    assert run.run("--teacher-extra-body", '{"reasoning_effort": "low"}') == 0
    assert set(seen) == {"low"}
    assert run.run("--teacher-extra-body", '{"reasoning_effort": "high"}') == 0
    assert set(seen) == {"low", "high"}


@pytest.mark.parametrize("body", ["{half", "[]", '{"model": "other"}', '{"n": 4}'])
def test_an_extra_body_that_cannot_be_sent_is_refused(endpoints, capsys, body):
    run = endpoints(3)
    with pytest.raises(SystemExit, match="2"):
        run.run("--teacher-extra-body", body)
    assert "the extra body of the teacher" in capsys.readouterr().err
    assert not run.output.exists()


def test_an_endpoint_that_does_not_list_its_model_is_asked_once(endpoints, caplog):
    run = endpoints(6, listed=("gpt-4o", "gpt-4o-mini"))
    assert run.run(*CALM) == 0
    assert "there is no model 'stub'; there are: gpt-4o, gpt-4o-mini; the model is asked once" in caplog.text
    found = summary(run.output)
    assert run.paid == (sum(found["calls"].values()) + 2, sum(found["calls"].values()) + 2)
    unasked = endpoints(run.questions, listed=None)
    assert unasked.run(*CALM, "--no-model-check", output=run.output.with_name("unasked")) == 0
    assert unasked.paid[0] == sum(found["calls"].values())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [*lines, lines[0]], "two questions are called 'q/0'"),
        (lambda lines: [lines[0], "{half"], "line 2"),
        (lambda lines: [], "has no questions"),
        (lambda lines: [lines[0], lines[1].replace('"answer_type": "mcq"', '"answer_type": "guess"')], "'guess'"),
    ],
)
def test_a_file_that_is_not_one_of_questions_is_refused_before_anything_is_asked(endpoints, capsys, spoil, says):
    run = endpoints(3)
    run.questions.write_text("".join(f"{line}\n" for line in spoil(run.questions.read_text().splitlines())))
    with pytest.raises(SystemExit, match="2"):
        run.run()
    assert says in capsys.readouterr().err
    assert run.paid == (0, 0)


def test_the_key_is_in_no_file_and_no_message(endpoints, capsys, monkeypatch, caplog):
    key = "sk-verysecret-0123456789"
    monkeypatch.setenv("CINEMA_TEST_KEY", key)
    run = endpoints(20, api_key=key, faults={"echo": 0.2, "500": 0.1})
    options = ("--teacher-key-env", "CINEMA_TEST_KEY", "--student-key-env", "CINEMA_TEST_KEY")
    assert run.run(*options, "--teacher-retries", "1", "--student-retries", "1") in (0, 1)
    monkeypatch.setenv("CINEMA_TEST_KEY", key + "x")  # refused, and the server repeats what it was sent
    assert run.run(*options, "--drafts", "5") == 1
    said = capsys.readouterr()
    assert "the key is refused" in said.err
    everything = said.out + said.err + caplog.text
    files = [path for path in run.output.rglob("*") if path.is_file()]
    assert len(files) > 6
    assert key not in everything
    assert not [path.name for path in files if key.encode() in path.read_bytes()]


def test_the_progress_bar_says_that_the_encoder_is_loading(endpoints, monkeypatch, capsys):
    run, made, seen = endpoints(2), pipeline.Encoder, []

    def slow(name):
        seen.append(name)
        time.sleep(1.2)  # the bar looks twice a second
        return made(name)

    monkeypatch.setattr(pipeline, "Encoder", slow)
    assert run.run() == 0
    said = capsys.readouterr().err
    assert f"cold start, loading encoder {seen[0]}: " in said
    assert "loading" not in said.replace("\r", "\n").strip().splitlines()[-1]
