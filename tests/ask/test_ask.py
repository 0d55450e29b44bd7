"""`cinema-verl ask`: the shipped policy over two pictures of a user's own, here and behind an endpoint."""

import json
import random
import re
import shutil
import socket
import threading

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from made_up_run import change_config
from PIL import Image
from safetensors.torch import load_file, save_file

from cinema_verl.ask import command
from cinema_verl.ask.pictures import BadPicture, data_url
from cinema_verl.ask.samples import Sample, _with_stop
from cinema_verl.cli import main
from cinema_verl.demo.digit_images import draw_image, image_name, load_pools
from cinema_verl.demo.digit_tasks import TASKS
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.export.manner import Manner, NoManner, default, of_row, read
from cinema_verl.reward import compute_score
from cinema_verl.rollout.openai_server import Model, application
from cinema_verl.utils.native_reasoning import NATIVE_REASONING

QUESTION = "Which image shows the largest digit?"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A three and an eight, as somebody might save them: larger, a JPEG in colour, a PNG with a transparent ground."""
    folder, pools = tmp_path_factory.mktemp("own pictures"), load_pools()
    three, eight = (
        draw_image(pools, image_name(pools.by_split["test"][digit][0], (0, 0))).resize((280, 280)) for digit in (3, 8)
    )
    three.convert("RGB").save(folder / "three.jpg")
    clear = Image.new("RGBA", eight.size, (0, 0, 0, 0))
    clear.putalpha(eight.point(lambda value: 255 - value))
    clear.save(folder / "eight.png")
    return ["--image", str(folder / "three.jpg"), "--image", str(folder / "eight.png")]


@pytest.fixture(scope="module")
def served():
    """The base URL of the shipped policy behind a real server."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(Model(digits_cold_start()), "tiny"), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


