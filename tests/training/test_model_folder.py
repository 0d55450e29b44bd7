"""A model's folder that a run could not train from is known by what is in it, before anything is loaded."""

import json
import shutil

import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors.torch import load_file, save_file

from cinema_verl.data.families import names
from cinema_verl.training.model_folder import folder_of, folder_refusals, model_refusals, read_headers
from cinema_verl.utils import native_reasoning

KEY = "actor_rollout_ref.model.path"


@pytest.fixture
def folder(tmp_path, tiny_model):
    """A copy of the tiny Qwen2.5-VL's folder, to be spoilt."""
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def said(folder, kwargs=None, **options):
    return [f"{refusal.what} {refusal.advice}" for refusal in model_refusals(folder, KEY, kwargs, **options)]


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(change(weights), path)


def change_json(folder, name, change):
    path = folder / name
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_a_sound_folder(folder):
    assert said(folder) == said(folder, rl=False) == []


def test_headers_are_read_without_the_weights(folder):
    headers, weights = read_headers(folder), load_file(folder / "model.safetensors")
    assert {name: header.shape for name, header in headers.items()} == {n: tuple(w.shape) for n, w in weights.items()}
    assert {header.dtype for header in headers.values()} == {"F32"}


# --- Weights --------------------------------------------------------------------------------------------------


def test_lora_weights_that_are_not_merged(folder):
    """As verl's fine-tuning with ``lora_rank`` saves them: the base layer under peft's names, adapters beside it."""

    def as_peft(weights):
        renamed = {f"base_model.model.{name}": value for name, value in weights.items()}
        return renamed | {"base_model.model.lm_head.lora_A.default.weight": torch.zeros(2, 2)}

    change_weights(folder, as_peft)
    (text,) = said(folder)
    assert "are missing and would be random" in text
    assert "are not the model's (base_model.model." in text
    assert "merge them into their base model" in text


def test_a_weight_that_is_missing_one_that_is_foreign_and_one_of_another_shape(folder):
    def spoil(weights):
        names = sorted(name for name in weights if "down_proj" in name)
        gone, odd = names[0], names[1]
        del weights[gone]
        return weights | {odd: torch.zeros(3, 3), "somebody.else": torch.zeros(1)}

    change_weights(folder, spoil)
    (text,) = said(folder)
    assert "1 weights are missing" in text
    assert "1 are not the model's (somebody.else" in text
    assert "1 have another shape" in text
    assert "(3, 3)" in text


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "holds no weights"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "model.safetensors is cut short"),
        (lambda path: path.write_bytes(b"no"), "no safetensors file, or cut short"),
    ],
)
def test_files_that_hold_no_weights(folder, spoil, says):
    spoil(folder / "model.safetensors")
    assert says in said(folder)[0]


def test_weights_that_cannot_be_trained(folder):
    change_weights(folder, lambda weights: {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()})
    assert "weights of F8_E4M3, which cannot be trained" in said(folder)[0]


# --- Tokenizer and processor ----------------------------------------------------------------------------------


