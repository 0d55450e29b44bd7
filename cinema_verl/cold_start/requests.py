"""What the cold start asks: its settings, its prompts, and the calls made from them.

The paper gives neither prompts nor numbers of draws; the choices made here are marked, with their reasons.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

from cinema_verl import prompts
from cinema_verl.cold_start.retrieval import SIMILARITIES
from cinema_verl.cold_start.tree import Path, SampledTrajectory
from cinema_verl.data.canonical import IMAGE, ImageRef, Question
from cinema_verl.endpoint.ledger import Call
from cinema_verl.meta_action import ANSWER, GLOBAL, TAGS
from cinema_verl.prompts import messages, removed_action, render, system_prompt
from cinema_verl.utils.arguments import check_least
from cinema_verl.utils.native_reasoning import NATIVE_REASONING
from cinema_verl.utils.stable_random import stable_hash

NO_SYSTEM: Final = "none"
"""Prompt mode without a system prompt, for policies that already know the format (the shipped digits policy)."""
COT_PATH: Final[Path] = ("think", ANSWER)

# Our choice: the paths that the teacher is asked to follow if the student has shown no other. They are short and long,
# and begin with each action; questions start at different places of the list, so that no path becomes everybody's.
_STANDARD_PATHS: Final[tuple[Path, ...]] = tuple(
    (*names, ANSWER)
    for names in (
        (GLOBAL, "focus", "think"),
        ("focus", "think"),
        ("hint", "focus", "think"),
        ("think",),
        ("focus", "hint", "think"),
        (GLOBAL, "think"),
        ("hint", "think"),
    )
)


def modes() -> tuple[str, ...]:
    """The modes of `cinema_verl.prompts`, but for ``direct``, whose reply has no path; and ``none``.

    Raises:
        ExtensionError: See `cinema_verl.prompts.modes`.
    """
    return (*(mode for mode in prompts.modes() if mode != "direct"), NO_SYSTEM)


@dataclass(frozen=True)
class SamplingSettings:
    """What is asked, and how often. Results with other settings are kept apart.

    Attributes:
        mode: Prompt of the student and the SFT rows: one of `modes`. ``cot`` is the ablation: no drafts, the teacher
            thinks and answers, one trajectory per question. ``cinema_without_ACTION`` is another: neither model is told
            of the action, and a trajectory that uses it breaks the format rule.
        trajectories: Trajectories per question. The paper has 2; 1 is its ablation, without a second path.
        similarity: What retrieval compares: one of `retrieval.SIMILARITIES`. The paper does not say.
        drafts: Draws of the student. Our choice: 4 show two or three paths, at a quarter of an RL group's price.
        draft_temperature: Our choice: 1, the student's own distribution, because the tree needs variety.
        draft_tokens: Most tokens of a draft. Our choice: about five times a usual trajectory.
        refinements: Most draws of the teacher until one follows the path. Our choice: a strong teacher that has failed
            three times will fail again.
        explorations: Most other paths that the teacher is asked to follow if no second one was sampled. Our choice:
            each costs a call of the teacher.
        teacher_temperature: Our choice: 0.7, so that a second draw differs from the first and is seldom worse.
        teacher_tokens: Most tokens of a refinement. Our choice: as for drafts, with room for a verbose teacher.
        seeds: Send a ``seed`` made of question and draw, with which the same server gives the same replies again. Not
            every endpoint knows the field, and vLLM samples a little slower with it.
        student_native_reasoning, teacher_native_reasoning: What is declared of each model's own reasoning: one of
            `utils.native_reasoning.NATIVE_REASONING`. Our choice: "none", for the paper's models do not reason so.
        student_extra_body, teacher_extra_body: A JSON object whose fields are added to each request: what an endpoint
            knows beside the common fields, such as ``{"reasoning_effort": "low"}``.
        min_pixels, max_pixels: Limits of each image's area in the rows for verl. Those of `prepare.convert`.
    """

    mode: str = "cinema"
    trajectories: int = 2
    similarity: str = "text"
    drafts: int = 4
    draft_temperature: float = 1.0
    draft_tokens: int = 1024
    refinements: int = 3
    explorations: int = 2
    teacher_temperature: float = 0.7
    teacher_tokens: int = 2048
    seeds: bool = True
    student_native_reasoning: str = "none"
    teacher_native_reasoning: str = "none"
    student_extra_body: str = "{}"
    teacher_extra_body: str = "{}"
    min_pixels: int = 3_136
    max_pixels: int = 602_112

    def __post_init__(self) -> None:
        if self.mode not in modes():
            raise ValueError(f"unknown mode {self.mode!r}; known: {', '.join(modes())}")
        if self.similarity not in SIMILARITIES:
            raise ValueError(f"unknown similarity {self.similarity!r}; known: {', '.join(SIMILARITIES)}")
        if self.trajectories not in (1, 2):
            raise ValueError(f"trajectories must be 1 or 2, and is {self.trajectories}")
        check_least(self, _LEAST)
        for rule in (self.student_native_reasoning, self.teacher_native_reasoning):
            if rule not in NATIVE_REASONING:
                raise ValueError(f"unknown rule for native reasoning {rule!r}; known: {', '.join(NATIVE_REASONING)}")
        for who, text in (("student", self.student_extra_body), ("teacher", self.teacher_extra_body)):
            _extra_body(who, text)
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(f"need 0 < min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")

    @property
    def is_cot(self) -> bool:
        return self.mode == "cot"

    @property
    def removed(self) -> str | None:
        """The action that the mode takes out, if it takes one out."""
        return None if self.mode == NO_SYSTEM else removed_action(self.mode)

    @property
    def wanted(self) -> int:
        """Trajectories per question. Plain chain of thought has one path only."""
        return 1 if self.is_cot else self.trajectories


_LEAST: Final = {
    **dict.fromkeys(("drafts", "draft_tokens", "refinements", "teacher_tokens"), 1),
    **dict.fromkeys(("draft_temperature", "explorations", "teacher_temperature"), 0),
}
_OWN_FIELDS: Final = ("model", "messages", "temperature", "max_tokens", "max_completion_tokens", "seed", "n", "stream")
"""Fields that an extra body may not have: they have options, or replies could not be read with them."""


def _extra_body(who: str, text: str) -> dict[str, Any]:
    """The fields that are added to a request.

    Raises:
        ValueError: The text is not a JSON object, or has a field of `_OWN_FIELDS`.
    """
    example = f'--{who}-extra-body \'{{"reasoning_effort": "low"}}\''
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"the extra body of the {who} is not JSON ({error}): give an object, as in {example}"
        ) from error
    if not isinstance(body, dict):
        raise ValueError(f"the extra body of the {who} is not a JSON object: give one, as in {example}")
    if own := [name for name in _OWN_FIELDS if name in body]:
        raise ValueError(f"the extra body of the {who} has {', '.join(own)}, which has an option or a fixed value")
    return body


# --- Prompts -----------------------------------------------------------------------------------------------


def policy_messages(question: Question, mode: str) -> list[dict[str, str]]:
    """The prompt of the policy: the same for the student, the SFT rows and the RL rows."""
    if mode == NO_SYSTEM:
        return messages(question.prompt)[1:]
    return messages(question.prompt, mode)


@lru_cache
def _teacher_system(mode: str) -> str:
    words = (files("cinema_verl") / "templates" / "teacher.txt").read_text(encoding="utf-8").strip()
    return f"{system_prompt(mode)}\n\n{render(words)}"


def path_line(path: Path) -> str:
    """The last line of the teacher's prompt, which names the path."""
    return "Path: " + " ".join(f"{TAGS[name].open}…{TAGS[name].close}" for name in path)


