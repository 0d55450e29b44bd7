"""Shards of any number of ranks are the tensors that were split, or a refusal that names what is wrong."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from made_up_shards import write_shards

from cinema_verl.export import lora
from cinema_verl.export.shards import ExportError, Weight, read_shards

STATE = {
    "a.weight": torch.arange(9 * 4, dtype=torch.float32).reshape(9, 4),
    "a.bias": torch.arange(3, dtype=torch.float32),
    "b.weight": torch.randn(17, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "steps": torch.tensor(7),
}


def plain(name):
    return name == "steps"


@pytest.mark.parametrize(("ranks", "replicas"), [(1, 1), (2, 1), (3, 1), (8, 1), (2, 3)])
def test_the_tensors_come_back(tmp_path, ranks, replicas):
    """Eight ranks of three rows: five of them have nothing."""
    write_shards(tmp_path, STATE, ranks, replicas=replicas, plain=plain)
    weights = read_shards(tmp_path)
    assert list(weights) == list(STATE)
    for name, weight in weights.items():
        assert (weight.shape, weight.dtype) == (tuple(STATE[name].shape), STATE[name].dtype)
        assert torch.equal(weight.whole(), STATE[name])


def test_tensors_that_are_split_along_another_dimension_come_back(tmp_path):
    write_shards(tmp_path, STATE, 3, plain=plain, dim_of=lambda name: int(name == "b.weight"))
    assert torch.equal(read_shards(tmp_path)["b.weight"].whole(), STATE["b.weight"])


def test_pieces_are_no_larger_than_a_rank_s_part(tmp_path):
    write_shards(tmp_path, STATE, 4, plain=plain)
    sizes = [piece.numel() for piece in read_shards(tmp_path)["b.weight"].pieces()]
    assert sizes == [5 * 8, 5 * 8, 5 * 8, 2 * 8]


def bytes_from_disk():
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def test_nothing_is_read_twice_from_the_disk(tmp_path):
    """In the order of the files. A kernel that is left to its faults reads around them what has left memory again."""
    state = {str(i): torch.full((2048, 2048), float(i)) for i in range(8)}  # 16 MiB each
    write_shards(tmp_path, state, 2)
    shards = [*tmp_path.glob("*.pt")]
    for path in shards:  # out of the page cache
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = bytes_from_disk()
    for name, weight in read_shards(tmp_path).items():
        assert all(bool((piece == float(name)).all()) for piece in weight.pieces())
    assert bytes_from_disk() - before < 1.03 * sum(path.stat().st_size for path in shards)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel does not say what it has mapped")
def test_a_file_that_becomes_shorter_meanwhile_is_an_error(tmp_path):
    write_shards(tmp_path, {"a": torch.zeros(1 << 20)}, 1)
    weight = read_shards(tmp_path)["a"]
    (shard,) = tmp_path.glob("*.pt")
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(ExportError, match="became shorter"):
        weight.whole()


def test_a_mapping_whose_place_is_not_known_is_read_all_the_same(tmp_path, monkeypatch):
    write_shards(tmp_path, STATE, 3, plain=plain)
    monkeypatch.setattr(Path, "exists", lambda self: "proc" not in self.parts and os.path.exists(self))
    assert torch.equal(read_shards(tmp_path)["b.weight"].whole(), STATE["b.weight"])


@pytest.mark.parametrize("name", ["a name", "a\u2028name", "a\x0cname", "a\nname", "name (deleted)", "n\u00e4me"])
def test_any_folder_s_name_will_do(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    write_shards(folder, STATE, 3, plain=plain)
    assert torch.equal(read_shards(folder)["b.weight"].whole(), STATE["b.weight"])


def test_values_that_are_not_the_file_s_bytes_come_back(tmp_path):
    torch.save(
        {"a": torch._neg_view(torch.ones(4)), "b": torch.ones(2, 3).T}, tmp_path / "model_world_size_1_rank_0.pt"
    )
    weights = read_shards(tmp_path)
    assert torch.equal(weights["a"].whole(), -torch.ones(4))
    assert torch.equal(weights["b"].whole(), torch.ones(3, 2))


def test_bytes_of_another_order_come_back(tmp_path, monkeypatch):
    """Files say in which order their bytes are; torch turns them around in memory."""
    stored = torch.tensor([1, 256, -2], dtype=torch.int32)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("sys.byteorder", "big" if sys.byteorder == "little" else "little")
        torch.save({"a": stored}, tmp_path / "model_world_size_1_rank_0.pt")
    expected = torch.load(tmp_path / "model_world_size_1_rank_0.pt", weights_only=True)["a"]
    assert not torch.equal(expected, stored)
    assert torch.equal(read_shards(tmp_path)["a"].whole(), expected)


@pytest.mark.parametrize("sizes", [[2], [4, 1], [3, 3], []])
def test_pieces_that_are_not_the_tensor_are_an_error(sizes):
    with pytest.raises(ExportError, match="not of one step"):
        Weight((4,), torch.float32, lambda: (torch.ones(size) for size in sizes)).whole()


def test_more_ranks_than_files_that_are_kept_open(tmp_path):
    state = {"a": torch.arange(150.0), "b": torch.arange(300.0).reshape(150, 2)}
    write_shards(tmp_path, state, 75)
    weights = read_shards(tmp_path)
    for name, values in state.items():
        assert torch.equal(weights[name].whole(), values)


def test_pieces_are_good_until_the_next(tmp_path):
    state = {"a": torch.arange(3 << 22)}  # 96 MiB, six blocks
    write_shards(tmp_path, state, 2)
    weight = read_shards(tmp_path)["a"]
    assert torch.equal(torch.cat([piece.clone() for piece in weight.pieces()]), state["a"])
    assert torch.equal(weight.whole(), state["a"])


def test_fsdp_config_says_which_of_two_sets_counts(tmp_path):
    write_shards(tmp_path, {"a": torch.zeros(6)}, 3)
    write_shards(tmp_path, {"a": torch.ones(6)}, 2)
    assert torch.equal(read_shards(tmp_path)["a"].whole(), torch.ones(6))
    (tmp_path / "fsdp_config.json").unlink()
    with pytest.raises(ExportError, match="2, 3 processes"):
        read_shards(tmp_path)


class Anything:
    """A class that a pickle must not bring to life."""


def damage(folder, how):
    name = folder / "model_world_size_3_rank_1.pt"
    if how == "missing":
        name.unlink()
    elif how == "cut short":
        name.write_bytes(name.read_bytes()[:-100])
    elif how == "rank 0":
        state = torch.load(name, weights_only=False)
        del state["a.bias"]
        torch.save(state, name)
    elif how == "other values":
        state = torch.load(name, weights_only=False)
        state["steps"] = torch.tensor(8)
        torch.save(state, name)
    elif how == "cannot be read as weights":
        torch.save({"a": Anything()}, name)
    elif how == "world_size":
        (folder / "fsdp_config.json").write_text(json.dumps({}))
    elif how == "ranks 0, 1, 2, 3":
        (folder / "fsdp_config.json").write_text(json.dumps({"world_size": 4}))


@pytest.mark.parametrize(
    "how",
    ["missing", "cut short", "rank 0", "other values", "cannot be read as weights", "world_size", "ranks 0, 1, 2, 3"],
)
def test_what_is_not_whole_is_refused(tmp_path, how):
    write_shards(tmp_path, STATE, 3, plain=plain)
    damage(tmp_path, how)
    with pytest.raises(ExportError, match=how):
        _ = [weight.whole() for weight in read_shards(tmp_path).values()]


def test_ranks_of_two_steps_are_refused(tmp_path):
    write_shards(tmp_path, {"a": torch.zeros(6, 2)}, 3)
    part = (tmp_path / "model_world_size_3_rank_2.pt").read_bytes()
    write_shards(tmp_path, {"a": torch.zeros(9, 2)}, 3)
    (tmp_path / "model_world_size_3_rank_2.pt").write_bytes(part)
    with pytest.raises(ExportError, match="another shape"):
        read_shards(tmp_path)


# --- LoRA -----------------------------------------------------------------------------------------------------


def adapted(tmp_path, alpha=6):
    """W (2, 3) of ones, A (1, 3), B (2, 1): by hand, W + 6/2 · B A."""
    layer = "base_model.model.model.q_proj"
    state = {
        f"{layer}.base_layer.weight": torch.ones(2, 3),
        f"{layer}.base_layer.bias": torch.tensor([5.0, 6.0]),
        f"{layer}.lora_A.default.weight": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]),
        f"{layer}.lora_B.default.weight": torch.tensor([[1.0, 0.0], [10.0, 0.0]]),
        "base_model.model.lm_head.weight": torch.zeros(4, 3),
    }
    write_shards(tmp_path, state, 2)
    (tmp_path / "lora_train_meta.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha}))
    return read_shards(tmp_path)


def test_adapters_are_merged(tmp_path):
    weights = lora.merged(adapted(tmp_path), tmp_path)
    assert list(weights) == ["model.q_proj.weight", "model.q_proj.bias", "lm_head.weight"]
    assert weights["model.q_proj.weight"].whole().tolist() == [[4, 7, 10], [31, 61, 91]]
    assert weights["model.q_proj.bias"].whole().tolist() == [5, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("base_model.model.model.q_proj.base_layer.weight"), "without its base weight"),
        (lambda weights: weights.pop("base_model.model.model.q_proj.lora_A.default.weight"), "does not fit"),
        (lambda weights: weights.update({"base_model.model.e.lora_embedding_A.default": None}), "cannot be merged"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_merged_are_refused(tmp_path, change, message):
    weights = adapted(tmp_path)
    change(weights)
    with pytest.raises(ExportError, match=message):
        lora.merged(weights, tmp_path)


@pytest.mark.parametrize("alpha", [0, None])
def test_a_scale_that_is_not_known_is_refused(tmp_path, alpha):
    with pytest.raises(ExportError, match="alpha"):
        lora.merged(adapted(tmp_path, alpha), tmp_path)
