"""From records to decisions: what was registered, on made-up records."""

import json

import pytest

from studies.dps import records
from studies.dps.analyse import (
    BEGIN,
    END,
    RECORDS,
    Claim,
    Found,
    by_arm,
    decide,
    differences,
    holm,
    path_height,
    publish,
    published,
    with_tables,
)


def point(entropy=1.0, one=0.5, eight=0.8, **more):
    return {"pattern_entropy": entropy, "pass_1": one, "pass_8": eight, **more}


START = point(1.6, 0.4, 0.9)
DAPO = {
    "path": [point(1.2, 0.5, 0.8), point(0.8, 0.6, 0.7)],
    "exploration": point(0.4, 0.6, 0.6),
    "end": point(0.2, 0.7, 0.5),
    "stopped": point(0.3, 0.65, 0.55),
}


def test_holm_stops_at_the_first_that_is_not_rejected():
    # 0.01 <= 0.05 / 4; 0.015 <= 0.05 / 3; 0.03 > 0.05 / 2, and so 0.04 is not looked at.
    assert holm([0.04, 0.01, 0.03, 0.015]) == [False, True, False, True]


def test_the_height_above_the_path_is_taken_between_its_neighbours():
    # Half way from 0.8 to 1.2 nats the path has pass@1 0.55.
    assert path_height(DAPO, START, point(1.0, 0.6), "pass_1") == pytest.approx(0.05)
    assert path_height(DAPO, START, point(1.4, 0.6, 0.9), "pass_8") == pytest.approx(0.05)


def test_beyond_the_path_it_stays_what_it_is_at_its_end():
    assert path_height(DAPO, START, point(0.1, 0.7), "pass_1") == pytest.approx(0.0)
    assert path_height(DAPO, START, point(1.9, 0.4), "pass_1") == pytest.approx(0.0)


def test_a_difference_is_paired_by_seed_and_seeds_of_one_arm_alone_are_left_out():
    runs = {
        "two_stages": {1: {"end": point(one=0.6)}, 2: {"end": point(one=0.7)}, 3: {"end": point(one=0.9)}},
        "dapo": {1: {"end": point(one=0.5), "stopped": point(one=0.55)}, 2: {"end": point(one=0.5)}},
    }
    assert differences(Claim("", "two_stages", "dapo", "end", "pass_1"), runs, START) == pytest.approx([0.1, 0.2])
    del runs["dapo"][2]
    stopped = Claim("", "two_stages", "dapo", "end", "pass_1", 0.0, "stopped")
    assert differences(stopped, runs, START) == pytest.approx([0.05])


@pytest.mark.parametrize(
    ("change", "above", "verdict"),
    [
        ([0.10, 0.11, 0.12, 0.09], 0.0, "yes"),
        ([-0.10, -0.11, -0.12, -0.09], 0.0, "no"),
        ([0.10, -0.11, 0.12, -0.09], 0.0, "undecided"),
        ([-0.01, -0.011, -0.009, -0.01], -0.02, "yes"),
        ([-0.03, -0.031, -0.029, -0.03], -0.02, "no"),
        ([0.01, 0.011, 0.009, 0.01], 0.02, "no"),
    ],
)
def test_a_claim_can_hold_fail_and_stay_open(change, above, verdict):
    runs = {
        "a": {seed: {"end": point(one=0.5 + each)} for seed, each in enumerate(change)},
        "b": {seed: {"end": point(one=0.5)} for seed in range(len(change))},
    }
    (decision,) = decide([Claim("", "a", "b", "end", "pass_1", above)], runs, START)
    assert decision.verdict == verdict


def test_without_enough_seeds_nothing_is_decided():
    runs = {"a": {1: {"end": point()}}, "b": {1: {"end": point()}}}
    assert decide([Claim("", "a", "b", "end", "pass_1")], runs, START) == []


def test_units_hold_runs_of_several_arms():
    found = [
        {"seed": 3, "arms": {"dps": {"end": 1}, "two_stages": {"end": 2}}},
        {"seed": 3, "arms": {"dapo": {"end": 3}}},
    ]
    assert by_arm(found) == {"two_stages": {3: {"end": 2}}, "dps": {3: {"end": 1}}, "dapo": {3: {"end": 3}}}


def test_an_unfinished_last_line_is_cut_off_by_its_successor_and_left_by_readers(tmp_path):
    file = tmp_path / "records-0.jsonl"
    records.append(file, {"seed": 1})
    with open(file, "a") as writing:
        writing.write('{"seed": 2, "arms')
    assert records.read([file]) == [{"seed": 1}]
    records.mend(file)
    records.append(file, {"seed": 2})
    assert records.read([file]) == [{"seed": 1}, {"seed": 2}]


def test_a_line_that_is_no_record_is_named(tmp_path):
    file = tmp_path / "records-0.jsonl"
    file.write_text(json.dumps({"seed": 1}) + "\nnonsense\n")
    with pytest.raises(ValueError, match=r"records-0\.jsonl:2"):
        records.read([file])


def test_a_page_gets_the_tables_between_its_marks_and_keeps_the_rest():
    page = f"# Science\n\n{BEGIN}\n\nold\n{END}\n\nmore\n"
    assert with_tables(page, "new\n") == f"# Science\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"
    assert with_tables(with_tables(page, "new\n"), "new\n") == with_tables(page, "new\n")
    with pytest.raises(ValueError, match="lines"):
        with_tables("# Science\n", "new\n")


def test_what_is_published_is_read_again_with_seeds_in_order(tmp_path):
    (tmp_path / "properties.json").write_text(json.dumps(START))
    for seed, part in ((2, 0), (1, 1)):
        records.append(tmp_path / f"records-{part}.jsonl", {"seed": seed, "unit": "dapo", "arms": {"a": [0.123456]}})
    publish(tmp_path, tmp_path / "results")
    start, found = published(tmp_path / "results")
    assert start == START
    assert [(record["seed"], record["arms"]) for record in found] == [(1, {"a": [0.1235]}), (2, {"a": [0.1235]})]
    first = (tmp_path / "results" / RECORDS).read_bytes()
    publish(tmp_path, tmp_path / "results")
    assert (tmp_path / "results" / RECORDS).read_bytes() == first


def test_the_replication_and_runs_through_verl_stay_out_of_the_main_tables():
    def measured(one):
        return point(
            one=one,
            greedy=0.5,
            format=0.9,
            generated=8,
            tasks={"sum": point(one=one, patterns={"focus": {"share": 1}})},
        )

    def record(unit, seed, one):
        run = {"exploration": measured(one), "end": measured(one), "curve": [{"share": 0.1}]}
        return {"unit": unit, "seed": seed, "cpu_seconds": 60, "arms": {"dapo": run}}

    found = Found.of(
        measured(0.4), [record("dapo", 1, 0.5), record("replication", 17, 0.7), record("verl/dapo", 1, 0.1)]
    )
    assert {arm: list(seeds) for arm, seeds in found.runs.items()} == {"dapo": [1]}
    assert {arm: list(seeds) for arm, seeds in found.again.items()} == {"dapo": [17]}
    assert found.cpu_minutes == 2
    assert "| `dapo` | 1 | 0.100 / 0.800 / 1.00 | 0.500 / 0.800 / 1.00 |" in found.tables()
