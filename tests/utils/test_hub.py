"""A model by name where the hub answers, and where nobody does: a listener that accepts nothing is such an address."""

import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf

from cinema_verl.cold_start.retrieval import Encoder, EncoderError
from cinema_verl.prepare.convert import load_counter
from cinema_verl.training.model_folder import hub_refusals
from cinema_verl.utils import hub
from cinema_verl.utils.hub import HubUnreachable, only_local

NAME = "nobody/has-this"


@contextmanager
def silence():
    """An address whose host takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "SECONDS", 0.5)
    with silence() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield address


def cached(cache, name):
    """What a download of the model leaves."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "snapshots" / "1234").mkdir(parents=True)
    (folder / "snapshots" / "1234" / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1234")


def test_an_address_that_does_not_answer_is_said_at_once(silent_hub):
    with pytest.raises(HubUnreachable, match=rf"{NAME}.*{silent_hub}.*folder.*hf download.*HF_ENDPOINT"):
        only_local(NAME)


def test_a_refused_connection_is_said_as_well(silent_hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(HubUnreachable, match=str(port)):
        only_local(NAME)


def test_a_path_and_a_cached_name_need_no_hub(silent_hub, tmp_path):
    for path in (str(tmp_path), "/models/gone", "~/models/gone", "a/b/c"):
        assert only_local(path)
    cached(tmp_path, NAME)
    assert only_local(NAME)


def test_offline_is_what_the_user_said(silent_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert only_local(NAME)


@pytest.mark.parametrize("code", [200, 404, 503])
def test_whatever_the_hub_answers_the_loader_asks_it(silent_hub, monkeypatch, code):
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(hub, "SECONDS", 10.0)
        assert only_local(NAME) is False
        server.shutdown()


def test_every_command_that_loads_by_name_says_it(silent_hub):
    """The loaders themselves wait for minutes, file by file."""
    with pytest.raises(HubUnreachable):
        load_counter(NAME)
    with pytest.raises(EncoderError, match=NAME):
        Encoder(NAME)
    for config in ({"actor_rollout_ref": {"model": {"path": NAME}}}, {"model": {"path": NAME}}):
        (refusal,) = hub_refusals(OmegaConf.create(config))
        assert refusal.key.endswith("model.path")
        assert silent_hub in refusal.what


def test_a_model_that_is_here_is_not_asked_about(silent_hub, tmp_path):
    assert hub_refusals(OmegaConf.create({"model": {"path": str(tmp_path)}})) == []
