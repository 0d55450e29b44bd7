"""The sessions of a question share its images, and nobody else does."""

import asyncio
import gc
import pickle

from cinema_verl.training.shared_vision import SharedImages, SharedPrompt


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
