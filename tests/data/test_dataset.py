"""The data set through verl's own doors: chosen by config, checked at construction, then exactly verl's."""

import pickle
from functools import partial
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn, get_dataset_class

from cinema_verl.data.check import DataError
from cinema_verl.data.dataset import CinemaDataset
from cinema_verl.data.schema import RL_SCHEMA, image_cell, rl_row, write_parquet

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def write(tmp_path):
    """write(name, count, at, **changes) -> a parquet of `count` rows over one image, those `at` changed."""
    Image.effect_noise((56, 56), 50).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-600])

    def write(name, count, at=(), **changes):
        rows = []
        for index in range(count):
            image = changes.get("image", "a.png") if index in at else "a.png"
            row = rl_row(
                uid=f"{name}/{index}",
                index=index,
                split="train",
                data_source="digits/read",
                ability="reading",
                prompt=[{"role": "user", "content": "Image A: <image>\nWhich digit is shown?"}],
                images=[image_cell(tmp_path / image, min_pixels=784, max_pixels=784)],
                modality="single",
                question="Which digit is shown?",
                answer="7",
                answer_type="number",
            )
            if index in at:
                row["extra_info"].update(changes.get("extra_info", {}))
            rows.append(row)
        path = tmp_path / f"{name}.parquet"
        write_parquet(rows, RL_SCHEMA, path)
        return str(path)

    return write


def _config(**options):
    config = OmegaConf.create(
        {
            "custom_cls": {"path": "pkg://cinema_verl.data.dataset", "name": "CinemaDataset"},
            "max_prompt_length": 100,
            "filter_overlong_prompts": False,
            "shuffle": True,
            "seed": 3,
            **options,
        }
    )
    OmegaConf.set_struct(config, True)  # as Hydra does
    return config


def _create(files, processor, max_samples=-1, **options):
    return create_rl_dataset(files, _config(**options), processor.tokenizer, processor, max_samples=max_samples)


def test_verl_finds_it_and_serves_the_same_rows(write, processor):
    files = [write("one", 3), write("two", 2)]
    data_set = _create(files, processor)
    assert type(data_set) is get_dataset_class(_config()) is CinemaDataset
    plain = RLHFDataset(files, processor.tokenizer, _config(), processor)
    assert [data_set[i] for i in range(5)] == [plain[i] for i in range(5)]


def test_the_row_is_found_in_its_file(write, processor):
    files = [write("one", 3), write("two", 4, at=(2,), extra_info={"num_images": 5})]
    with pytest.raises(DataError, match=r"num_images: 1\n.*two\.parquet, row 2 \(two/2\): .* Write 1") as caught:
        _create(files, processor)
    assert [(p.file, p.row, p.code) for p in caught.value.faults] == [(files[1], 2, "num_images")]


@pytest.mark.parametrize("shuffle", [True, False])
def test_only_rows_that_are_used_are_checked(write, processor, shuffle):
    files = [write(name, 4, at=range(4), extra_info={"num_images": 5}) for name in ("one", "two")]
    plain = RLHFDataset(files, processor.tokenizer, _config(shuffle=shuffle), processor, max_samples=3)
    with pytest.raises(DataError) as caught:
        _create(files, processor, max_samples=3, shuffle=shuffle)
    faults = caught.value.faults
    assert [fault.uid for fault in faults] == [row["extra_info"]["uid"] for row in plain]
    assert [f"{Path(fault.file).stem}/{fault.row}" for fault in faults] == [fault.uid for fault in faults]


def test_rows_of_json_files_are_found_too(write, processor, tmp_path):
    import pandas

    frame = pandas.read_parquet(write("one", 3, at=(1,), extra_info={"answer_type": "essay"}))
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    for file in files:
        frame.to_json(file, orient="records", lines=True)
    with pytest.raises(DataError) as caught:
        _create(files, processor)
    assert [(p.file, p.row) for p in caught.value.faults] == [(files[0], 1), (files[1], 1)]


def test_depth_of_the_checks(write, processor):
    files = [write("cut", 2, at=(1,), image="cut.png")]
    for checks in ("header", "off", False):
        assert len(_create(files, processor, cinema_checks=checks)) == 2
    with pytest.raises(DataError, match=r"image_corrupt: 1\n.*cut\.parquet, row 1"):
        _create(files, processor, cinema_checks="full")


def test_off_looks_at_nothing(write, processor):
    files = [write("gone", 2, at=(1,), image="gone.png")]
    assert len(_create(files, processor, cinema_checks="off")) == 2


def test_prompts_over_the_limit_are_reported(write, processor):
    with pytest.raises(DataError, match=r"prompt_too_long: 2\n.* limit of 9\. Raise data\.max_prompt_length"):
        _create([write("long", 2)], processor, max_prompt_length=9)


def test_images_outside_the_root_are_reported(write, processor, tmp_path):
    with pytest.raises(DataError, match="image_outside_root: 1"):
        _create([write("root", 1)], processor, cinema_image_root=str(tmp_path / "cache"))


@pytest.mark.parametrize("options", [{"filter_overlong_prompts": True}, {"cinema_checks": "fast"}])
def test_options_that_would_mislead_are_refused(write, processor, options):
    says = "drop broken rows" if "filter_overlong_prompts" in options else "full, header, off"
    with pytest.raises(ValueError, match=says):
        _create([write("one", 1)], processor, **options)


@pytest.mark.parametrize("checks", ["header", "off"])
def test_a_model_without_processor_is_refused(write, processor, checks):
    config = _config(cinema_checks=checks)
    with pytest.raises(DataError, match=r"no processor that verl 0\.9\.1 knows.*Qwen2\.5-VL"):
        create_rl_dataset([write("one", 1)], config, processor.tokenizer, None)


def test_pickle_leaves_the_rows_behind_and_resume_reads_them_again(write, processor):
    data_set = _create([write("one", 3)], processor)
    state = pickle.dumps(data_set)
    resumed = pickle.loads(state)
    assert not hasattr(resumed, "dataframe")
    resumed.resume_dataset_state()
    assert [resumed[i] for i in range(3)] == [data_set[i] for i in range(3)]


def test_workers_of_the_loader_serve_rows(write, processor):
    data_set = _create([write("one", 4)], processor)
    loader = DataLoader(data_set, batch_size=2, num_workers=2, collate_fn=collate_fn)
    uids = [info["uid"] for batch in loader for info in batch["extra_info"]]
    assert uids == [f"one/{i}" for i in range(4)]


@pytest.mark.parametrize(("engine", "limit", "refused"), [("vllm", 0, True), ("vllm", 1, False), ("hf", 0, False)])
def test_rows_have_no_more_images_than_the_run_s_engine_takes(write, processor, engine, limit, refused):
    """As a part of a run's configuration, the data set knows the limit that preflight knows."""
    rollout = {"name": engine, "limit_images": limit}
    run = OmegaConf.create({"data": _config(), "actor_rollout_ref": {"rollout": rollout}})
    create = partial(create_rl_dataset, [write("one", 2)], run.data, processor.tokenizer, processor)
    if refused:
        with pytest.raises(DataError, match="too_many_images: 2"):
            create()
    else:
        assert len(create()) == 2
