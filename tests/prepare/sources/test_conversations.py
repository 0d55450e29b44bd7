"""Chats: the first exchange, with the images that belong to it."""

import pytest

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Media
from cinema_verl.prepare.sources.conversations import first_exchange, only_request

IMAGES = tuple(Media("image", path=f"{n}.jpg") for n in range(3))


def chat(*said, names=("human", "gpt"), keys=("from", "value")):
    return [{keys[0]: names[i % 2], keys[1]: text} for i, text in enumerate(said)]


@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")])
@pytest.mark.parametrize("names", [("human", "gpt"), ("user", "assistant")])
def test_one_exchange_in_every_spelling(names, keys):
    turn = first_exchange(chat("<image> Who?", "Ann", names=names, keys=keys), IMAGES[:1])
    assert turn == ("<image> Who?", "Ann", IMAGES[:1], ())


def test_a_system_message_is_no_turn():
    said = [{"from": "system", "value": "Be short."}, *chat("Who?", "Ann")]
    assert first_exchange(said, IMAGES).question == "Who?"


def test_images_of_later_turns_are_left_to_them():
    turn = first_exchange(chat("<image> Who?", "Ann", "<image><image> And here?", "Bob"), IMAGES)
    assert turn.media == IMAGES[:1]
    assert turn.flags == ("first_of_2_turns",)


def test_images_that_no_turn_names_are_shown_with_the_first():
    assert first_exchange(chat("Who?", "Ann", "Why?", "So"), IMAGES).media == IMAGES


@pytest.mark.parametrize(
    "turns",
    [
        [],
        ["hello"],
        chat("Who?"),
        [{"from": "gpt", "value": "Ann"}, {"from": "human", "value": "Who?"}],
        [{"from": "narrator", "value": "x"}, {"from": "gpt", "value": "y"}],
        [{"from": "human", "value": ["x"]}, {"from": "gpt", "value": "y"}],
    ],
)
def test_what_is_no_chat(turns):
    with pytest.raises(Rejected, match="bad_record"):
        first_exchange(turns, IMAGES)


def test_a_request_is_one_turn_of_the_user():
    system = {"role": "system", "content": "x"}
    assert only_request([system, {"role": "user", "content": "y"}], "prompt") == "y"
    for turns in ([system], [{"role": "user", "content": "y"}] * 2):
        with pytest.raises(Rejected, match="prompt"):
            only_request(turns, "prompt")
