"""What a validation asks, through verl's own data set: refused where it cannot be evaluated, else asked again."""

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.dataset.rl_dataset import collate_fn

from cinema_verl.data.check import DataError
from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet
from cinema_verl.evaluate.questions import ask_again, check_files, check_questions, with_failures
from cinema_verl.evaluate.summary import summarise
from cinema_verl.prompts import system_prompt
from cinema_verl.runs.conditions import split_source
from cinema_verl.runs.rollouts import read_strictly

from .conftest import rollout

pytestmark = pytest.mark.usefixtures("private_cache")


def question(folder: Path, number: int, source: str = "digits/same", images: int = 2, side: int = 28) -> dict:
    cells = []
    for i in range(images):
        path = folder / f"{side}-{number}-{i}.png"
        Image.effect_noise((side, side), 10 + number).save(path)
        cells.append(image_cell(path, min_pixels=784, max_pixels=side * side))
    return rl_row(
        uid=f"{source}/{number}", index=number, split="test", data_source=source, ability="sameness", images=cells,
        prompt=[{"role": "user", "content": "<image>" * images + "Same?"}], question="Same?", answer="yes",
        answer_type="yesno", modality="single" if images == 1 else "multi",
    )  # fmt: skip


def in_one(position: int) -> tuple[str, int]:
    return "a.parquet", position


def write(folder: Path, name: str, rows: list[dict]) -> str:
    write_parquet(rows, RL_SCHEMA, folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def data_set(files, processor, **options):
    config = OmegaConf.create(
        {
            "custom_cls": {"path": "pkg://cinema_verl.data.dataset", "name": "CinemaDataset"},
            "max_prompt_length": 100,
            "filter_overlong_prompts": False,
            "cinema_prompt_mode": None,
            **options,
        }
    )
    return create_rl_dataset(files, config, processor.tokenizer, processor)


# --- what is refused -------------------------------------------------------------------------------------------


def test_whole_benchmarks_pass(tmp_path):
    files = [write(tmp_path, "one", [question(tmp_path, 0)]), write(tmp_path, "two", [question(tmp_path, 1)])]
    check_files([*files, "hdfs://elsewhere/x.parquet", "rows.jsonl"])
    rows = [question(tmp_path, 0), question(tmp_path, 1, "own/mine"), question(tmp_path, 2, "muirbench")]
    check_questions(rows, [], in_one)


def test_a_file_that_is_not_there_or_no_parquet_is_named(tmp_path):
    with pytest.raises(DataError, match=r"val_files: .*gone\.parquet cannot be read as parquet"):
        check_files([str(tmp_path / "gone.parquet")])
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"val_files: .*text\.parquet cannot be read as parquet"):
        check_files([str(tmp_path / "text.parquet")])


def test_a_file_without_questions_is_named(tmp_path):
    pq.write_table(RL_SCHEMA.empty_table(), tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"val_files: .*none\.parquet holds no questions"):
        check_files([write(tmp_path, "one", [question(tmp_path, 0)]), str(tmp_path / "none.parquet")])


def test_a_file_of_another_schema_is_named_with_what_it_lacks(tmp_path):
    good = write(tmp_path, "good", [question(tmp_path, 0)])
    pq.write_table(pa.table({"prompt": ["?"], "answer": ["B"], "images": [["x.png"]]}), tmp_path / "raw.parquet")
    with pytest.raises(DataError, match=r"raw\.parquet has no column data_source, reward_model, extra_info \(it has"):
        check_files([good, str(tmp_path / "raw.parquet")])


def test_files_that_verl_could_not_put_together_are_named(tmp_path):
    good = write(tmp_path, "good", [question(tmp_path, 0)])
    table = pq.read_table(good)
    golds = pa.array([{"ground_truth": 7}])
    pq.write_table(
        table.set_column(table.column_names.index("reward_model"), "reward_model", golds), tmp_path / "int.parquet"
    )
    with pytest.raises(
        DataError, match=r"the column reward_model of .*int\.parquet is .*int64.* that of .*good\.parquet"
    ):
        check_files([good, str(tmp_path / "int.parquet")])


def test_an_unknown_source_is_named_and_can_be_allowed(tmp_path):
    rows = [question(tmp_path, 0), *(question(tmp_path, n, "guesswork") for n in range(1, 6))]
    with pytest.raises(
        DataError, match=r"unknown data_source: 5\n.*a.parquet, row 1 .guesswork/1. is from 'guesswork'"
    ) as error:
        check_questions(rows, [], in_one)
    assert "cinema.other_sources" in str(error.value)
    assert str(error.value).count("is from") == 3
    check_questions(rows, ["guesswork"], in_one)
    check_questions(rows, None, in_one)  # in training, any source