def test_a_tokenizer_with_more_ids_than_the_model_embeds(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    highest = max(token["id"] for token in tokenizer["added_tokens"])
    new = {**tokenizer["added_tokens"][0], "id": highest + 1, "content": "<new>"}
    tokenizer["added_tokens"].append(new)
    tokenizer["model"]["vocab"] = dict(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert any(f"has ids up to {highest + 1}, and the model embeds {highest + 1}" in text for text in said(folder))


def test_an_image_token_that_the_model_does_not_know(folder):
    change_json(folder, "config.json", lambda values: values.update(image_token_id=7))
    assert any("and the model looks for 7" in text for text in said(folder))


@pytest.mark.parametrize(("name", "value"), [("patch_size", 16), ("merge_size", 1), ("temporal_patch_size", 1)])
def test_an_image_processor_of_another_vision_tower(folder, name, value):
    def change(values):
        values["image_processor"][name] = value

    change_json(folder, "processor_config.json", change)
    assert any(f"image processor of {folder} has {name} {value}" in text for text in said(folder))


def test_a_processor_of_another_family(folder):
    change_json(folder, "processor_config.json", lambda values: values.update(processor_class="Qwen2VLProcessor"))
    assert any("goes with Qwen2_5_VLProcessor" in text for text in said(folder))


OTHERS = ["smolvlm", "idefics3", "internvl", "gemma3", "llava_onevision", "phi4_multimodal", "ernie4_5_vl_moe", "qwen2"]


@pytest.mark.parametrize("model_type", OTHERS)
def test_another_architecture_is_refused_whatever_its_attributes(folder, model_type):
    """The processor, its attributes and the weights' names are Qwen's."""
    change_json(folder, "config.json", lambda values: values.update(model_type=model_type))
    assert (
        said(folder)
        == said(folder, rl=False)
        == [f"verl 0.9.1 cannot train {model_type} on images use a model of {names()}"]
    )


@pytest.mark.parametrize("model_type", ["minicpmv", "phi3_v", "kimi_vl", "internvl_chat"])
def test_a_family_that_comes_with_code_of_its_own_is_refused_and_nothing_is_offered(folder, model_type, monkeypatch):
    """transformers asks on the terminal whether to run it, and waits."""

    def asked(*_):
        raise AssertionError("a question on the terminal")

    monkeypatch.setattr("builtins.input", asked)
    change_json(
        folder,
        "config.json",
        lambda values: values.update(model_type=model_type, auto_map={"AutoConfig": f"code_{model_type}.Config"}),
    )
    expected = [f"verl 0.9.1 cannot train {model_type} on images use a model of {names()}"]
    assert said(folder) == said(folder, rl=False) == said(folder, rl=None) == expected
    change_json(folder, "config.json", lambda values: values.pop("model_type"))
    assert "name a folder with config, tokenizer and processor" in said(folder)[0]


def test_a_policy_that_is_only_asked_may_think_first(folder):
    (folder / "chat_template.jinja").write_text(MESSAGES + OPENS)
    assert len(said(folder)) == 1
    assert said(folder, rl=None) == []


def in_two(folder):
    """The weights in two files; what an index would say of them."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    names = sorted(weights)
    files = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for name, inside in files.items():
        save_file({each: weights[each] for each in inside}, folder / name, metadata={"format": "pt"})
    return {each: name for name, inside in files.items() for each in inside}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found, None),
        (lambda found: dict.fromkeys(found, "model-00001-of-00002.safetensors"), "would be random"),
        (lambda found: {**found, "more": "model-00003-of-00003.safetensors"}, "names model-00003-of-00003.safetensors"),
        (lambda found: 3, "is no index of weights"),
        (lambda found: None, "neither model.safetensors nor"),
    ],
)
def test_weights_are_those_that_the_index_names(folder, change, says):
    """`from_pretrained` reads nothing else: a weight in a file that no index names is random."""
    found = change(in_two(folder))
    if found is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": found}))
    said_of = said(folder)
    assert [says in text for text in said_of] == ([True] if says else [])


def test_a_file_that_nobody_reads_is_not_looked_at(folder):
    (folder / "old.safetensors").write_bytes(b"half")
    assert said(folder) == []


@pytest.mark.parametrize("rl", [True, False])
@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('system first') }}", "{% for m in messages %}{{ m.role }"]
)
def test_a_template_that_does_not_render_a_question(folder, template, rl):
    path = folder / "chat_template.jinja"
    path.write_text(template) if template else path.unlink()
    (text,) = said(folder, rl=rl)
    assert "does not render a question" in text


def test_a_generation_config_that_is_cut_short(folder):
    (folder / "generation_config.json").write_text("{")
    assert "generation_config.json cannot be read" in said(folder)[0]


# --- The end of the prompt ------------------------------------------------------------------------------------

OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
ASKS = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n"
    "{% endif %}{% endif %}"
)
MESSAGES = "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{{ c.text }}{% endfor %}\n{% endfor %}"


def test_a_template_that_opens_think_for_the_policy(folder):
    (folder / "chat_template.jinja").write_text(MESSAGES + OPENS)
    (text,) = said(folder)
    assert "opens <think> for the policy" in text
    assert "enable_thinking" not in text, "this template does not know the option"
    assert "put a chat template without it" in text
    assert "native_reasoning=strip" in text
    assert said(folder, strips=True) == []


def test_a_run_that_strips_its_policys_reasoning_may_have_such_a_template(folder):
    (folder / "chat_template.jinja").write_text(MESSAGES + OPENS)
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = ["+recipe=cinema", f"actor_rollout_ref.model.path={folder}"]
        assert folder_refusals(compose("ppo_trainer", overrides=overrides))
        assert not folder_refusals(compose("ppo_trainer", overrides=[*overrides, f"{native_reasoning.KEY}=strip"]))


def test_a_template_that_can_be_told_not_to(folder):
    (folder / "chat_template.jinja").write_text(MESSAGES + ASKS)
    assert "set +data.apply_chat_template_kwargs.enable_thinking=false" in said(folder)[0]
    assert said(folder, {"enable_thinking": False}) == []


TAUGHT = (
    "{% for m in messages %}{{ m.role }}: "
    "{% if m.role == 'assistant' and enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% for c in m.content %}{{ c.text }}{% endfor %}\n{% endfor %}"
)
"""As Qwen3's templates render an answer that has no reasoning."""


def test_a_template_that_takes_think_out_of_what_is_taught(folder):
    cut = MESSAGES.replace("{{ c.text }}", "{{ c.text.split('</think>')[-1] }}") + ASSISTANT
    (folder / "chat_template.jinja").write_text(cut)
    assert said(folder) == [], "nothing is taught there"
    assert "the chat template changes what the assistant says" in said(folder, rl=False)[0]


ASSISTANT = "{% if add_generation_prompt %}assistant: {% endif %}"
OPENS_HERE = ASSISTANT.replace("assistant: ", "assistant: <think>\n")
ASKS_HERE = (
    "{% if add_generation_prompt %}assistant: {% if enable_thinking is defined and not enable_thinking %}<think>\n\n"
    "</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "kwargs", "thinking", "faults"),
    [
        (MESSAGES + ASSISTANT, {}, None, ()),
        (MESSAGES + OPENS_HERE, {}, None, ("opens <think>",)),
        (TAUGHT + ASKS_HERE, {}, None, ("opens <think>", "enable_thinking=false")),
        (TAUGHT + ASKS_HERE, {"enable_thinking": False}, None, ()),
        (TAUGHT + ASKS_HERE, {}, False, ("opens <think>", "enable_thinking=false")),
        (
            TAUGHT + ASKS_HERE,
            {"enable_thinking": False},
            True,
            ("changes what", "set data.enable_thinking_default=null,"),
        ),
        (TAUGHT + ASKS_HERE, {"enable_thinking": False}, "none", ("changes what", "default=null,")),  # verl's: true
        (MESSAGES + ASKS_HERE, {"enable_thinking": False}, None, ("changes what the assistant says",)),
        (MESSAGES.replace("{{ m.role }}: ", "{{ m.role }}: <think>\n") + OPENS_HERE, {}, None, ("opens <think>",)),
    ],
)
def test_what_is_taught_stands_behind_the_prompt_that_the_policy_is_asked_with(
    folder, template, kwargs, thinking, faults
):
    (folder / "chat_template.jinja").write_text(template)
    found = said(folder, kwargs, rl=False, thinking=thinking)
    assert len(found) == bool(faults)
    assert all(fault in found[0] for fault in faults)
    assert "enable_thinking=false" not in "".join(found) or "enable_thinking=false" in faults


def test_fine_tuning_gives_its_template_what_the_configuration_says(folder):
    (folder / "chat_template.jinja").write_text(TAUGHT + ASKS_HERE)
    with initialize_config_module("verl.trainer.config", version_base=None):
        overrides = ["+recipe=cinema_cold_start", f"model.path={folder}"]
        assert folder_refusals(compose("sft_trainer_engine", overrides=overrides))
        way_out = "+data.apply_chat_template_kwargs.enable_thinking=false"
        assert not folder_refusals(compose("sft_trainer_engine", overrides=[*overrides, way_out]))


# --- Where it is ----------------------------------------------------------------------------------------------


def test_a_model_that_is_not_on_this_machine(folder):
    assert folder_of(str(folder)) == folder
    assert folder_of("nobody/no-such-model") is None
    assert folder_of("/no/such/folder") is None


def test_a_folder_without_a_processor(folder):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    assert said(folder)
