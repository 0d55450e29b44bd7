"""An evaluation in numbers, each worked out by hand."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from cinema_verl.evaluate.files import settings_of
from cinema_verl.evaluate.summary import dependence_metrics, image_dependence, mean_metrics, summarise
from cinema_verl.runs.rollouts import read_strictly, rollout_of

from .conftest import rollout


def summary_of(*records):
    return summarise([rollout_of(record) for record in records])


def test_accuracy_and_its_parts():
    found = summary_of(
        rollout("a", acc=1.0, data_source="muirbench/order", num_images=2, response_tokens=10.0),
        rollout("b", acc=0.0, data_source="muirbench/order", num_images=4, response_tokens=30.0, format=0.0),
        rollout("c", acc=1.0, data_source="muirbench/count", num_images=4, answer_type="number", ability="counting"),
        rollout("d", acc=0.0, data_source="mirb", abstained=1.0, timed_out=1.0, native_reasoning=1.0),
    )
    muir, mirb = found["benchmarks"]["muirbench"], found["benchmarks"]["mirb"]
    assert muir["questions"] == 3
    assert muir["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert muir["format"]["mean"] == pytest.approx(2 / 3)
    assert muir["response_tokens"] == 20.0
    assert muir["response_characters"] == len("<think>so</think><answer>B</answer>")
    assert {name: part["accuracy"]["mean"] for name, part in muir["by_task"].items()} == {"count": 1.0, "order": 0.5}
    assert {name: part["accuracy"]["mean"] for name, part in muir["by_images"].items()} == {"2": 1.0, "4": 0.5}
    order = muir["by_task"]["order"]
    assert {name: part["accuracy"]["mean"] for name, part in order["by_images"].items()} == {"2": 1.0, "4": 0.0}
    assert order["patterns"] == [{"pattern": "think>answer", "share": 1.0, "accuracy": 0.5}]
    assert list(muir["by_answer_type"]) == ["mcq", "number"]
    assert list(mirb["by_task"]) == [""]
    assert (mirb["abstained"], mirb["timed_out"], mirb["native_reasoning"]) == (1.0, 1.0, 1.0)
    assert muir["native_reasoning"] == 0.0
    assert found["questions"] == {"true": 4}
    assert found["failed_rollouts"] == 0


def test_numbers_of_images_are_in_the_order_of_numbers():
    found = summary_of(*(rollout(f"q{n}", num_images=n) for n in (10, 2, 1)))
    assert list(found["benchmarks"]["digits"]["by_images"]) == ["1", "2", "10"]


def test_pass_at_k_of_four_rollouts():
    correct = {"a": [1, 1, 0, 0], "b": [0, 0, 0, 0], "c": [1, 1, 1, 1]}
    found = summary_of(*(rollout(q, i, float(acc)) for q, group in correct.items() for i, acc in enumerate(group)))
    passes = found["benchmarks"]["digits"]["pass_at_k"]
    # "a": 1 - C(2, k) / C(4, k) = 1/2, 5/6, 1, 1.
    assert [passes[str(k)]["mean"] for k in (1, 2, 3, 4)] == pytest.approx([1.5 / 3, (1 + 5 / 6) / 3, 2 / 3, 2 / 3])
    assert passes["1"] == found["benchmarks"]["digits"]["accuracy"]
    assert all(passes[str(k)] is None for k in range(5, 17))


def test_rollouts_that_failed_are_incorrect_and_have_no_length():
    found = summary_of(
        rollout("a", 0),
        rollout("a", 1),
        rollout("b", 0),  # verl's dump leaves the second one out
        rollout("c", 0, 0.0, stop_reason="failed", output="", response_tokens=None, format=0.0, pattern=""),
        rollout("c", 1, 0.0, stop_reason="failed", output="", response_tokens=None, format=0.0, pattern=""),
    )
    digits = found["benchmarks"]["digits"]
    assert found["rollouts_per_question"] == 2
    assert digits["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["failed_rollouts"] == 3
    assert digits["response_tokens"] == 20.0
    assert digits["stops"] == {"answer": 3, "failed": 2}


def test_all_failed_is_an_evaluation_too():
    found = summary_of(rollout("c", 0, 0.0, stop_reason="failed", output="", response_tokens=None, format=0.0))
    assert found["benchmarks"]["digits"]["response_characters"] is None
    json.dumps(found, allow_nan=False)


def test_patterns_and_violations_are_counted():
    records = [rollout(f"q{n}", acc=float(n < 2), pattern=f"p{n // 3}") for n in range(6)]
    records += [rollout(f"r{n}", acc=0.0, pattern=f"rare{n:02}") for n in range(20)]
    records[0]["violations"] = "no_answer,text_outside"
    found = summary_of(*records)["benchmarks"]["digits"]
    assert found["patterns"][0] == {"pattern": "p0", "share": 3 / 26, "accuracy": pytest.approx(2 / 3)}
    assert len(found["patterns"]) == 21
    assert found["patterns"][-1] == {"pattern": "other", "share": 2 / 26, "accuracy": 0.0}
    assert found["violations"] == {"no_answer": 1, "text_outside": 1}


def both_ways(questions: int, under: float, condition: str = "blank"):
    true = [rollout(f"q{n}") for n in range(questions)]
    return true + [rollout(f"q{n}", acc=under, data_source=f"digits/sum@{condition}") for n in range(questions)]


def test_image_dependence_is_paired():
    rollouts = [rollout_of(record) for record in [*both_ways(20, 0.0), rollout("alone", acc=0.0)]]
    found = image_dependence(rollouts, "blank", 1)
    assert (found.questions, found.true.mean, found.under.mean, found.drop.mean) == (20, 1.0, 0.0, 1.0)
    assert found.warning is None
    assert image_dependence(rollouts, "shuffled", 1) is None
    assert summarise(rollouts)["questions"] == {"true": 21, "blank": 20}
    assert summarise(rollouts)["benchmarks"]["digits"]["questions"] == 21


def test_a_policy_that_does_not_look_is_warned_of():
    found = image_dependence([rollout_of(record) for record in both_ways(50, 1.0)], "blank", 1)
    assert found.drop.mean == 0
    assert "on these 50 questions nothing shows that the policy looks at the images" in found.warning
    rightly_equal = [rollout_of(record) for record in both_ways(50, 1.0, "reordered")]
    assert image_dependence(rightly_equal, "reordered", 1).warning is None


def columns(records):
    infos = {name: [record.get(name) for record in records] for name in records[0]}
    return [record["data_source"] for record in records], [record["uid"].rsplit("_", 2)[0] for record in records], infos


def test_the_metrics_of_a_validation():
    records = both_ways(40, 0.0) + both_ways(40, 1.0, "shuffled")[40:] + both_ways(40, 1.0, "reordered")[40:]
    records.append(
        dict.fromkeys(records[0]) | {"data_source": "digits/sum", "uid": "lost_0_0"}
    )  # failed: nothing known
    metrics, warnings = dependence_metrics(*columns(records), expected=1)
    assert metrics["cinema/image_dependence/blank/drop"] == 1.0
    assert metrics["cinema/image_dependence/blank/true"] == 1.0
    assert metrics["cinema/image_dependence/blank/accuracy"] == 0.0
    assert metrics["cinema/image_dependence/shuffled/drop"] == 0.0
    assert (
        metrics["cinema/image_dependence/shuffled/drop_low"] < 0 < metrics["cinema/image_dependence/shuffled/drop_high"]
    )
    assert metrics["cinema/image_dependence"] == 0.5  # without the reordered ones
    assert len(warnings) == 1
    assert warnings[0].startswith("accuracy over shuffled images")


def test_a_validation_over_true_images_only_has_no_such_metrics():
    assert dependence_metrics(*columns([rollout("a")]), expected=1) == ({}, [])


def test_means_count_what_failed_as_zero():
    sources, _, infos = columns(
        [rollout("a", 0), rollout("a", 1, 0.0), rollout("b", 0), rollout("c", data_source="mirb")]
    )
    asked = {("digits/sum", "a"): 2, ("digits/sum", "b"): 2, ("mirb", "c"): 2}
    metrics = mean_metrics(sources, infos, asked)
    assert metrics["val-core/digits/sum/acc/mean@2"] == 0.5
    assert metrics["val-aux/digits/sum/format/mean@2"] == 0.75
    assert metrics["val-core/mirb/acc/mean@2"] == 0.5


def test_a_dump_of_before_lengths_and_sources_is_read(dump):
    old = {name: value for name, value in rollout("a").items() if name not in ("data_source", "ability", "stop_reason")}
    old["response_tokens"] = None
    (read,) = read_strictly(dump([old]))
    assert (read.source, read.condition, read.tokens, read.stop_reason) == ("unknown", "true", None, "unknown")
    nameless = rollout("", uid="5f-1_3_0")
    assert rollout_of(nameless).question == "5f-1"


def test_the_docs_name_every_key():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    with initialize_config_module("verl.trainer.config", version_base=None):
        settings = settings_of(compose("ppo_trainer", overrides=["+recipe=cinema_evaluate", "data.val_files=x"]), 0)
    found = summarise([rollout_of(record) for record in both_ways(3, 0.0)], settings)
    named_by_data = ("benchmarks", "by_", "violations", "stops", "pass_at_k", "questions", "image_dependence")

    def keys(value, inside):
        if isinstance(value, list):
            for item in value:
                yield from keys(item, "")
        elif isinstance(value, dict):
            for key, item in value.items():
                if not inside.startswith(named_by_data):
                    yield key
                yield from keys(item, "" if inside.startswith(named_by_data) else key)

    unknown = {key for key in keys(found, "") if f"`{key}`" not in page and f'"{key}"' not in page}
    assert unknown == set()