def test_a_source_that_would_count_as_a_condition_is_named(tmp_path):
    with pytest.raises(
        DataError, match=r"another condition: 1\n.*a\.parquet, row 0 would count as asked blank: 'digits/x@blank'"
    ):
        check_questions([question(tmp_path, 0) | {"data_source": "digits/x@blank"}], None, in_one)


def test_questions_need_names_of_their_own(tmp_path):
    rows = [question(tmp_path, n) for n in range(3)]
    rows[1]["extra_info"]["uid"] = rows[0]["extra_info"]["uid"]
    rows[2]["extra_info"]["uid"] = None
    with pytest.raises(
        DataError, match=r"the same extra_info\.uid twice: 1\n.*a\.parquet, row 1 is .*/0, as a\.parquet, row 0"
    ) as error:
        check_questions(rows, None, in_one)
    assert "no extra_info.uid: 1\n    a.parquet, row 2 of digits/same" in str(error.value)


# --- what is asked ---------------------------------------------------------------------------------------------


def test_a_sample_of_each_benchmark_is_asked_again(tmp_path, processor):
    rows = [question(tmp_path, n) for n in range(6)] + [question(tmp_path, n, "mirb") for n in range(6, 9)]
    rows += [question(tmp_path, 9, images=1)]
    asked = data_set(write(tmp_path, "test", rows), processor)
    loader = DataLoader(asked, batch_size=len(asked), collate_fn=collate_fn)
    ask_again(asked, ("shuffled", "reordered", "blank"), 4)
    served = [
        (source, info["uid"])
        for batch in loader
        for source, info in zip(batch["data_source"], batch["extra_info"], strict=True)
    ]
    true = [uid for source, uid in served if split_source(source)[1] == "true"]
    again = {
        c: [uid for source, uid in served if split_source(source)[1] == c] for c in ("shuffled", "reordered", "blank")
    }
    assert true == [row["extra_info"]["uid"] for row in rows]
    assert len(again["blank"]) == 4 + 3
    assert set(again["reordered"]) <= set(again["blank"])
    assert "digits/same/9" not in again["reordered"]  # one image has no other order
    first = asked[len(rows)]
    assert [part["type"] for part in first["raw_prompt"][0]["content"]] == ["image", "image", "text"]


def test_a_prompt_that_would_become_too_long_is_not_asked(tmp_path, processor):
    rows = [question(tmp_path, 0, side=28), question(tmp_path, 1, side=112)]  # the second has 16 tokens an image
    rows[0]["prompt"][0]["content"] += " Look closely." * 10
    asked = data_set(write(tmp_path, "test", rows), processor, max_prompt_length=150)
    rows_before = len(asked)
    ask_again(asked, ("shuffled",), None)
    assert [row["extra_info"]["uid"] for row in list(asked.rows())[rows_before:]] == ["digits/same/1"]
    unchecked = data_set(str(tmp_path / "test.parquet"), processor, max_prompt_length=150, cinema_checks="off")
    ask_again(unchecked, ("shuffled",), None)
    assert len(unchecked) == 4


def test_no_condition_asks_nothing_more(tmp_path, processor):
    asked = data_set(write(tmp_path, "test", [question(tmp_path, 0)]), processor)
    ask_again(asked, (), None)
    assert len(asked) == 1


@pytest.mark.parametrize("had", [None, "the one it had"])
def test_a_prompt_mode_takes_the_place_of_the_system_prompt(tmp_path, processor, had):
    row = question(tmp_path, 0)
    if had:
        row["prompt"] = [{"role": "system", "content": had}, *row["prompt"]]
    path = write(tmp_path, "test", [row])
    asked = data_set(path, processor, cinema_prompt_mode="cinema_without_hint", max_prompt_length=4000)
    (served,) = asked.rows()
    assert served["prompt"] == [{"role": "system", "content": system_prompt("cinema_without_hint")}, row["prompt"][-1]]
    assert asked[0]["raw_prompt"][0]["content"] == [{"type": "text", "text": system_prompt("cinema_without_hint")}]
    with pytest.raises(DataError, match="prompt_too_long"):  # checked as it will be asked
        data_set(path, processor, cinema_prompt_mode="cinema")
    with pytest.raises(ValueError, match=r"data\.cinema_prompt_mode='socratic' is unknown"):
        data_set(path, processor, cinema_prompt_mode="socratic")


# --- what became of it -----------------------------------------------------------------------------------------


def as_verl_dumps(records: list[dict]) -> dict:
    columns = {"inputs": "input", "outputs": "output", "gts": "gts", "scores": "score"}
    names = [name for name in (records[0] if records else {"uid": ""}) if name not in columns.values()]
    return {
        **{column: [record[name] for record in records] for column, name in columns.items()},
        "reward_extra_infos_dict": {name: [record[name] for record in records] for name in names},
        "dump_path": "x",
    }


