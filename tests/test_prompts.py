"""The prompts: they speak of every tag, show a trajectory that is well formed, and never look like media to verl."""

import pytest

from cinema_verl import prompts
from cinema_verl.meta_action import ACTIONS, TAGS, parse
from cinema_verl.prompts import MODES, asked_in_mode, messages, removed_action, render, system_prompt


@pytest.mark.parametrize("mode", MODES)
def test_messages(mode: str) -> None:
    question = "Image 1: <image>\nImage 2: <image>\nWhich is brighter? {A} or {B}"
    system, user = messages(question, mode)
    assert user == {"role": "user", "content": question}
    assert system["role"] == "system"
    assert "{" not in system["content"]
    assert TAGS["answer"].open in system["content"]
    assert not any(media in system["content"] for media in ("<image>", "<video>", "<audio>"))


@pytest.mark.parametrize("mode", ["cinema", "compact"])
def test_meta_action_modes_name_every_action(mode: str) -> None:
    assert all(TAGS[name].open in system_prompt(mode) for name in ACTIONS)


def test_ablations_name_no_other_action() -> None:
    assert not any(TAGS[name].open in system_prompt("cot") for name in ("global", "focus", "hint"))
    assert not any(TAGS[name].open in system_prompt("direct") for name in ACTIONS if name != "answer")


def test_compact_is_one_line() -> None:
    assert "\n" not in system_prompt("compact")


def test_the_example_is_well_formed() -> None:
    example = system_prompt("cinema").split("For example:")[1]
    trajectory = parse(example)
    assert trajectory.is_well_formed(num_images=2), trajectory.faults
    assert trajectory.answer == "2"


def test_default_is_cinema() -> None:
    assert messages("q")[0]["content"] == system_prompt("cinema")


@pytest.mark.parametrize("media", ["<image>", "<video>", "<audio>"])
def test_media_in_a_template_is_refused(media: str) -> None:
    with pytest.raises(ValueError, match=media):
        render(f"Look at {media}.")


def test_every_mode_is_checked_for_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "render", lambda template: pytest.fail("rendered"))
    system_prompt.cache_clear()
    with pytest.raises(pytest.fail.Exception):
        system_prompt("cot")
    system_prompt.cache_clear()


def test_render() -> None:
    assert render(r"{think}x{/think} \boxed{} {1}") == r"<think>x</think> \boxed{} {1}"
    with pytest.raises(ValueError, match=r"\{thinking\} is no tag"):
        render("{thinking}")


@pytest.mark.parametrize("media", ["<video>", "<audio>"])
def test_a_question_holds_images_only(media: str) -> None:
    with pytest.raises(ValueError, match=media):
        messages(f"{media} What happens?")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="cinema, compact, cot, direct"):
        messages("q", "meta")
    with pytest.raises(TypeError, match="NoneType"):
        messages(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "answer"])
def test_an_action_can_be_taken_out(action: str) -> None:
    text = system_prompt(f"cinema_without_{action}")
    assert TAGS[action].open not in text
    assert all(TAGS[name].open in text for name in ACTIONS if name != action)
    example = parse(text.split("For example:")[1])
    assert example.is_well_formed(num_images=2), example.faults
    assert removed_action(f"cinema_without_{action}") == action


@pytest.mark.parametrize("mode", [None, "cinema", "compact", "cot", "direct"])
def test_other_modes_take_no_action_out(mode: str | None) -> None:
    assert removed_action(mode) is None


def test_a_question_is_asked_in_another_mode() -> None:
    user = {"role": "user", "content": "<image>What?"}
    system = {"role": "system", "content": system_prompt("cot")}
    assert asked_in_mode(messages("<image>What?", "cinema"), "cot") == [system, user]
    assert asked_in_mode([user], "cot") == [system, user]
    with pytest.raises(ValueError, match="unknown prompt mode 'socratic'; known: cinema, compact"):
        asked_in_mode([user], "socratic")


def test_a_mode_of_another_package(install) -> None:
    with pytest.raises(ValueError, match="unknown prompt mode 'brief'"):
        system_prompt("brief")
    code = "BRIEF = 'Think in {think}…{/think}, then {answer}…{/answer}.\\n'\n"
    install("brevity", {prompts.GROUP: {"brief": "brevity:BRIEF"}}, code)
    assert prompts.modes() == (*MODES, "brief")
    assert system_prompt("brief") == "Think in <think>…</think>, then <answer>…</answer>."
    assert messages("q", "brief")[0]["content"] == system_prompt("brief")
    assert removed_action("brief") is None
