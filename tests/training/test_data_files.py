"""A file of rows that is not there ends a run before anything starts."""

import pytest
from omegaconf import OmegaConf

from cinema_verl.training.data_files import file_refusals


def refused(train, val=None, *, rl=True):
    config = {"data": {"train_files": train, "val_files": val}}
    return {
        found.key: found
        for found in file_refusals(OmegaConf.create(config | ({"actor_rollout_ref": {}} if rl else {})))
    }


@pytest.fixture
def there(tmp_path):
    path = tmp_path / "there.parquet"
    path.touch()
    return str(path)


@pytest.mark.parametrize("rl", [True, False])
def test_what_is_there_and_what_is_elsewhere_is_not_refused(there, rl):
    assert refused([there, "hdfs://somewhere/x.parquet"], there, rl=rl) == {}
    assert refused(there, None, rl=rl) == {}


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
