"""Whatever loads a model here loads all of it: `from_pretrained` alone would start what is missing at random."""

import shutil

import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file, save_file
from verl.utils.config import omega_conf_to_dataclass

from cinema_verl.demo.measure import PlainPolicy
from cinema_verl.demo.train_policy import export
from cinema_verl.rollout.engine import TransformersServer
from cinema_verl.rollout.openai_server import Model


def rollout_engine(folder):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+recipe=cinema_cpu", f"actor_rollout_ref.model.path={folder}"])
    actor = config.actor_rollout_ref
    TransformersServer(omega_conf_to_dataclass(actor.rollout), actor.model)


def demo_export(folder):
    export(folder, folder / "out")


LOADERS = [rollout_engine, Model, PlainPolicy, demo_export]
SPOILT = {
    "missing": lambda weights: {name: w for name, w in weights.items() if "layers.1.mlp" not in name},
    "foreign": lambda weights: weights | {"somebody.else": torch.zeros(1)},
    "lora": lambda weights: {f"base_model.model.{name}": w for name, w in weights.items()},
}
SAYS = {
    "missing": "3 weights of the model are missing and would be random",
    "foreign": r"1 weights are not the model's \(somebody\.else",
    "lora": "merge the adapters into their base model",
}


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
@pytest.mark.parametrize("fault", SPOILT)
def test_a_folder_with_missing_or_foreign_weights_is_refused(tiny_model, tmp_path, load, fault):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "model.safetensors"
    save_file(SPOILT[fault](load_file(path)), path)
    with pytest.raises(ValueError, match=SAYS[fault]):
        load(folder)
