"""The repair of multimodal position ids, beside what verl does to them without it."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.utils import tensordict_utils as tu
from verl.utils.tensordict_utils import (
    chunk_tensordict,
    index_select_tensor_dict,
    maybe_fix_3d_position_ids,
)
from verl.workers.config import FSDPActorConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from cinema_verl.training.worker import (
    CinemaActorRolloutRefWorker,
    CinemaDetachActorWorker,
    CinemaTrainingWorker,
    for_the_engine,
    repair_position_ids,
)

ROWS = 4  # text, time, height, width


def samples(*lengths):
    """Position ids of each sample, (4, L), all numbers different."""
    start, result = 0, []
    for length in lengths:
        result.append(torch.arange(start, start + ROWS * length).view(ROWS, length))
        start += ROWS * length
    return result


def batch_of(position_ids):
    """As a batch comes out of the transfer queue: torch guesses which dimension is ragged."""
    nested = torch.nested.as_nested_tensor(position_ids, layout=torch.jagged)
    return TensorDict({"position_ids": nested}, batch_size=len(position_ids))


def seen_by_the_model(batch, expected):
    """The samples as verl's engine pads them for the model (`FSDPEngineWithLMHead.prepare_model_inputs`)."""
    maybe_fix_3d_position_ids(batch)
    longest = max(sample.shape[1] for sample in expected)
    size = (len(expected), ROWS, longest)
    padded = torch.nested.to_padded_tensor(batch["position_ids"], padding=-1, output_size=size)
    for sample, row in zip(expected, padded, strict=True):
        assert (row[:, sample.shape[1] :] == -1).all(), "padded on the right"
    return [row[:, : sample.shape[1]] for sample, row in zip(expected, padded, strict=True)]


def assert_seen(batch, expected):
    for got, wanted in zip(seen_by_the_model(batch, expected), expected, strict=True):
        assert torch.equal(got, wanted)


# When one of these two fails, verl (or torch) has mended it: see whether `repair_position_ids` is still needed.
def test_verl_alone_cannot_cut_a_batch_of_equal_lengths_into_mini_batches():
    batch = batch_of(samples(5, 5, 5))
    maybe_fix_3d_position_ids(batch)
    with pytest.raises(RuntimeError):
        index_select_tensor_dict(batch, [0, 1])


def test_verl_alone_gives_samples_scrambled_positions_where_the_numbers_happen_to_fit():
    """Three samples of 4 rows and 12 positions: 12 rows are cut where 12 positions should be."""
    expected = samples(12, 12, 12)
    batch = batch_of(expected)
    maybe_fix_3d_position_ids(batch)
    for got, wanted in zip(batch["position_ids"].unbind(), expected, strict=True):
        assert not torch.equal(got, wanted)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 7, 3), (7,), (1, 1), (64,) * 8], ids=str)
def test_after_the_repair_every_sample_has_its_own_positions(lengths):
    expected = samples(*lengths)
    assert_seen(repair_position_ids(batch_of(expected)), expected)


def test_it_is_repaired_once():
    once = repair_position_ids(batch_of(samples(5, 5)))["position_ids"]
    twice = repair_position_ids(TensorDict({"position_ids": once}, batch_size=2))["position_ids"]
    assert twice is once


@pytest.mark.parametrize("lengths", [(5, 5, 5, 5), (5, 7, 3, 6), (5, 5, 7, 7)], ids=str)
def test_mini_batches_and_micro_batches_of_a_repaired_batch_are_right(lengths):
    expected = samples(*lengths)

    def repaired():
        batch = repair_position_ids(batch_of(expected))
        maybe_fix_3d_position_ids(batch)
        return batch

    assert_seen(index_select_tensor_dict(repaired(), [3, 0]), [expected[3], expected[0]])
    assert_seen(index_select_tensor_dict(repaired(), [1]), [expected[1]])
    for i, chunk in enumerate(chunk_tensordict(repaired(), 2)):
        assert_seen(chunk, expected[2 * i : 2 * i + 2])


@pytest.mark.parametrize(
    "data",
    [
        TensorDict({"input_ids": torch.zeros(2, 3)}, batch_size=2),
        TensorDict({"position_ids": torch.arange(6).view(2, 3)}, batch_size=2),
        TensorDict({"position_ids": torch.arange(24).view(2, 4, 3)}, batch_size=2),
    ],
    ids=["none", "text only, padded", "multimodal, padded"],
)
def test_other_batches_are_left_alone(data):
    before = data.clone()
    after = repair_position_ids(data)
    assert after is data
    assert all(torch.equal(after[key], before[key]) for key in before.keys())  # noqa: SIM118


