"""The judge is asked once before a run that wants it, over a real server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cinema_verl.checks.judge import inspect_judge
from cinema_verl.checks.survey import Survey
from cinema_verl.verify import judge


@pytest.fixture
def serve(monkeypatch):
    """serve(word) -> the requests that come in; a judge that replies with this word, and the environment names it."""
    servers = []

    def serve(word):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                body = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("CINEMA_JUDGE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("CINEMA_JUDGE_MODEL", "some-judge")
        return asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_judge(monkeypatch):
    for name in ("URL", "MODEL", "API_KEY"):
        monkeypatch.delenv(f"CINEMA_JUDGE_{name}", raising=False)
    judge.configure(None)
    yield
    judge.configure(None)


def test_a_judge_that_judges(serve):
    asked = serve("same")
    (finding,) = inspect_judge()
    assert finding.ok is True
    assert asked[0]["model"] == "some-judge"


def test_a_judge_that_says_something_else(serve):
    serve("perhaps")
    assert inspect_judge()[0].ok is False


def test_rows_that_want_a_judge_and_nobody_says_who():
    (finding,) = inspect_judge(Survey(answer_types={"mcq", "judge"}))
    assert finding.ok is False
    assert "CINEMA_JUDGE_URL" in finding.detail


def test_rows_that_want_none():
    assert inspect_judge(Survey(answer_types={"mcq"})) == inspect_judge() == []
