"""The words that a policy is given: one system prompt for each mode, kept as text files in ``templates/``.

The paper's prompts are not public; all of these are our choice, written from its description of the five
actions. Training, cold start and evaluation build their messages here, so that a model is asked the way it was
taught. Templates name the tags as ``{think}`` and ``{/think}``, which come from :mod:`cinema_verl.meta_action`.

Another installed package adds a mode through the entry-point group ``cinema_verl.prompt_modes``: the name is the
mode's, the value is where its template is, a text like those in ``templates/``.

    [project.entry-points."cinema_verl.prompt_modes"]
    brief = "my_package.prompts:BRIEF"
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from cinema_verl.meta_action import ACTIONS, ANSWER, TAGS
from cinema_verl.utils.extensions import ExtensionError, load, named

GROUP: Final = "cinema_verl.prompt_modes"
_WITHOUT: Final = {f"cinema_without_{action}": action for action in ACTIONS if action != ANSWER}

MODES: Final = ("cinema", "compact", "cot", "direct", *_WITHOUT)
"""The modes that ship with the package; `modes` has those of other packages, too.

``cinema``: the five actions and the format rule. ``compact``: one line, for models too small to read
instructions, which learn the actions from examples. ``cot`` and ``direct``: the ablations without
meta-actions, plain chain of thought (``think`` then ``answer``, which the same format rule accepts) and the
answer alone (which it never accepts). ``cinema_without_ACTION``: ``cinema`` with one action taken out; using it
breaks the format rule then."""

# verl splits message contents at these and expects as many images, videos and sounds as there are.
_IMAGE: Final = "<image>"
_SLOT = re.compile(r"\{(/?)([A-Za-z_]+)\}")
_PLACEHOLDER = re.compile(r"<(?:image|video|audio)>")


def modes() -> tuple[str, ...]:
    """The names of all modes: ``MODES``, then those that other installed packages add.

    Raises:
        ExtensionError: a package offers a mode that `render` refuses, is no text, or has the name of a shipped one.
    """
    return (*MODES, *_installed())


def _installed() -> dict[str, str]:
    """The prompts of the modes that other packages add, rendered."""
    prompts: dict[str, str] = {}
    for name, template in load(GROUP).items():
        try:
            if name in MODES:
                raise ValueError(f"the mode {name!r} ships with cinema-verl; use another name")
            if not isinstance(template, str) or not template.strip():
                raise ValueError(f"it is {template!r}, not a template's text")
            prompts[name] = render(template.strip())
        except ValueError as error:
            raise ExtensionError(f"{named(GROUP, name)}: {error}") from error
    return prompts


@lru_cache
def system_prompt(mode: str = "cinema") -> str:
    """The system prompt of a mode, one of `modes`.

    Raises:
        ValueError: an unknown mode.
        ExtensionError: see `modes`.
    """
    removed = removed_action(mode)
    if mode not in MODES:
        return _installed()[mode]
    name = "cinema" if removed else mode
    template = (files("cinema_verl") / "templates" / f"{name}.txt").read_text(encoding="utf-8").strip()
    # The template speaks of each action on lines of its own, in the list and in the example.
    kept = [line for line in template.splitlines() if not (removed and line.startswith(f"{{{removed}}}"))]
    return render("\n".join(kept))


def removed_action(mode: str | None) -> str | None:
    """The action that a prompt mode takes out, if it takes one out; None stands for the prompt as the data has it.

    Raises:
        ValueError: an unknown mode.
    """
    if mode is not None and mode not in MODES and mode not in modes():
        raise ValueError(f"unknown prompt mode {mode!r}; known: {', '.join(modes())}")
    return _WITHOUT.get(mode or "")


def asked_in_mode(prompt: Sequence[Mapping[str, Any]], mode: str) -> list[dict[str, Any]]:
    """The same conversation under the system prompt of another mode; one is put first where there was none.

    Raises:
        ValueError: an unknown mode.
    """
    rest = prompt[1:] if prompt and prompt[0].get("role") == "system" else prompt
    return [{"role": "system", "content": system_prompt(mode)}, *map(dict, rest)]


def render(template: str) -> str:
    """Fill the tags into a template; braces that do not look like a tag's name stay.

    Raises:
        ValueError: the template names an unknown tag, or holds a media placeholder, which verl would take for
            one of the question's images.
    """
    text = _SLOT.sub(_tag, template)
    if found := _PLACEHOLDER.search(text):
        raise ValueError(f"prompt template holds {found.group()}, which stands for media; write 'Image 2' instead")
    return text


def _tag(slot: re.Match[str]) -> str:
    closing, name = slot.groups()
    if name not in TAGS:
        raise ValueError(f"prompt template: {slot.group()} is no tag; known: {', '.join(TAGS)}")
    return TAGS[name].close if closing else TAGS[name].open


def messages(question: str, mode: str = "cinema") -> list[dict[str, str]]:
    """The chat messages for a question: system, then user; contents are plain strings.

    Args:
        question: the question with one ``<image>`` for each of its images; it becomes the user message as it is.
        mode: one of `modes`.

    Raises:
        TypeError: the question is not a str.
        ValueError: an unknown mode, or a ``<video>`` or ``<audio>`` in the question: videos are frames here.
    """
    if not isinstance(question, str):
        raise TypeError(f"the question must be str, got {type(question).__name__}")
    other = next((found for found in _PLACEHOLDER.findall(question) if found != _IMAGE), None)
    if other:
        raise ValueError(f"the question holds {other}; extract the frames and write {_IMAGE} for each of them")
    return [{"role": "system", "content": system_prompt(mode)}, {"role": "user", "content": question}]