def teacher_messages(question: Question, path: Path, settings: SamplingSettings) -> list[dict[str, str]]:
    """The teacher's prompt. It does not show the draft: an incorrect one would mislead, a correct one be copied."""
    return [
        {"role": "system", "content": _teacher_system(settings.mode if settings.removed else "cinema")},
        {"role": "user", "content": f"{question.prompt}\n\n{path_line(path)}"},
    ]


def with_images(chat: Sequence[dict[str, str]], images: Sequence[ImageRef]) -> list[dict[str, Any]]:
    """Messages in which a part with the image's digest replaces each ``<image>``."""
    remaining = iter(images)
    result: list[dict[str, Any]] = []
    for message in chat:
        texts = message["content"].split(IMAGE)
        parts: list[dict[str, str]] = []
        for number, text in enumerate(texts):
            if number:
                parts.append({"type": "image", "sha256": next(remaining).sha256})
            if text:
                parts.append({"type": "text", "text": text})
        result.append({"role": message["role"], "content": parts if len(texts) > 1 else message["content"]})
    return result


# --- The calls ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calls:
    """Makes the calls of a run. `student` and `teacher` are the models' names."""

    settings: SamplingSettings
    student: str
    teacher: str

    def draft(self, question: Question, draw: int) -> Call:
        chat = with_images(policy_messages(question, self.settings.mode), question.images)
        settings = self.settings
        sampling = self._sampling(settings.draft_temperature, settings.draft_tokens, question.uid, draw)
        extra = _extra_body("student", settings.student_extra_body)
        return Call("draft", self.student, chat, sampling | extra, draw)

    def refine(self, question: Question, path: Path, draw: int) -> Call:
        return self._along("refine", question, path, draw)

    def explore(self, question: Question, path: Path) -> Call:
        return self._along("explore", question, path, 0)

    def _along(self, purpose: str, question: Question, path: Path, draw: int) -> Call:
        settings = self.settings
        chat = policy_messages(question, "cot") if settings.is_cot else teacher_messages(question, path, settings)
        sampling = self._sampling(settings.teacher_temperature, settings.teacher_tokens, question.uid, draw)
        extra = _extra_body("teacher", settings.teacher_extra_body)
        return Call(purpose, self.teacher, with_images(chat, question.images), sampling | extra, draw)

    def _sampling(self, temperature: float, tokens: int, uid: str, draw: int) -> dict[str, Any]:
        # Not from the draw alone: with one seed for all questions, all of them would begin with the same action.
        seed = {"seed": stable_hash(f"{uid}#{draw}") % 2**31} if self.settings.seeds else {}
        return {"temperature": temperature, "max_tokens": tokens, **seed}


def other_paths(
    samples: Sequence[SampledTrajectory], refined: Path, num_images: int, uid: str, removed: str | None = None
) -> list[Path]:
    """Paths to explore, best first: those of the student's drafts, then standard ones, starting where the uid decides.

    Over a single image, no path contains Global. No path contains the action `removed`.
    """
    own = [sample.path for sample in samples if sample.usable]
    start = stable_hash(uid) % len(_STANDARD_PATHS)
    rotated = _STANDARD_PATHS[start:] + _STANDARD_PATHS[:start]
    standard = [tuple(name for name in path if name != removed) for path in rotated]
    return [
        path
        for path in dict.fromkeys((*own, *standard))
        if path not in (refined, (ANSWER,)) and not (num_images == 1 and GLOBAL in path)
    ]