def test_the_shipped_policy_answers_over_two_pictures(pictures, capsys):
    assert main(["ask", "demo", *pictures, QUESTION]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("<")
    assert out.endswith("<answer>B</answer>\n")
    assert QUESTION in err


@pytest.mark.parametrize("size", [(280, 300), (420, 280), (300, 300)])
def test_a_picture_of_one_s_own_need_not_be_square(pictures, size, tmp_path, capsys):
    """The demo's pictures have one token: resized as they are, nothing would be left of the shorter side."""
    for name, own in (("a.png", pictures[1]), ("b.png", pictures[3])):
        paper, digit = Image.new("RGB", size, "white"), Image.open(own).convert("RGBA").resize((280, 280))
        paper.paste(digit, (size[0] // 2 - 140, 0), digit)
        paper.save(tmp_path / name)
    images = ["--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.png")]
    assert main(["ask", "demo", *images, QUESTION]) == 0
    assert re.search(r"<answer>[AB]</answer>\n$", capsys.readouterr().out)


def test_a_large_picture_is_no_warning_and_a_huge_one_an_error(tmp_path, recwarn):
    Image.new("L", (9500, 9500), 255).save(tmp_path / "large.png")
    assert data_url(tmp_path / "large.png", Manner(None, min_pixels=784, max_pixels=784)).startswith("data:image/png")
    assert not [each for each in recwarn if issubclass(each.category, Image.DecompressionBombWarning)]
    Image.new("1", (14_000, 14_000)).save(tmp_path / "huge.png")
    with pytest.raises(BadPicture, match="huge"):
        data_url(tmp_path / "huge.png", Manner(None))


def test_a_picture_that_the_processor_refuses_is_named(tmp_path):
    Image.new("RGB", (3000, 10)).save(tmp_path / "thin.png")
    with pytest.raises(BadPicture, match="thin"):
        data_url(tmp_path / "thin.png", Manner(None, min_pixels=784, max_pixels=784))


def test_what_is_said_of_the_demo_is_what_it_knows_and_was_measured():
    asked = {task.make(random.Random(0)).question for task in TASKS}
    said = [line for part in command.ABOUT_DEMO.splitlines() for line in part.split("  ") if line.strip().endswith("?")]
    assert len(said) >= 5
    assert {line.strip() for line in said} <= asked
    measured = json.loads((digits_cold_start() / "measured.json").read_bytes())
    by_task = measured["greedy_acc_by_task"].values()
    for figure in (measured["greedy_acc"], min(by_task), max(by_task)):
        assert f"{figure:.2f}" in command.ABOUT_DEMO


def test_samples_vote_and_a_seed_repeats_them(pictures, capsys):
    said = []
    for _ in range(2):
        assert main(["ask", "demo", *pictures, "-n", "4", "--seed", "1", "--json", QUESTION]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]
    assert len({sample["text"] for sample in said[0]["samples"]}) > 1
    assert [sample["seed"] for sample in said[0]["samples"]] == [1, 2, 3, 4]
    assert said[0]["vote"]["samples"] == 4
    assert said[0]["answer"] == said[0]["vote"]["answers"][0]["answer"]
    assert all(sample["pattern"].endswith("answer") for sample in said[0]["samples"] if sample["well_formed"])


def test_what_streams_is_what_was_sampled(pictures, capsys):
    arguments = ["ask", "demo", *pictures, "-n", "3", "--seed", "5"]
    assert main([*arguments, "--json", QUESTION]) == 0
    texts = [sample["text"] for sample in json.loads(capsys.readouterr().out)["samples"]]
    assert main([*arguments, QUESTION]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("".join(f"— sample {i} —\n{text}\n" for i, text in enumerate(texts, 1)))


def test_an_endpoint_is_asked_the_same_and_says_the_same(pictures, served, capsys, monkeypatch):
    monkeypatch.setattr(command, "default", lambda: Manner(None, letters=True, min_pixels=784, max_pixels=784))
    assert main(["ask", "tiny", "--endpoint", served, *pictures, QUESTION]) == 0
    remote = capsys.readouterr().out
    assert main(["ask", "demo", *pictures, QUESTION]) == 0
    assert remote == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["other", "--endpoint", "SERVED"], "there is one model, 'tiny'"),
        (["tiny", "--endpoint", "http://127.0.0.1:9/v1"], "nobody answers"),
        (["tiny", "--endpoint", "not a url"], "base URL"),
        (["/nowhere"], "does not exist"),
        (["demo", "--image", "/nowhere.png"], "nowhere.png: there is no such picture"),
        (["demo", "--image", "/"], "/ is a folder"),
    ],
)
def test_what_cannot_be_asked_is_an_error_in_one_line(arguments, says, pictures, served, capsys, monkeypatch):
    async def at_once(_):
        return None

    monkeypatch.setattr("cinema_verl.endpoint.client.FIRST_WAIT", 0.0)
    assert main(["ask", *[served if each == "SERVED" else each for each in arguments], *pictures, QUESTION]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert command.ABOUT_DEMO not in err  # which would hide it


def spoil_json(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


def without_a_weight(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path)


CANNOT_BE_ASKED = {
    "another family": (lambda folder: spoil_json(folder, "config.json", model_type="smolvlm"), "Qwen2.5-VL"),
    "missing weights": (without_a_weight, "weights are missing and would be random"),
    "another's processor": (
        lambda folder: spoil_json(folder, "processor_config.json", processor_class="Qwen2VLProcessor"),
        "goes with Qwen2_5_VLProcessor",
    ),
}


@pytest.mark.parametrize("serve", [[], ["--serve"]], ids=["ask", "serve"])
@pytest.mark.parametrize("fault", CANNOT_BE_ASKED)
def test_a_folder_that_would_answer_nonsense_is_refused_before_it_is_loaded(
    fault, serve, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Model, "__init__", lambda *_: pytest.fail("loaded"))
    folder = tmp_path / "model"
    shutil.copytree(digits_cold_start(), folder)
    spoil, says = CANNOT_BE_ASKED[fault]
    spoil(folder)
    assert main(["ask", str(folder), *(serve or [*pictures, QUESTION])]) == 1
    assert says in capsys.readouterr().err


def opening_think(folder):
    """A copy of the shipped policy whose chat template opens <think>, unless it is told not to."""
    shutil.copytree(digits_cold_start(), folder)
    path = folder / "chat_template.jinja"
    opens = "{% if add_generation_prompt and enable_thinking is not defined %}<think>\n{% endif %}"
    path.write_text(path.read_text() + opens)
    return folder


@pytest.mark.parametrize(("declared", "expected"), [(None, "strip"), ("none", "strip"), ("refuse", "refuse")])
def test_a_model_whose_template_opens_think_is_taken_for_one_that_reasons(
    declared, expected, pictures, tmp_path, capsys
):
    folder = opening_think(tmp_path / "model")
    if declared:
        asked = {"system": None, "letters": True, "min_pixels": 784, "max_pixels": 784, "native_reasoning": declared}
        (folder / "cinema.json").write_text(json.dumps({"asked": asked}))
    main(["ask", str(folder), *pictures, "--json", "--max-tokens", "4", QUESTION])
    assert json.loads(capsys.readouterr().out)["native_reasoning"] == expected


def test_a_run_that_told_its_template_something_is_exported_first(pictures, tmp_path, make_run, capsys):
    run = make_run(tmp_path / "run")
    opening_think(run / "checkpoints" / "global_step_1" / "actor" / "huggingface")
    change_config(run, data={"apply_chat_template_kwargs": {"enable_thinking": False}})
    assert main(["ask", str(run), *pictures, QUESTION]) == 1
    assert "cinema-verl export" in capsys.readouterr().err


def test_a_folder_that_is_neither_a_model_nor_a_run_says_so(pictures, tmp_path, capsys):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "runs" / "first" / "global_step_3").mkdir(parents=True)
    assert main(["ask", str(tmp_path / "photographs"), *pictures, QUESTION]) == 1
    err = capsys.readouterr().err
    assert "neither a model (config.json) nor a run's checkpoints" in err
    assert "--rollouts" not in err  # another command's option
    (tmp_path / "cut" / "second" / "global_step_3.partial").mkdir(parents=True)
    assert main(["ask", str(tmp_path / "cut"), *pictures, QUESTION]) == 1
    assert "neither a model (config.json) nor a run's checkpoints" in capsys.readouterr().err
    assert main(["ask", str(tmp_path / "runs" / "first"), *pictures, QUESTION]) == 1
    assert "has no weights, neither as shards nor in huggingface/" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 1
    assert f"give one of {tmp_path}/runs/first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["demo"], ["demo", "What?"], ["demo", "--image", "a.png"], ["demo", "-n", "0"], ["demo", "--image", "a.png", " "]],
)
def test_what_is_not_understood(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["ask", *arguments])
    assert stopped.value.code == 2


