"""docs/use.md: what it shows is run, with the policy that ships with the package; vLLM alone is not."""

import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvicorn
from made_up_shards import write_checkpoint

from cinema_verl.cli import main
from cinema_verl.demo.digit_images import draw_image, image_name, load_pools
from cinema_verl.demo.train_policy import digits_cold_start
from cinema_verl.export.find import Found
from cinema_verl.export.manner import Manner
from cinema_verl.rollout.openai_server import Model, application

PAGE = (Path(__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^cinema-verl .*$", PAGE, flags=re.MULTILINE)
PLACE = "http://127.0.0.1:8000/v1"


def programs(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where somebody is who has trained the demo and has two pictures."""
    folder, pools = tmp_path_factory.mktemp("somebody"), load_pools()
    for name, digit in (("a", 3), ("b", 8)):
        draw_image(pools, image_name(pools.by_split["test"][digit][0], (0, 0))).save(folder / f"{name}.png")
    state = Model(digits_cold_start()).policy.model.state_dict()
    for run, step in (("demo", 120), ("first", 800)):
        write_checkpoint(folder / "outputs" / run / f"global_step_{step}", digits_cold_start(), state, 2)
    return folder


@pytest.fixture(scope="module")
def there(folder):
    """In that folder; the commands of the page's first section have been given."""
    before = Path.cwd()
    os.chdir(folder)
    manner = Manner(None, letters=True, min_pixels=784, max_pixels=784)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cinema_verl.export.folder.manner_of", lambda found: (manner, isinstance(found, Found)))
        exports = [shlex.split(command)[1:] for command in COMMANDS if " export " in command]
        assert len(exports) == 2
        assert [main(command) for command in exports] == [0, 0]
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def served(there):
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(Model("outputs/policy"), "policy"), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def answer(there):
    """What transformers answers by the page's own program."""
    return ran("transformers")


def ran(name, **replaced):
    (program,) = [each for each in programs("python") if each.startswith(f"# {name}\n")]
    for old, new in replaced.items():
        program = program.replace({"place": PLACE}[old], new)
    # A process of its own: verl, where a test has imported it, puts other methods into transformers' models.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_transformers_stops_at_the_answer(answer):
    assert answer.endswith("<answer>B</answer>")


@pytest.mark.parametrize("command", [each for each in COMMANDS if " ask " in each and "--serve" not in each])
def test_asking_says_the_same(command, there, served, answer, capsys, monkeypatch):
    manner = Manner(None, letters=True, min_pixels=784, max_pixels=784)
    monkeypatch.setattr("cinema_verl.ask.command.default", lambda: manner)
    assert main(shlex.split(command.replace(PLACE, served))[1:]) == 0
    out = capsys.readouterr().out
    assert "<answer>B</answer>" in out
    assert " -n " in command or answer in out


def test_curl_says_the_same(there, served, answer):
    (program,) = programs("bash")
    program = program.replace(PLACE, served)
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer in done.stdout


def test_the_openai_client_says_the_same(there, served, answer):
    pytest.importorskip("openai")
    assert ran("openai", place=served) == answer
