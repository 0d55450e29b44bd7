"""A harness asks a trained policy through real servers; lmms-eval itself does, where it is installed."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from cinema_verl.ask.harness import BadQuestion, application, as_trained, question_of
from cinema_verl.cli import main
from cinema_verl.demo.digit_images import draw_image, image_name, load_pools
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.endpoint.settings import Endpoint
from cinema_verl.export.manner import Manner
from cinema_verl.rollout import openai_server
from cinema_verl.verify import verify

MANNER = Manner("Use the actions.", letters=True, min_pixels=784, max_pixels=784)
AT = Endpoint("http://127.0.0.1:1/v1", "policy")


def url(side=28, colour="white"):
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def text(words):
    return {"type": "text", "text": words}


def picture(**kind):
    return {"type": "image_url", "image_url": {"url": url(**kind)}}


def user(*parts):
    return [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": list(parts)}]


def texts_of(body):
    return "".join(part.get("text", "[picture]") for part in body["messages"][-1]["content"])


def test_a_question_is_asked_in_the_policy_s_manner_with_room_for_a_trajectory():
    sent = {"model": "x", "max_tokens": 16, "temperature": 0.5, "seed": 3, "stop": ["\n"]}
    body = as_trained({**sent, "messages": user(picture(), picture(), text("Which is larger?"))}, MANNER, AT, 900)
    assert body["messages"][0] == {"role": "system", "content": "Use the actions."}
    assert len(body["messages"]) == 2
    assert texts_of(body) == "Image A: [picture]\nImage B: [picture]\nWhich is larger?"
    settings = {name: value for name, value in body.items() if name != "messages"}
    assert settings == {"model": "policy", "temperature": 0.5, "seed": 3, "stop": ["</answer>"], "max_tokens": 900}


def test_pictures_have_the_sizes_of_training():
    body = as_trained({"messages": user(picture(side=560), text("?"))}, MANNER, AT, 9)
    (sent,) = [part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"]
    assert Image.open(io.BytesIO(base64.b64decode(sent.partition(",")[2]))).size == (28, 28)


@pytest.mark.parametrize(
    ("parts", "asked"),
    [
        ([text("First "), picture(), text(" then "), picture()], "First [picture] then [picture]"),
        ([picture(), picture(), text("Is <image> like <image>?")], "Is [picture] like [picture]?"),  # MUIRBench's rows
        ([text(" \n"), picture(), text("What?")], "Image A: [picture]\nWhat?"),
        ([text("A <image> is here: "), picture()], "A <picture> is here: [picture]"),
    ],
)
def test_pictures_stand_where_the_harness_puts_them(parts, asked):
    assert texts_of(as_trained({"messages": user(*parts)}, MANNER, AT, 9)) == asked


@pytest.mark.parametrize(
    "body",
    [
        {"messages": user(text("no picture"))},
        {"messages": user(picture(), text("<image> <image> <image>"))},
        {"messages": [*user(picture(), text("?")), {"role": "assistant", "content": "A"}]},
        {"messages": user(picture(), text("?")), "n": 2},
        {"messages": user(picture(), text("?")), "stream": True},
        {"messages": user({"type": "video_url", "video_url": {"url": "x"}}, text("?"))},
        {"messages": user({"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}, text("?"))},
        {"messages": user({"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}, text("?"))},
        {"messages": [{"role": "user"}]},
        {"messages": 3},
        {},
    ],
)
def test_what_cannot_be_asked_is_refused(body):
    with pytest.raises(BadQuestion):
        as_trained(body, MANNER, AT, 9)


def test_a_question_that_is_a_plain_text_has_no_image():
    with pytest.raises(BadQuestion, match="no image"):
        question_of([{"role": "user", "content": "What?"}])


@contextmanager
def running(app):
    import socket

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def policy():
    with running(openai_server.application(openai_server.Model(digits_cold_start()), "policy")) as place:
        yield place


@pytest.fixture(scope="module")
def digits():
    """A three and an eight, and the shipped policy's own manner, which has no system prompt."""
    pools = load_pools()
    return [draw_image(pools, image_name(pools.by_split["test"][digit][0], (0, 0))) for digit in (3, 8)]