def records_of(dump: dict) -> list[dict]:
    infos = dump["reward_extra_infos_dict"]
    assert {len(column) for column in infos.values()} == {len(dump["inputs"])}
    return [
        {name: column[i] for name, column in infos.items()} | {"output": dump["outputs"][i], "gts": dump["gts"][i]}
        for i in range(len(dump["inputs"]))
    ]


def test_rollouts_that_failed_are_dumped_as_incorrect(tmp_path, dump):
    rows = [question(tmp_path, n) for n in range(3)]
    rows.append({**rows[0], "data_source": "digits/same@blank"})
    got = [rollout("digits/same/0", s, data_source="digits/same") for s in range(2)]
    got += [rollout("digits/same/1", 1, data_source="digits/same")]
    whole = with_failures(as_verl_dumps(got), rows, rollouts=2)
    records = records_of(whole)
    assert len(records) == len(rows) * 2
    failed = records[len(got) :]
    assert [(r["question_uid"], r["data_source"]) for r in failed] == [("digits/same/1", "digits/same")] + [
        ("digits/same/2", "digits/same")] * 2 + [("digits/same/0", "digits/same@blank")] * 2  # fmt: skip
    assert all((r["acc"], r["stop_reason"], r["output"], r["gts"]) == (0.0, "failed", "", "yes") for r in failed)
    read = read_strictly(dump(json.loads(json.dumps(records))))
    found = summarise(read)["benchmarks"]["digits"]
    assert found["questions"] == 3
    assert found["accuracy"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["image_dependence"]["blank"]["accuracy"]["mean"] == 0


def test_nothing_failed_nothing_added(tmp_path):
    got = as_verl_dumps([rollout("digits/same/0", data_source="digits/same")])
    assert with_failures(got, [question(tmp_path, 0)], rollouts=1) == got


def test_when_everything_failed_the_dump_says_so(tmp_path):
    assert len(records_of(with_failures(as_verl_dumps([]), [question(tmp_path, 0)], rollouts=3))) == 3


def test_another_reward_function_is_left_alone(tmp_path):
    got = as_verl_dumps([{"input": "", "output": "", "gts": "", "score": 1.0, "uid": "u_0_0"}])
    assert with_failures(got, [question(tmp_path, 0)], rollouts=1) == got


# --- the trainer -----------------------------------------------------------------------------------------------


def evaluation_of(processor, files, *overrides):
    """The trainer of `+recipe=cinema_evaluate_cpu` up to its data, without Ray; it writes beside the first file."""
    places = [f"data.val_files=[{','.join(files)}]", f"trainer.validation_data_dir={Path(files[0]).parent}/evaluation"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_evaluate_cpu", *places, *overrides])
    made = get_trainer_cls("cinema")(config)
    made.tokenizer, made.processor = processor.tokenizer, processor
    made._init_dataloader()
    return made


def test_the_recipe_asks_every_question_and_a_sample_of_them_again(tmp_path, processor):
    files = [write(tmp_path, s, [question(tmp_path, n, s) for n in range(8)]) for s in ("mirb", "mmiu")]
    made = evaluation_of(processor, files, "cinema.image_sample=4", "data.val_batch_size=6")
    batches = [[split_source(source)[1] for source in batch["data_source"]] for batch in made.val_dataloader]
    assert Counter(c for batch in batches for c in batch) == {"true": 16, "shuffled": 8, "reordered": 8, "blank": 8}
    assert max(map(len, batches)) == 6


def test_what_an_earlier_run_was_told_goes_with_the_question(tmp_path, processor):
    files = [write(tmp_path, "mirb", [question(tmp_path, n, "mirb") for n in range(3)])]
    first = evaluation_of(processor, files, "cinema.image_conditions=[]")
    assert all("answers" not in batch for batch in first.val_dataloader)
    first.validations._unfinished.add([(("mirb/1", "mirb"), 2, (np.array([5, 6]), "answer"))])
    first.validations._unfinished.close()
    [batch] = evaluation_of(processor, files, "cinema.image_conditions=[]").val_dataloader
    told = {
        info["uid"]: answers for info, answers in zip(batch["extra_info"], batch["answers"], strict=True) if answers
    }
    [(response, reason)] = told.pop("mirb/1").values()
    assert (response.tolist(), reason, told) == ([5, 6], "answer", {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda row: row.update(data_source="guesswork"),
            r"unknown data_source: 1\n.*second\.parquet, row 0 .* 'guesswork'",
        ),
        (
            lambda row: row["images"][0].update(image="/gone.png"),
            r"image_missing: 1\n.*second.parquet, row 0 .*/gone\.png",
        ),
        (lambda row: row["extra_info"].update(answer_type="essay"), r"answer_type: 1\n.*second.parquet, row 0 .*essay"),
        (
            lambda row: row["extra_info"].update(uid="digits/same/0"),
            r"same extra_info.uid twice: 1\n.*second\.parquet, row 0 is digits/same/0, as .*first\.parquet",
        ),
    ],
)
def test_a_broken_benchmark_stops_before_anything_is_loaded(tmp_path, processor, change, says):
    row = question(tmp_path, 1)
    change(row)
    files = [write(tmp_path, "first", [question(tmp_path, 0)]), write(tmp_path, "second", [row])]
    with pytest.raises(DataError, match=says):
        evaluation_of(processor, files)


def test_every_broken_row_is_found_where_it_is(tmp_path, processor):
    rows = [question(tmp_path, n) for n in range(4)]
    for row in rows[1:]:
        row["images"][0]["image"] = "/gone.png"
    with pytest.raises(DataError, match=r"3 rows with faults") as caught:
        evaluation_of(processor, [write(tmp_path, "one", rows)])
    assert [(fault.row, fault.uid) for fault in caught.value.faults] == [(n, f"digits/same/{n}") for n in (1, 2, 3)]


def test_an_own_source_can_be_allowed(tmp_path, processor):
    files = [write(tmp_path, "own", [question(tmp_path, 1, "guesswork")])]
    evaluation_of(processor, files, "cinema.other_sources=[guesswork]")


def test_another_data_set_class_is_refused(tmp_path, processor):
    files = [write(tmp_path, "one", [question(tmp_path, 0)])]
    with pytest.raises(ValueError, match=r"need data\.custom_cls to be CinemaDataset or a subclass, got RLHFDataset"):
        evaluation_of(processor, files, "data.custom_cls.path=null")


@pytest.fixture
def trainer():
    """The trainer's own part of a validation, without Ray: what verl would have set before it."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu", "cinema.image_conditions=[blank]"])
    config.trainer.log_val_generations = 5
    config.actor_rollout_ref.rollout.val_kwargs.n = 1
    made = get_trainer_cls("cinema")(config)
    made.global_steps = 7
    made.logged, made.logger = [], SimpleNamespace(logger={"swanlab": None})
    made.validation_generations_logger = type("Log", (), {"log": lambda self, *args: made.logged.append(args[1])})()
    return made


def validate(trainer, records):
    sources = [record["data_source"] for record in records]
    uids = [record["uid"].rsplit("_", 2)[0] for record in records]
    infos = {
        name: [record[name] for record in records]
        for name in ("acc", "format", "pattern", "question_uid", "num_images")
    }
    trainer._maybe_log_val_generations(inputs=sources, outputs=uids, scores=[1.0] * len(records))
    counts = {(source, uid): 1 for source, uid in zip(sources, uids, strict=True)}
    return trainer._val_metrics_update(sources, uids, infos, [2] * len(records), expected_acc_counts=counts)


@pytest.mark.parametrize("val_only", [False, True])
def test_true_questions_and_those_asked_again_are_reported_apart(trainer, val_only):
    trainer.validations.evaluating = val_only
    records = [rollout(f"q{n}", acc=float(n > 0)) for n in range(4)]
    records += [rollout(f"q{n}", acc=0.0, data_source="digits/sum@blank") for n in range(4)]
    metrics = validate(trainer, records)
    assert metrics["val-core/digits/sum/acc/mean@1"] == 0.75
    assert metrics["cinema/image_dependence"] == 0.75
    assert [name for name in metrics if re.match("val-(core|aux)/.*@blank", name)] == (
        ["val-core/digits/sum@blank/acc/mean@1", "val-aux/digits/sum@blank/format/mean@1"] if val_only else []
    )
    assert [source for source, _, _ in trainer.logged[0]] == ["digits/sum"] * 4


def test_a_policy_that_looks_at_nothing_is_warned_of_while_it_trains(trainer, caplog):
    records = [rollout(f"q{n}") for n in range(30)]
    validate(trainer, records + [rollout(f"q{n}", data_source="digits/sum@blank") for n in range(30)])
    assert "step 7: accuracy over blank images is not clearly below that over the true ones" in caplog.text


def test_fewer_questions_than_a_batch_stop_training_and_no_evaluation(tmp_path, processor):
    files = [write(tmp_path, "few", [question(tmp_path, n) for n in range(7)])]
    assert evaluation_of(processor, files).steps_per_epoch == 0
    with pytest.raises(ValueError, match=r"7 training rows, fewer than data\.train_batch_size=8"):
        evaluation_of(processor, files, "trainer.val_only=false")