def test_text_only_jagged_position_ids_are_left_alone():
    nested = torch.nested.as_nested_tensor([torch.arange(3), torch.arange(3)], layout=torch.jagged)
    batch = TensorDict({"position_ids": nested}, batch_size=2)
    assert repair_position_ids(batch)["position_ids"] is nested


def test_the_engine_gets_tensors_settings_and_the_models_inputs():
    data = tu.get_tensordict(
        {
            "advantages": torch.ones(2, 3),
            "uid": ["a", "b"],
            "multi_modal_inputs": [{"pixel_values": torch.ones(1)}, {"pixel_values": torch.zeros(1)}],
        },
        non_tensor_dict={"temperature": 1.0},
    )
    before = set(data.keys())
    kept = for_the_engine(data)
    assert set(kept.keys()) == {"advantages", "multi_modal_inputs", "temperature"}
    assert set(data.keys()) == before
    assert tu.get(kept, "temperature") == 1.0
    assert [row["pixel_values"].item() for row in tu.get(kept, "multi_modal_inputs")] == [1.0, 0.0]


def test_verls_worker_builds_the_repairing_ones():
    assert issubclass(CinemaActorRolloutRefWorker, ActorRolloutRefWorker)
    assert CinemaActorRolloutRefWorker.actor_worker_cls is CinemaTrainingWorker
    assert CinemaActorRolloutRefWorker.ref_worker_cls is CinemaTrainingWorker


@pytest.mark.parametrize("method", ["train_mini_batch", "infer_batch"])
def test_the_worker_repairs_before_verl_looks(monkeypatch, method):
    arrived = []
    monkeypatch.setattr(TrainingWorker, method, lambda self, data: arrived.append(data))
    expected = samples(5, 5)
    getattr(CinemaTrainingWorker, method)(object.__new__(CinemaTrainingWorker), batch_of(expected))
    assert_seen(arrived[0], expected)


# ---- the values of a stage ---------------------------------------------------------------------------------------


class Trained(CinemaTrainingWorker):
    """A worker without a model: what its mini-batches would be trained with."""

    def __init__(self):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        self.engine = SimpleNamespace(optimizer=optimizer)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
        config = FSDPActorConfig(strategy="fsdp2", rollout_n=2, ppo_micro_batch_size_per_gpu=1, clip_ratio_high=0.28)
        self.loss_fn = partial(lambda config: config.clip_ratio_high, config=config)

    def seen(self, **stage):
        with self._in_stage(stage.get("clip_ratio_high"), stage.get("lr_factor", 1.0)):
            found = self.loss_fn(), self.engine.optimizer.param_groups[0]["lr"]
            self.engine.optimizer.step()
            self.scheduler.step()
        return found


def test_a_stages_clip_and_learning_rate_hold_for_its_steps_only():
    worker = Trained()
    assert worker.seen() == (0.28, 0.1)
    assert worker.seen(clip_ratio_high=0.4, lr_factor=0.5) == (0.4, pytest.approx(0.1 / 2 * 0.5))
    assert worker.seen() == (0.28, pytest.approx(0.1 / 3)), "as if the stage had never been"


def test_a_step_that_fails_leaves_no_trace():
    worker = Trained()
    with pytest.raises(RuntimeError, match="out of memory"), worker._in_stage(0.4, 0.5):
        raise RuntimeError("out of memory")
    assert worker.seen() == (0.28, 0.1)


# ---- the weights that a step began with -------------------------------------------------------------------------


def kept_by(worker_class):
    """What a worker has kept of a weight of 1 after the weight has become 2, in the form in which verl keeps it."""
    worker, model = object.__new__(worker_class), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)

    def save(model):
        return {name: (tensor.detach().cpu(), None) for name, tensor in model.named_parameters()}, None

    worker._strategy_handlers = (save, None)
    kept, _ = worker.copy_handler(model)
    torch.nn.init.constant_(model.weight, 2.0)
    return kept["weight"][0].item()


def test_verl_alone_keeps_nothing_where_the_weights_are_on_the_cpu():
    assert kept_by(DetachActorWorker) == 2.0


def test_the_weights_that_a_step_began_with_are_kept():
    assert kept_by(CinemaDetachActorWorker) == 1.0


def test_a_separate_trainers_worker_has_both():
    assert issubclass(CinemaDetachActorWorker, DetachActorWorker)
    assert CinemaDetachActorWorker.actor_worker_cls is CinemaTrainingWorker
