"""A checkpoint of eight ranks becomes a folder that plain transformers loads and that gives the same answers."""

import json
import shutil

import pytest
import torch
from made_up_run import change_config
from made_up_shards import write_checkpoint

from cinema_verl.data.directory import sole_writer
from cinema_verl.demo.digit_images import draw_image, image_name, load_pools
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.export import weights
from cinema_verl.export.card import card
from cinema_verl.export.command import main
from cinema_verl.export.find import find
from cinema_verl.utils.torchvision import ensure_torchvision_importable

ensure_torchvision_importable()

from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Image A: "},
            {"type": "image"},
            {"type": "text", "text": "\nImage B: "},
            {"type": "image"},
            {"type": "text", "text": "\nWhich image shows the largest digit?"},
        ],
    }
]


def load(folder):
    return AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def answers(folder, **how):
    """Greedy answers over three pairs of digits of the test split, by transformers alone."""
    model, processor = load(folder)
    pools, texts = load_pools(), []
    for first, second in ((3, 8), (9, 1), (4, 4)):
        names = [image_name(pools.by_split["test"][digit][0], (0, 0)) for digit in (first, second)]
        prompt = processor.apply_chat_template(CHAT, add_generation_prompt=True)
        inputs = processor(text=[prompt], images=[draw_image(pools, name) for name in names], return_tensors="pt")
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64, **how)
        texts.append(processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


def trained_state():
    """What a training of the shipped policy would save: its module's names, and both ends of the tied weights."""
    model, _ = load(digits_cold_start())
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for step, ranks in ((5, 8), (10, 1)):
        write_checkpoint(folder / f"global_step_{step}", digits_cold_start(), trained_state(), ranks)
    return folder


@pytest.fixture(scope="module")
def policy(checkpoints, tmp_path_factory):
    output = tmp_path_factory.mktemp("policies") / "eight"
    assert main([str(checkpoints), "--step", "5", "--output", str(output)]) == 0
    return output


def test_the_weights_are_those_of_the_shipped_policy_byte_for_byte(policy):
    assert (policy / "model.safetensors").stat().st_size == (digits_cold_start() / "model.safetensors").stat().st_size
    exported, shipped = load(policy)[0].state_dict(), load(digits_cold_start())[0].state_dict()
    assert exported.keys() == shipped.keys()
    assert all(torch.equal(exported[name], shipped[name]) for name in shipped)


def test_greedy_answers_are_those_of_the_shipped_policy_and_end_at_the_answer(policy):
    tokenizer = AutoProcessor.from_pretrained(policy).tokenizer
    before = [text.partition("</answer>")[0] + "</answer>" for text in answers(digits_cold_start())]
    assert answers(policy, tokenizer=tokenizer) == before


def test_it_stops_at_the_answer_because_the_folder_says_so(policy):
    assert json.loads((policy / "generation_config.json").read_bytes())["stop_strings"] == ["</answer>"]
    assert json.loads((policy / "config.json").read_bytes())["dtype"] == "float32"


def test_without_a_run_the_card_says_what_is_not_known(policy):
    card = (policy / "README.md").read_text(encoding="utf-8")
    assert "not known" in card
    assert "No validation" in card
    assert str(policy.parent) not in card


def test_the_same_again_is_no_work_and_another_is_refused(checkpoints, policy, capsys):
    written = (policy / "model.safetensors").stat().st_mtime_ns
    assert main([str(checkpoints), "--step", "5", "--output", str(policy)]) == 0
    assert "already" in capsys.readouterr().out
    assert main([str(checkpoints), "--step", "10", "--output", str(policy)]) == 1
    assert main([str(checkpoints), "--step", "5", "--output", str(policy), "--dtype", "bfloat16"]) == 1
    assert "another export (step 5)" in capsys.readouterr().err
    assert (policy / "model.safetensors").stat().st_mtime_ns == written


def test_a_folder_of_something_else_is_left_alone(checkpoints, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("x")
    assert main([str(checkpoints), "--output", str(tmp_path)]) == 1
    assert "something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_half_precision_is_written_and_named(checkpoints, tmp_path):
    assert main([str(checkpoints), "--output", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    model, _ = load(tmp_path / "half")
    assert model.dtype == torch.bfloat16
    state = trained_state()
    assert all(torch.equal(tensor, state[name].bfloat16()) for name, tensor in model.state_dict().items())


def test_a_step_whose_weights_are_in_huggingface_alone_is_exported(checkpoints, tmp_path):
    hf = tmp_path / "run" / "global_step_7" / "actor" / "huggingface"
    shutil.copytree(digits_cold_start(), hf)
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    shipped = (digits_cold_start() / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == shipped


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "config", "cut config", "cut generation", "family"])
def test_what_is_not_the_model_s_is_refused_and_leaves_nothing(tmp_path, damage, capsys):
    state = trained_state()
    if damage == "missing":
        del state["model.visual.merger.ln_q.weight"]
    elif damage == "extra":
        state["value_head.weight"] = torch.zeros(2, 2)
    elif damage == "shape":
        state["model.visual.merger.ln_q.weight"] = torch.zeros(3)
    actor = write_checkpoint(tmp_path / "run" / "global_step_1", digits_cold_start(), state, 2)
    if damage == "config":
        (actor / "huggingface" / "config.json").unlink()
    if damage.startswith("cut "):
        name = "config.json" if damage == "cut config" else "generation_config.json"
        (actor / "huggingface" / name).write_text("{")
    if damage == "family":
        config = json.loads((actor / "huggingface" / "config.json").read_bytes()) | {"model_type": "smolvlm"}
        (actor / "huggingface" / "config.json").write_text(json.dumps(config))
    cut = {"cut config": "/config.json cannot be read", "cut generation": "/generation_config.json cannot be read"}
    says = {**cut, "config": "config.json", "family": "use a model of Qwen2-VL"}
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 1
    assert says.get(damage, "weight") in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_that_was_killed_leaves_no_folder_and_is_done_again(checkpoints, tmp_path):
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (left / "old.json").write_text("{}")
    assert main([str(checkpoints), "--output", str(tmp_path / "out")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "old.json").exists()


def test_a_folder_that_any_other_command_writes_to_is_refused(checkpoints, tmp_path, capsys):
    with sole_writer(tmp_path / "out"):
        assert main([str(checkpoints), "--output", str(tmp_path / "out")]) == 1
    assert "another run is writing to" in capsys.readouterr().err


def test_the_second_of_two_into_one_folder_is_refused(checkpoints, tmp_path, monkeypatch, capsys):
    """The second begins where the first has begun to write, and is of another step."""
    second = []

    def meanwhile(*arguments, **more):
        if not second:
            second.append(None)
            second[0] = main([str(checkpoints), "--step", "5", "--output", str(tmp_path / "out")])
        return card(*arguments, **more)

    monkeypatch.setattr("cinema_verl.export.folder.card", meanwhile)
    assert main([str(checkpoints), "--step", "10", "--output", str(tmp_path / "out")]) == 0
    assert second == [1]
    assert "another run is writing to" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "cinema.json").read_bytes())["step"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_policy_goes_to_where_a_link_points(checkpoints, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert main([str(checkpoints), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model.safetensors").exists()


def test_an_interrupt_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cinema_verl.export.weights._write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([str(checkpoints), "--output", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_many_files_have_an_index_that_transformers_follows(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.write, "__defaults__", (None, 1_000_000, lambda _: None))
    assert main([str(checkpoints), "--output", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    state = trained_state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load(tmp_path / "out")[0].state_dict().items())


# --- Which checkpoint -----------------------------------------------------------------------------------------


def test_the_newest_is_taken_and_a_wrong_step_names_those_that_there_are(checkpoints, tmp_path, capsys):
    assert find(checkpoints).step == 10
    assert find(checkpoints / "global_step_5").step == 5
    assert find(checkpoints.parent / checkpoints.name, 5).step == 5
    assert main([str(checkpoints), "--step", "7", "--output", str(tmp_path / "out")]) == 1
    assert "5, 10" in capsys.readouterr().err
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 1


def test_the_card_and_the_manner_come_from_the_run(checkpoints, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    shutil.copytree(checkpoints / "global_step_5", run / "checkpoints" / "global_step_6")
    shutil.copytree(run / "rollouts", run / "checkpoints" / "validation")
    for folder in (run, run / "checkpoints", run / "rollouts", run / "hydra"):
        assert find(folder).step == 6
    assert main([str(run), "--output", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| base model | made-up |" in card
    assert "| step | 6 of 6 |" in card
    assert "exploration: 3 steps, coefficient 0.1, groups filtered by acc; exploitation: 3 steps, coefficient" in card
    assert "| squares | 1 |  | not known" in card
    assert "| this policy (validation) | 6 | 0.5" in card
    asked = json.loads((tmp_path / "out" / "cinema.json").read_bytes())["asked"]
    assert asked["system"].startswith("You")
    assert (asked["letters"], asked["min_pixels"], asked["max_pixels"]) == (False, 3136, 602112)


OPENS = "{% if add_generation_prompt and enable_thinking is not defined %}<think>\n{% endif %}"


@pytest.mark.parametrize("way", ["strip", "enable_thinking"])
def test_a_policy_whose_template_opens_think_is_asked_as_it_was_trained(checkpoints, make_run, tmp_path, way):
    run = make_run(tmp_path / "run")
    step = run / "checkpoints" / "global_step_6"
    shutil.copytree(checkpoints / "global_step_5", step)
    template = step / "actor" / "huggingface" / "chat_template.jinja"
    template.write_text(template.read_text() + OPENS)
    if way == "strip":
        reward = {"custom_reward_function": {"reward_kwargs": {"native_reasoning": "strip"}}}
        change_config(run, reward=reward)
    else:
        change_config(run, data={"apply_chat_template_kwargs": {"enable_thinking": False, "of": 'a "name"'}})
    assert main([str(run), "--output", str(tmp_path / "out")]) == 0
    asked = json.loads((tmp_path / "out" / "cinema.json").read_bytes())["asked"]
    assert asked["native_reasoning"] == ("strip" if way == "strip" else "none")
    prompts = [
        AutoProcessor.from_pretrained(folder).apply_chat_template(CHAT, add_generation_prompt=True)
        for folder in (template.parent, tmp_path / "out")
    ]
    assert prompts[0].endswith("<think>\n")
    assert prompts[1] == (prompts[0] if way == "strip" else prompts[0].removesuffix("<think>\n"))


def test_adapters_are_merged_as_peft_merges_them(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapter = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=".*visual.*")
    model = peft.get_peft_model(load(digits_cold_start())[0], adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    actor = write_checkpoint(tmp_path / "run" / "global_step_1", digits_cold_start(), model.state_dict(), 3)
    (actor / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}))
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    merged, exported = model.merge_and_unload().state_dict(), load(tmp_path / "out")[0].state_dict()
    assert exported.keys() == merged.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(exported[name], tensor, rtol=0, atol=1e-6)
    changed = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(exported[changed], trained_state()[changed])
