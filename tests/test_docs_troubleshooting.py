"""docs/troubleshooting.md has an anchor for every message that the code can raise at a user, and quotes no other."""

import re
from collections import Counter
from pathlib import Path

from messages import GAP, messages, sources, words

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = "\n".join(re.findall(r"(?<=^```text\n).*?(?=^```)", PAGE, flags=re.MULTILINE | re.DOTALL)).split("\n")
QUOTED = [line for line in QUOTED if line]
MOST = 12
"""Messages that one quotation may stand for; with more it would say nothing of any."""

INTERNAL = {
    "a weight of dtype … was announced": "between two processes of this package",
    "the actor sent a weight that the rollout model does not have": "both are made from one folder",
    "weight …: the actor sent": "both are made from one folder",
    "weight sync left … weights of the rollout model stale": "both are made from one folder",
    "the outcome … is not an answer of the endpoint": "the client stores what was answered only",
    "tokens cannot be the response so far": "the agent loop counts them",
    "was fed … patterns": "the trainer feeds what it has read of one batch",
    "the transfer queue": "verl's own store, of what the trainer has put there",
}
"""Errors that no input of a user brings, with the reason."""
NO_ERROR = (
    *("cinema-verl … loaded into verl", "cinema-verl ask: step … of", "demo: the tiny policy", "The base URL follows"),
    *("the base URL follows", "written: …, .md, .html", "with the tokenizer and the image processor"),
)
"""What is said to stderr when all is well."""


def says(text: str, quoted: str) -> bool:
    """Whether the parts of a quotation stand in a text, in their order."""
    at = 0
    for part in map(str.strip, quoted.split(GAP)):
        if len(part.strip(" .,:;()")) > 1:
            if (found := text.find(part, at)) < 0:
                return False
            at = found + len(part)
    return True


def test_the_messages_are_found():
    assert len(sources()) > 250
    assert len(messages()) > 550
    assert {"cinema_verl/plugin.py", "cinema_verl/checks/machine.py", "cinema_verl/training/verdict.py"} <= {
        message.place.partition(":")[0] for message in messages()
    }


def test_every_message_that_can_be_met_is_quoted():
    known = [*QUOTED, *INTERNAL, *NO_ERROR]
    assert [message for message in messages() if not any(says(message.text, quoted) for quoted in known)] == []


def test_every_quotation_is_of_the_code_and_of_few_messages():
    wrong = {}
    for quoted in [*QUOTED, *INTERNAL, *NO_ERROR]:
        found = {message.text for message in messages() if says(message.text, quoted)}
        if words(quoted) < 2 or not 1 <= len(found) <= MOST:
            wrong[quoted] = len(found)
    assert wrong == {}
    assert {quoted: number for quoted, number in Counter(QUOTED).items() if number > 1} == {}


def test_every_anchor_says_something_beside_its_messages():
    entries = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    prose = [re.sub(r"```text\n.*?```|^## .*", "", entry, flags=re.DOTALL | re.MULTILINE) for entry in entries]
    assert [entry for entry in prose if len(entry.strip().splitlines()) < 2] == []


def test_messages_with_a_code_are_left_to_the_tables():
    assert "(data.md#reasons)" in PAGE
    assert "(data.md#faults)" in PAGE
