"""A stop reason is the word that stands in files, wherever a plain string would be."""

import json

import orjson
import pytest

from cinema_verl.runs.stop_reason import StopReason


@pytest.mark.parametrize("reason", StopReason)
def test_a_member_is_its_word(reason):
    word = reason.name.lower()
    assert reason == word
    assert {reason: 1}[word] == 1
    assert f"{reason}" == str(reason) == "%s" % reason == word  # noqa: UP031
    assert json.dumps({reason: reason}) == json.dumps({word: word})
    assert orjson.dumps([reason]) == orjson.dumps([word])
    assert StopReason.of(word) is reason
    assert reason.metric == f"cinema/stop/{word}"


@pytest.mark.parametrize("word", ["stopped", "ANSWER", "", None, 3, ["answer"]])
def test_any_other_word_is_unknown(word):
    assert StopReason.of(word) is StopReason.UNKNOWN