SHIPPED = Manner(None, letters=True, min_pixels=784, max_pixels=784)


def post(place, images, question="Which image shows the largest digit?", **more):
    parts = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    body = {"model": "any", "max_tokens": 4, "messages": user(*parts, text(question)), **more}
    return httpx.post(f"{place}/chat/completions", json=body, timeout=60, trust_env=False)


def test_a_harness_sees_the_answer_alone_and_the_trajectory_is_kept(policy, digits):
    with running(application(Endpoint(policy, "policy"), SHIPPED, "policy", 200)) as place:
        assert httpx.get(f"{place}/models", trust_env=False).json()["data"][0]["id"] == "policy"
        message = post(place, digits).json()["choices"][0]["message"]
        refused = post(place, digits, n=2)
    assert message["content"] == "B"
    assert message["reasoning_content"].endswith("<answer>B</answer>")
    assert (refused.status_code, "n and stream" in refused.text) == (400, True)


def test_a_reply_without_an_answer_is_empty_and_said(policy, digits, capfd):
    with running(application(Endpoint(policy, "policy"), SHIPPED, "policy", 2)) as place:
        choice = post(place, digits).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert "1 of 1 replies had not exactly one <answer>" in capfd.readouterr().err


def test_an_endpoint_that_is_gone_is_a_server_error(policy, digits, monkeypatch):
    app = application(Endpoint(policy, "policy"), SHIPPED, "policy", 9)
    monkeypatch.setattr("cinema_verl.ask.harness.asked", _gone)
    with running(app) as place:
        assert post(place, digits).status_code == 502


# --- Policies that reason on their own ------------------------------------------------------------------------

TRAJECTORY = "<think>An eight.</think><answer>B</answer>"
THINKS = "Is it <answer>A</answer>? No.</think>"


def canned(content, **fields):
    """An endpoint that always says the same."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete():
        message = {"role": "assistant", "content": content, **fields}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "policy"}]}

    return app


@pytest.mark.parametrize(
    ("declared", "content", "fields", "answer", "stripped", "violations"),
    [
        ("strip", THINKS + TRAJECTORY, {}, "B", THINKS, []),
        ("none", THINKS + TRAJECTORY, {}, None, "", None),
        ("refuse", THINKS + TRAJECTORY, {}, None, "", None),
        ("strip", TRAJECTORY, {}, "B", "<think>An eight.</think>", ["no_action", "starts_with_answer"]),
        ("none", TRAJECTORY, {}, "B", "", []),
        ("refuse", TRAJECTORY, {}, "B", "", []),
        ("none", TRAJECTORY, {"reasoning_content": "Hm."}, "B", "Hm.", []),
        ("refuse", TRAJECTORY, {"reasoning_content": "Hm."}, "B", "Hm.", ["native_reasoning"]),
    ],
)
def test_reasoning_of_the_model_s_own_is_no_part_of_what_is_asked_for_and_is_kept(
    declared, content, fields, answer, stripped, violations, tmp_path, digits, capsys
):
    digits[0].save(tmp_path / "a.png")
    asked = ["ask", "policy", "--image", str(tmp_path / "a.png"), "--json", "--native-reasoning", declared, "Which?"]
    with running(canned(content, **fields)) as endpoint:
        assert main([*asked, "--endpoint", endpoint]) == int(answer is None)
        manner = Manner(None, native_reasoning=declared)
        with running(application(Endpoint(endpoint, "policy"), manner, "policy", 200)) as place:
            message = post(place, digits[:1]).json()["choices"][0]["message"]
    said = json.loads(capsys.readouterr().out)
    (sample,) = said["samples"]
    assert (said["native_reasoning"], said["answer"], sample["stripped"]) == (declared, answer, stripped)
    assert sample["text"] == content
    assert sample["violations"] == violations or violations is None
    assert sample["well_formed"] == (violations == [])
    assert (message["content"], message["reasoning_content"]) == (
        answer or "",
        fields.get("reasoning_content", "") + content,
    )


def test_how_many_samples_reason_on_their_own_is_said(tmp_path, digits, capsys):
    digits[0].save(tmp_path / "a.png")
    with running(canned(THINKS + TRAJECTORY)) as endpoint:
        asked = ["ask", "policy", "--endpoint", endpoint, "--image", str(tmp_path / "a.png"), "-n", "3", "Which?"]
        assert main([*asked, "--native-reasoning", "strip"]) == 0
    out, err = capsys.readouterr()
    assert "vote: B, 3 of 3" in out
    assert out.count(THINKS) == 3
    assert "in 3 of 3" in err


async def _gone(client, body):
    from cinema_verl.ask.samples import NoSample

    raise NoSample("nobody answers")


TASK = """\
task: made_up_digits
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_visual: !function made_up.pictures
doc_to_text: "{{question}}\\nINSTRUCTION"
doc_to_target: "{{answer}}"
generation_kwargs: {max_new_tokens: 16, temperature: 0}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
FUNCTIONS = """\
from PIL import Image
def pictures(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]
"""


