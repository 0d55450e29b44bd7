"""The sessions of a question share its images, and nobody else does."""

import asyncio
import gc
import pickle

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.model import extract_multi_modal_inputs

from cinema_verl.training import shared_vision
from cinema_verl.training.shared_vision import SharedImages, SharedPrompt, with_pixels


def test_sessions_of_one_question_meet_and_others_do_not():
    first = SharedPrompt.of("q1")
    assert SharedPrompt.of("q1") is first
    assert SharedPrompt.of("q2") is not first
    assert SharedPrompt.of(None) is not SharedPrompt.of(None)


def test_a_question_is_forgotten_with_its_last_session():
    held = SharedPrompt.of("q3")
    held.prompt_ids = [1]
    del held
    gc.collect()
    assert SharedPrompt.of("q3").prompt_ids is None


def test_on_the_wire_images_are_a_plain_list_without_features():
    images = SharedImages(["a", "b"])
    images.features = {"pixel_values": "large"}
    sent = pickle.loads(pickle.dumps(images))
    assert type(sent) is list
    assert sent == ["a", "b"]


class CountingLoop:
    """The two methods that verl's loop offers, counting how often the real work is done."""

    decoded = rendered = 0

    async def process_multi_modal_info(self, messages):
        await asyncio.sleep(0)
        CountingLoop.decoded += 1
        return {"images": ["image of " + messages[0]["content"]]}

    async def ct_build_initial_tokens(self, messages, *args, **kwargs):
        await asyncio.sleep(0)
        CountingLoop.rendered += 1
        return [len(messages[0]["content"])]


def test_eight_sessions_decode_and_render_once(monkeypatch):
    import verl  # noqa: F401  registers the plugin, which makes torchvision importable

    from cinema_verl.training.agent_loop import MetaActionAgentLoop

    class Loop(MetaActionAgentLoop):
        def __init__(self, uid):
            self.shared = SharedPrompt.of(uid)

    base = MetaActionAgentLoop.__bases__[0]  # verl's single-turn loop, whose work is counted
    for name in ("process_multi_modal_info", "ct_build_initial_tokens"):
        monkeypatch.setattr(base, name, getattr(CountingLoop, name))

    async def sessions():
        loops = [Loop("q4") for _ in range(8)]
        messages = [{"role": "user", "content": "two images"}]
        media = await asyncio.gather(*[loop.process_multi_modal_info(messages) for loop in loops])
        prompts = await asyncio.gather(*[loop.ct_build_initial_tokens(messages) for loop in loops])
        return media, prompts

    media, prompts = asyncio.run(sessions())
    assert CountingLoop.decoded == CountingLoop.rendered == 1
    assert all(each["images"] is media[0]["images"] for each in media)
    assert isinstance(media[0]["images"], SharedImages)
    prompts[0].append(99)
    assert prompts[1] == [10], "a session may change its own prompt only"


def features(seed):
    """Of a question's images: four patches of three values, one image of 1 x 2 x 2 patches."""
    pixels = torch.arange(12.0).view(4, 3) + seed
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]])}


def stored(question, sessions):
    """What is stored for the sessions of a question, by key, in the order in which they end."""
    images = SharedImages(["picture"])
    images.features = features(100 * question)
    return {f"q{question}_{session}_0": images.store_once(f"q{question}_{session}_0") for session in sessions}


def batch_of(rows):
    data = TensorDict({"input_ids": torch.zeros(len(rows), 2)}, batch_size=len(rows))
    tu.assign_non_tensor_stack(data, "multi_modal_inputs", rows)
    return data


def plain_rows(data):
    return [getattr(row, "data", row) for row in data["multi_modal_inputs"]]


def test_pixels_are_stored_with_the_first_trajectory_only():
    rows = stored(1, [2, 0, 1])
    assert [key for key, row in rows.items() if "pixel_values" in row] == ["q1_2_0"]
    assert all("image_grid_thw" in row for row in rows.values()), "positions are computed from it"
    again = SharedImages(["picture"])
    again.features = {"image_grid_thw": torch.tensor([[1, 2, 2]])}
    assert again.store_once("key").keys() == {"image_grid_thw"}, "another kind of features is stored whole"


@pytest.mark.parametrize("part", [range(6), [0], [5, 1, 3], [2]], ids=str)
def test_the_model_sees_what_was_stored_whole(part, monkeypatch):
    """A rank's part of a batch of two groups, with and without the holders in it, against verl's own rows."""
    queue = stored(1, [1, 0, 2]) | stored(2, [0, 1, 2])
    keys = sorted(queue)
    asked = []

    def read_columns(wanted, partition, *names):
        asked.append(wanted)
        assert (partition, names) == ("train", ("multi_modal_inputs",))
        return [[queue[key] for key in wanted]]

    monkeypatch.setattr(shared_vision, "read_columns", read_columns)
    here = [keys[i] for i in part]
    data = with_pixels(batch_of([queue[key] for key in here]))
    seen = extract_multi_modal_inputs(data["multi_modal_inputs"])
    whole = extract_multi_modal_inputs([features(100 * int(key[1])) for key in here])
    assert seen.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(seen[name], value)
    assert not {key for wanted in asked for key in wanted} & set(here), "what is here is not fetched"


def test_rows_of_verls_own_and_of_text_alone_stay_as_they_are():
    for rows in ([features(0), features(1)], [{}, {}]):
        data = batch_of(rows)
        assert with_pixels(data) is data
        assert [row.keys() for row in plain_rows(data)] == [row.keys() for row in rows]
    plain = TensorDict({"input_ids": torch.zeros(2, 2)}, batch_size=2)
    assert with_pixels(plain).keys() == {"input_ids"}


def test_a_holder_that_is_gone_is_an_error(monkeypatch):
    def read_columns(*_):
        raise KeyError("the transfer queue lacks rows")

    monkeypatch.setattr(shared_vision, "read_columns", read_columns)
    first, second = stored(1, [0, 1]).values()
    with pytest.raises(KeyError):
        with_pixels(batch_of([second]))
    assert plain_rows(with_pixels(batch_of([first])))[0].keys() == features(0).keys()


def test_images_are_sent_as_one_object(monkeypatch):
    put = []
    monkeypatch.setattr(shared_vision.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(shared_vision.ray, "put", lambda value: put.append(value) or "reference")
    images = SharedImages(["a", "b"])
    assert [images.to_send() for _ in range(8)] == ["reference"] * 8
    assert put == [["a", "b"]]
