"""What a LoRA run saves is a model that any program loads, and that answers as the adapted one did."""

import json

import pytest
import torch

from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.training.lora import ADAPTER, write_merged

from .conftest import assert_same, history, weights
from .test_trainer import interrupt


@pytest.fixture(scope="module")
def prepared():
    import verl  # noqa: F401  its plugin prepares torchvision, which peft and the processors import


def load(directory):
    """A model by plain transformers, and what it could not place."""
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    return model.eval(), {kind: list(keys) for kind, keys in report.items() if keys}


GREEDY = """
import json, sys
import verl  # its plugin prepares torchvision, which peft and the processors import
import pyarrow.parquet as pq
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

base, merged, adapter, rows = sys.argv[1:]
processor = AutoProcessor.from_pretrained(base)

def answers(model):
    for row in pq.read_table(rows).to_pylist()[:3]:
        parts = row["messages"][0]["content"].split("<image>")
        content = [{"type": "text", "text": parts[0]}]
        for part in parts[1:]:
            content += [{"type": "image"}, {"type": "text", "text": part}]
        chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        images = [Image.open(image["image"]) for image in row["images"]]
        inputs = processor(text=[chat], images=images, return_tensors="pt")
        yield model.eval().generate(**inputs, do_sample=False, max_new_tokens=40)[0].tolist()

models = [AutoModelForImageTextToText.from_pretrained(path) for path in (base, merged, base)]
models[2] = PeftModel.from_pretrained(models[2], adapter)
print(json.dumps([list(answers(model)) for model in models]))
"""


@pytest.fixture(scope="module")
def adapted(prepared, tmp_path_factory):
    """A PEFT model with adapters that do something, and its export, which leaves it as it is."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(digits_cold_start(), dtype=torch.float32)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=r"(.*\.)?visual(\..*)?")
    model = get_peft_model(base, adapter)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    checkpoint = tmp_path_factory.mktemp("adapted")
    base.config.save_pretrained(checkpoint / "huggingface")
    write_merged(model.state_dict(), model.peft_config, base.config, checkpoint)
    return model.eval(), checkpoint


def test_the_merged_model_loads_without_a_word(adapted):
    _, checkpoint = adapted
    _, unplaced = load(checkpoint / "huggingface")
    assert unplaced == {}


@pytest.mark.slow
def test_it_answers_as_the_base_model_with_the_adapter_beside_it(adapted, sft_rows, run):
    """By plain transformers, in a process where verl has changed no model."""
    _, checkpoint = adapted
    paths = digits_cold_start(), checkpoint / "huggingface", checkpoint / ADAPTER, sft_rows / "train.parquet"
    done = run("-c", GREEDY, *map(str, paths))
    assert done.returncode == 0, done.stderr
    base, merged, with_adapter = json.loads(done.stdout.splitlines()[-1])
    assert merged == with_adapter
    assert merged != base, "the adapter does nothing"


def test_the_export_leaves_the_trained_weights_as_they_are(adapted):
    model, _ = adapted
    before = load(digits_cold_start())[0].state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj"
    assert torch.equal(model.state_dict()[f"base_model.model.{name}.base_layer.weight"], before[f"{name}.weight"])


def test_the_merging_is_w_plus_alpha_over_r_b_a(adapted):
    model, checkpoint = adapted
    merged, _ = load(checkpoint / "huggingface")
    state = model.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj"
    base, a, b = (
        state[f"base_model.model.{name}.{part}.weight"] for part in ("base_layer", "lora_A.default", "lora_B.default")
    )
    torch.testing.assert_close(merged.state_dict()[f"{name}.weight"], base + 8 / 4 * b @ a)


def test_the_export_says_what_its_files_hold(adapted):
    _, checkpoint = adapted
    assert json.loads((checkpoint / "huggingface" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.slow
def test_a_run_with_adapters_trains_saves_resumes_and_is_a_start_for_another(tmp_path, trainer_of):
    """Through verl's engine, which is the one that the actor of reinforcement learning has."""
    settings = ("model.lora_rank=8", "trainer.test_freq=after_each_epoch", "trainer.save_freq=3", "optim.lr=1e-2")
    trainer_of(tmp_path / "whole", *settings).fit()
    trainer = trainer_of(tmp_path / "parts", *settings)
    adapters = {name for name, _ in trainer.engine.module.named_parameters() if "lora_" in name}
    assert adapters
    assert not [name for name in adapters if "visual" in name]
    interrupt(trainer, 5, "kill")
    again = trainer_of(tmp_path / "parts", *settings)
    assert again.resume_global_step == 3
    again.fit()
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))

    directory = tmp_path / "whole" / "global_step_10" / "huggingface"
    model, unplaced = load(directory)
    assert unplaced == {}
    before = load(digits_cold_start())[0].state_dict()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not [name for name in moved if "visual" in name]

    trained_loss = history(tmp_path / "whole")[-1][1]["val/loss"]
    start = trainer_of(tmp_path / "next", f"model.path={directory}", "optim.lr=0", "trainer.test_freq=1")
    start.fit()
    assert history(tmp_path / "next")[1][1]["val/loss"] == pytest.approx(trained_loss, abs=1e-5)
    assert not (tmp_path / "next" / "global_step_10" / ADAPTER).exists()


def test_the_vision_tower_is_adapted_where_that_is_asked_for(tmp_path, trainer_of):
    trainer = trainer_of(tmp_path, "model.lora_rank=8", "model.exclude_modules=null")
    assert [name for name, _ in trainer.engine.module.named_parameters() if "lora_" in name and "visual" in name]