RUN = """
import json, sys
from cinema_verl.utils.torchvision import ensure_torchvision_importable
ensure_torchvision_importable()  # beside a PyTorch for CPUs
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
manager = TaskManager("DEBUG", include_path=sys.argv[1], include_defaults=False, model_name="openai")
found = simple_evaluate(
    model="openai", model_args=sys.argv[2], tasks=["made_up_digits"], batch_size=1, task_manager=manager,
)
print(json.dumps(found["results"]["made_up_digits"]))
"""
# Not its command line, which reads some hundred tasks first, and exits 0 after an error.


QUESTION = "Which image shows the largest digit?"
INSTRUCTION = "Answer with the option's letter from the given choices directly."
SHOWN = ((3, 8), (8, 3), (1, 7, 4), (9, 2), (5, 6), (0, 4, 2), (7, 8, 1, 0), (6, 1))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Questions over two to four pictures; the last two have a wrong gold, so that no accuracy is 1 by itself."""
    folder, pools, rows = tmp_path_factory.mktemp("rows"), load_pools(), []
    for number, digits in enumerate(SHOWN):
        paths = [folder / f"{number}_{place}.png" for place in range(len(digits))]
        for path, digit in zip(paths, digits, strict=True):
            draw_image(pools, image_name(pools.by_split["test"][digit][number], (0, 0))).save(path)
        largest = digits.index(max(digits))
        answer = "ABCD"[largest if number < len(SHOWN) - 2 else (largest + 1) % len(digits)]
        rows.append({"question": QUESTION, "images": [str(path) for path in paths], "answer": answer})
    return rows


def our_accuracy(policy, rows, capsys):
    """The same questions by `cinema-verl ask`, judged by the reward's verifier."""
    correct = 0
    for row in rows:
        images = [part for path in row["images"] for part in ("--image", path)]
        asked = ["ask", "policy", "--endpoint", policy, "--prompt-mode", "none", "--json", *images]
        assert main([*asked, f"{row['question']}\n{INSTRUCTION}"]) == 0
        answer = json.loads(capsys.readouterr().out)["answer"]
        correct += bool(verify(answer, row["answer"], "mcq"))
    return correct / len(rows)


@pytest.mark.slow
def test_lmms_eval_finds_the_accuracy_that_we_find(policy, rows, tmp_path, capsys, monkeypatch):
    """A task as people write them: 16 tokens, an exact match with a letter."""
    pytest.importorskip("lmms_eval")
    monkeypatch.setattr("cinema_verl.ask.command.default", lambda: SHIPPED)
    tasks, file = tmp_path / "tasks", tmp_path / "rows.jsonl"
    tasks.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "made_up_digits.yaml").write_text(TASK.replace("ROWS", str(file)).replace("INSTRUCTION", INSTRUCTION))
    (tasks / "made_up.py").write_text(FUNCTIONS)
    with running(application(Endpoint(policy, "policy"), SHIPPED, "policy", 200)) as place:
        arguments = f"model=policy,base_url={place},api_key=none,timeout=600,httpx_trust_env=False"
        command = [sys.executable, "-c", RUN, str(tasks), arguments]
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])["exact_match,none"]
    assert theirs == our_accuracy(policy, rows, capsys)
    assert 0 < theirs < 1
    with capsys.disabled():
        print(f" lmms-eval: {theirs:.3f} of {len(rows)} questions, and ours is the same ", end="")
