"""A file of rows that is not there, or not of the program's kind, ends a run before anything starts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from cinema_verl.training.data_files import file_refusals


def refused(train, val=None, *, rl=True, **data):
    config = {"data": {"train_files": train, "val_files": val, **data}}
    section = {"actor_rollout_ref": {"rollout": {"name": "vllm"}}} if rl else {}
    return {found.key: found for found in file_refusals(OmegaConf.create(config | section))}


@pytest.fixture
def there(tmp_path):
    path = tmp_path / "there.parquet"
    pq.write_table(pa.table({"prompt": ["x"], "messages": ["x"]}), path)
    return str(path)


@pytest.mark.parametrize("rl", [True, False])
def test_what_is_there_and_what_is_elsewhere_is_not_refused(there, rl):
    assert refused([there, "hdfs://somewhere/x.parquet"], there, rl=rl) == {}
    assert set(refused(there, None, rl=rl)) == ({"data.val_files"} if rl else set())
    assert set(refused([], there, rl=rl)) == set(refused(None, there, rl=rl)) == {"data.train_files"}


@pytest.mark.parametrize("rl", [True, False])
def test_each_file_is_looked_at(there, tmp_path, rl):
    gone = str(tmp_path / "gone.parquet")
    assert f"{gone} does not exist" in refused([there, gone], there, rl=rl)["data.train_files"].what
    assert set(refused(there, gone, rl=rl)) == {"data.val_files"}
    assert "is a folder" in refused(str(tmp_path), there, rl=rl)["data.train_files"].what


def test_patterns_and_the_home_folder_are_explained(there, tmp_path, monkeypatch):
    assert "[a,b]" in refused(f"{tmp_path}/*.parquet", there)["data.train_files"].advice
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no ~" in refused("~/there.parquet", there)["data.train_files"].advice
    assert refused("~/there.parquet", there, rl=False) == {}, "pandas, which reads it for fine-tuning, knows ~"


def written(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_file_of_the_other_program_is_refused(there, tmp_path):
    taught, asked = written(tmp_path / "sft.parquet", messages=["x"]), written(tmp_path / "rl.parquet", prompt=["x"])
    assert "for supervised fine-tuning" in refused(taught, there)["data.train_files"].what
    assert "for reinforcement learning" in refused(there, asked, rl=False)["data.val_files"].what
    assert refused(there, taught, prompt_key="messages") == {}
    assert refused(taught, there, custom_cls={"path": "mine.py", "name": "Mine"}) == {}


@pytest.mark.parametrize("damage", [b"", b"PAR1", "half", "text"])
def test_a_file_that_is_cut_short_or_no_parquet_is_refused(there, tmp_path, damage):
    whole = (tmp_path / "there.parquet").read_bytes()
    broken = tmp_path / "broken.parquet"
    broken.write_bytes({"half": whole[: len(whole) // 2], "text": b"a,b\n1,2\n" * 9}.get(damage, damage))
    assert "cannot be read" in refused(there, str(broken))["data.val_files"].what