def test_no_answer_is_an_exit_code(pictures, capsys):
    assert main(["ask", "demo", *pictures, "--max-tokens", "2", QUESTION]) == 1
    assert "no answer" in capsys.readouterr().err


# --- The manner, pictures, stop texts -------------------------------------------------------------------------


def texts(messages):
    return [part.get("text", part["type"]) for part in messages[-1]["content"]]


def test_a_question_is_put_as_in_training():
    assert texts(Manner(None, letters=True).messages("Q?", 2)) == ["Image A: ", "image", "\nImage B: ", "image", "\nQ?"]
    assert texts(Manner(None).messages("Q?", 2)) == ["Image 1: ", "image", "\nImage 2: ", "image", "\nQ?"]
    assert texts(Manner(None).messages("Q?", 1)) == ["image", "\nQ?"]
    assert texts(Manner(None).messages("Is <image> in <image>?", 2)) == ["Is ", "image", " in ", "image", "?"]
    assert default().messages("Q?", 1)[0]["role"] == "system"
    with pytest.raises(ValueError, match="2 images"):
        Manner(None).messages("<image>?", 2)


def test_the_manner_is_read_from_a_row():
    cell = {"image": "a.png", "min_pixels": 784, "max_pixels": 1000}
    user = {"role": "user", "content": "Frame A: <image>\nQ?"}
    assert of_row([user], [cell], None) == Manner(None, True, 784, 1000)
    assert of_row([{"role": "system", "content": "S"}, user], [cell], None).system == "S"
    assert of_row([user], [cell], "cot") == Manner(default("cot").system, True, 784, 1000)


@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n"]), max_size=12),
    declared=st.sampled_from([*NATIVE_REASONING]),
)
def test_a_sample_is_read_as_the_reward_reads_it(text, declared):
    text = "".join(text)
    row = {"answer_type": "text", "num_images": 2}
    score = compute_score("made up", text, "a", row, native_reasoning=declared)
    reading = Sample(text, "stop").read(declared)
    assert reading.stripped == score["stripped"]
    assert (reading.trajectory.answer or "", reading.trajectory.pattern) == (score["answer"], score["pattern"])
    assert ",".join(reading.violations_for(2)) == score["violations"]
    assert float(bool(reading.stripped) or reading.refused) == score["native_reasoning"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"asked": {"other": 1}}',
        '{"asked": {"system": null, "native_reasoning": 1}}',
        '{"asked": {"system": 3}}',
        "[]",
    ],
)
def test_a_manner_that_cannot_be_read_is_an_error(tmp_path, text):
    (tmp_path / "cinema.json").write_text(text)
    with pytest.raises(NoManner):
        read(tmp_path)


def test_a_picture_is_turned_upright_and_bad_ones_are_named(tmp_path):
    import base64
    import io

    turned = Image.new("RGB", (40, 20), "white")
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned.save(tmp_path / "phone.jpg", exif=exif)
    content = base64.b64decode(data_url(tmp_path / "phone.jpg", Manner(None)).partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (20, 40)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadPicture, match="text"):
        data_url(tmp_path / "text.png", Manner(None))


@pytest.mark.parametrize(
    ("text", "reason", "whole"),
    [
        ("<think>x</think><answer>B", "stop", "<think>x</think><answer>B</answer>"),
        ("<think>x</think><answer>B", "length", "<think>x</think><answer>B"),
        ("<answer>B</answer>", "stop", "<answer>B</answer>"),
        ("nothing", "stop", "nothing"),
    ],
)
def test_the_stop_text_that_servers_take_away_is_put_back(text, reason, whole):
    assert _with_stop(text, reason) == whole
