"""The stub server: faults by content and not by order, what it counts, and its command line."""

import http.client
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from typing import Any

import pytest

from cinema_verl.demo.stub_server import FAULTS, StubServer, main


def post(server: StubServer, number: int = 0, body: Any = None, **headers: str) -> tuple[int, Any]:
    """(status, JSON), or (0, name of the exception) for a connection that breaks."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    asked = {"model": "stub", "messages": [{"role": "user", "content": f"Question {number}"}]} if body is None else body
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, type(error).__name__
    finally:
        connection.close()


def get(server: StubServer, path: str) -> Any:
    return json.load(urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10))


def test_a_completion_and_the_list_of_models():
    with StubServer(lambda request, rng: request["messages"][0]["content"].upper()) as server:
        status, reply = post(server)
        assert (status, reply["model"]) == (200, "stub")
        assert reply["choices"][0]["message"]["content"] == "QUESTION 0"
        assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
        assert get(server, "/v1/models")["data"][0]["id"] == "stub"


def test_the_same_call_gets_the_same_reply_in_any_order():
    def replies(order: range) -> dict[int, Any]:
        with StubServer(seed=3) as server:
            return {number: post(server, number)[1]["choices"][0]["message"] for number in order}

    assert replies(range(20)) == replies(range(19, -1, -1))


def test_faults_depend_on_the_call_and_how_often_it_came():
    def statuses(order: list[int]) -> dict[int, list[int]]:
        with StubServer(faults={"500": 0.5}, seed=1) as server:
            got: dict[int, list[int]] = {number: [] for number in order}
            for number in order:
                got[number].append(post(server, number)[0])
            return got

    numbers = [*range(30)]
    forth, back = statuses(numbers * 3), statuses(numbers[::-1] * 3)
    assert forth == back
    counts = Counter(status for each in forth.values() for status in each)
    assert 30 < counts[500] < 60  # half of 90
    assert any(len({*each}) == 2 for each in forth.values())  # another try, another fate


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"hang"}))
def test_every_fault_shows_itself(name):
    with StubServer(script=[name]) as server:
        status, answer = post(server, Authorization="Bearer sk-test")
        assert server.faults_made == {name: 1}
        assert post(server)[0] == (429 if name == "burst" else 200)
    expected = {"burst": 429, "quota": 429, "echo": 500, "content_filter": 400, "reset": 0, "reset_late": 0,
                "half_json": 0, "html": 0}  # fmt: skip
    assert status == expected.get(name, int(name) if name.isdigit() else 200)
    if name in ("401", "echo"):
        assert "sk-test" in answer["error"]["message"]
    # What a provider charges for: the model has answered.
    unpaid = {"429", "burst", "quota", "500", "503", "401", "echo", "reset", "content_filter", "413", "400"}
    assert server.paid.total() == (name not in unpaid) + (name != "burst")


def test_a_burst_turns_down_as_many_as_it_says():
    with StubServer(script=["burst"], burst=4) as server:
        assert [post(server, number)[0] for number in range(6)] == [429] * 4 + [200] * 2


def test_requests_are_counted_by_their_idempotency_key():
    with StubServer() as server:
        for key in ("a", "a", "b"):
            post(server, **{"Idempotency-Key": key})
        assert get(server, "/stats")["requests"] == 3
        assert get(server, "/calls") == {"requests": {"a": 2, "b": 1}, "paid": {"a": 2, "b": 1}}
        assert server.stats()["distinct"] == 2


def test_what_is_not_a_request():
    with StubServer(api_key="sk-right", max_request_bytes=1000) as server:
        right = {"Authorization": "Bearer sk-right"}
        assert post(server)[0] == 401
        assert post(server, body={"model": "other", "messages": []}, **right)[0] == 404
        assert post(server, body={"model": "stub"}, **right)[0] == 400
        assert post(server, body=[1], **right)[0] == 400
        assert post(server, body={"model": "stub", "messages": "x" * 2000}, **right)[0] == 413
        assert post(server, **right)[0] == 200


def test_stopped_and_started_it_is_at_the_same_address_and_remembers():
    server = StubServer()
    with server:
        url, status = server.url, post(server)[0]
    assert (status, post(server)[0]) == (200, 0)
    with server:
        assert server.url == url
        assert post(server)[0] == 200
    assert server.paid.total() == 2


def test_unknown_faults_are_refused():
    with pytest.raises(ValueError, match="no fault is called 418, flood"):
        StubServer(faults={"flood": 0.1}, script=["418", None])


def test_the_command_line(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["--fault", "flood=0.1"])
    assert "no fault is called flood" in capsys.readouterr().err
    command = [sys.executable, "-m", "cinema_verl.demo.stub_server", "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert json.load(urllib.request.urlopen(f"{url}/models", timeout=10))["data"][0]["id"] == "m"
        process.terminate()
