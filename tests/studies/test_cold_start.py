"""The cold-start study in small: whose rows an arm has, which second paths, and what becomes of records."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cinema_verl.cold_start.retrieval import embed
from cinema_verl.demo import digits
from cinema_verl.demo.digit_images import load_pools
from studies.cold_start import analyse, data, prepare, run, sft
from studies.cold_start.__main__ import main
from studies.dps import records
from studies.dps.analyse import RECORDS, published, with_tables
from studies.dps.prepare import open_policy
from studies.dps.testbed import Sets, questions

ROOT = Path(__file__).parents[2]
MARKS = (analyse.BEGIN, analyse.END)


@pytest.fixture(scope="module")
def drawn():
    return list(digits.questions(load_pools(), "train", "few", 40, 0, set()))


def by_letters(texts):
    """Unit vectors of how often each letter comes."""
    counts = np.array([[text.count(letter) + 1e-3 for letter in map(chr, range(32, 127))] for text in texts])
    return np.float32(counts / np.linalg.norm(counts, axis=1, keepdims=True))


@pytest.fixture(scope="module")
def seconds(drawn):
    return data.second_paths(drawn[:20], by_letters)


def test_every_candidate_is_correct_well_formed_and_on_a_path_of_its_own(drawn):
    for question in drawn:
        samples = data.candidates(question)
        assert len({sample.path for sample in samples}) == len(data.paths_of(question))
        assert all(sample.usable and sample.correct for sample in samples)


def test_second_paths_are_the_ends_of_the_order_by_similarity(drawn, seconds):
    for question, second in zip(drawn, seconds, strict=False):
        paths = list(data.paths_of(question))
        vectors = embed(data.candidates(question), by_letters)
        cosines = np.round(vectors @ vectors.T, 6)
        for first, (least, most) in second.items():
            others = [cosines[paths.index(first), place] for place, path in enumerate(paths) if path != first]
            assert cosines[paths.index(first), paths.index(least)] == min(others)
            assert cosines[paths.index(first), paths.index(most)] == max(others)


@pytest.mark.parametrize("arm", data.ARMS)
def test_every_arm_has_as_many_rows_and_two_paths_a_question_differ(drawn, seconds, arm):
    made = data.rows(arm, drawn, seconds, seed=3)
    assert len(made) == 40
    paths = {}
    for row in made:
        paths.setdefault(row.question.uid, []).append(row.actions)
    assert len(paths) == (40 if arm == "one_path_more_questions" else 20)
    two = arm in ("least_similar", "most_similar", "random_second", "habit_two")
    assert {len(set(each)) for each in paths.values()} == {2 if two else 1}
    assert data.rows(arm, drawn, seconds, seed=3) == made != data.rows(arm, drawn, seconds, seed=4)


def test_the_drafts_of_a_seed_are_the_same_in_every_arm(drawn, seconds):
    def of(arm):
        found = {}
        for row in data.rows(arm, drawn, seconds, seed=1):
            found.setdefault(row.question.uid, set()).add(row.actions)
        return found

    alone = of("one_path")
    for arm in ("least_similar", "most_similar", "random_second", "one_path_more_questions"):
        both = of(arm)
        assert all(first <= both[uid] for uid, first in alone.items())


def test_the_rate_rises_and_falls():
    assert [sft.rate(step, 1000) for step in (0, 30, 60, 530, 1000)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [sft.rate(step, 100) for step in (0, 10, 20, 60, 100)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_fine_tuning_lowers_the_loss_of_what_it_is_shown(drawn):
    torch.set_num_threads(1)
    policy = open_policy(load_pools())
    made = data.rows("chain_of_thought", drawn, [{}] * 16, seed=1)
    losses = []
    sft.fine_tune(policy, made * 4, lambda step, loss: losses.append(loss))
    assert len(losses) == 8
    assert np.mean(losses[-2:]) < 0.7 * np.mean(losses[:2])


def point(one, eight=0.8, **more):
    shares = {"sum": {"patterns": {"think>answer": {"share": 1.0}}}}
    return {
        "pass_1": one,
        "pass_8": eight,
        "greedy": one,
        "format": 1.0,
        "pattern_entropy": 1.0,
        "tasks": shares,
        **more,
    }


def recorded(arm, seed, one, end=None):
    cold = {"cold_start": point(one), "loss": 0.1, "rows": {"entropy": 1.0, "share": {"think": 1.0}}}
    found = {"end": point(end), "curve": [{"share": 0.25}] * 120} if end is not None else cold
    return {"unit": arm, "seed": seed, "policy": "x", "cpu_seconds": 30.0, "arms": {arm: found}}


def test_claims_are_decided_at_their_own_point():
    found = [recorded("one_path", seed, 0.50 + seed / 1000) for seed in range(4)]
    found += [recorded("least_similar", seed, 0.60 + seed / 500) for seed in range(4)]
    found += [recorded("one_path", seed, 0, 0.70) for seed in range(4)]
    found += [recorded("least_similar", seed, 0, 0.60 + seed / 1000) for seed in range(4)]
    after, end, _ = analyse.decisions(found).values()
    assert next((d.claim.metric, d.verdict) for d in after if d.seeds == 4) == ("pass_1", "yes")
    assert next((d.claim.metric, d.verdict) for d in end if d.seeds == 4) == ("pass_1", "no")
    made = analyse.tables(point(0.4), found)
    assert "| `least_similar` | 4 | 0.603" in made
    assert "together: 8 CPU minutes" in made


def test_units_come_in_the_registered_order():
    order = list(run.units(run.SEEDS))
    arms = [arm for arm in data.ARMS if arm != "one_path_more_questions"]
    assert order[:28] == [(arm, seed) for seed in (1, 2, 3, 4) for arm in arms]
    assert order[28:48] == [(arm + run.RL, seed) for seed in (1, 2, 3, 4) for arm in run.RL_ARMS]
    assert order[48:62] == [(arm, seed) for seed in (5, 6) for arm in arms]
    assert order[62:] == [("one_path_more_questions", seed) for seed in run.SEEDS]


def test_what_is_recorded_is_not_run_again(tmp_path, monkeypatch):
    bench = run.Bench(tmp_path, None, [], [], None, {}, "x", set())

    def opened(output):
        records.mend(output / run.FILE)
        bench.done = {(each["unit"], each["seed"]) for each in records.read(output.glob("*.jsonl"))}
        return bench

    ran = []

    def pretend(_, arm, seed):
        ran.append((arm, seed))
        if len(ran) == 3:
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(run.Bench, "open", opened)
    monkeypatch.setattr(run, "cold_start", pretend)
    monkeypatch.setattr(run, "reinforce", pretend)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path, [1])
    with open(tmp_path / run.FILE, "a") as file:
        file.write('{"unit": "one_pa')
    run.run(tmp_path, [1])
    assert len(ran) == len(list(run.units([1]))) + 1
    assert [json.loads(line)["unit"] for line in (tmp_path / run.FILE).read_text().splitlines()] == [
        unit for unit, _ in run.units([1])
    ]


def test_the_study_in_miniature(tmp_path, monkeypatch, capsys):
    few = Sets(*(list(questions(load_pools(), split, 11)) for split in ("train", "val", "test")))
    monkeypatch.setattr(data, "PRETRAIN", 16)
    monkeypatch.setattr(data, "QUESTIONS", 8)
    monkeypatch.setattr(prepare, "Encoder", lambda name, device: by_letters)
    for module in (prepare, run):
        monkeypatch.setattr(module, "sets", lambda pools: few)
    monkeypatch.setattr(run.arms, "STEPS", 1)
    monkeypatch.setattr(run, "units", lambda seeds: [("habit_two", 1), ("habit_two/rl", 1)])
    output, page = tmp_path / "study", tmp_path / "page.md"
    with pytest.raises(SystemExit):
        main(["run", "--output", str(output)])
    assert main(["prepare", "--output", str(output)]) == 0
    assert main(["run", "--output", str(output)]) == 0
    page.write_text(f"before\n{analyse.BEGIN}\n{analyse.END}\nafter\n")
    results = ["--results", str(tmp_path / "results"), "--docs", str(page)]
    assert main(["analyse", "--output", str(output), *results]) == 0
    made = page.read_text()
    assert made.count("| `habit_two` | 1 |") == 2
    assert main(["analyse", "--output", str(tmp_path / "none"), *results]) == 0
    assert page.read_text() == made

    (output / "backbone" / "model.safetensors").write_bytes(
        (output / "backbone" / "model.safetensors").read_bytes()[:-4] + b"\0\0\0\1"
    )
    with pytest.raises(run.records.OtherPolicy):
        main(["run", "--output", str(output)])


def test_the_page_has_the_tables_of_the_records_there_are():
    results, page = ROOT / "studies" / "cold_start" / "results", (ROOT / "docs" / "science.md").read_text()
    made = analyse.tables(*published(results)) if (results / RECORDS).exists() else ""
    command = "run: python -m studies.cold_start analyse --results studies/cold_start/results --docs docs/science.md"
    assert page == with_tables(page, made, MARKS), command
