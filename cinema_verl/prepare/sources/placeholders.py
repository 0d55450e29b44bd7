"""Every source's way to say "here is an image", turned into one ``<image>`` for each medium, in order.

Sources write ``<image>``, ``<ImageHere>``, ``<video>``, ``<image_2>``, ``<image 2>``, ``<image2>``, or nothing at all;
some cite an image twice, or out of order, or inside the options. Which tag means which image is never guessed: a text
that does not fit its number of images is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cinema_verl.data.canonical import IMAGE, LETTERS, Rejected

PLACEHOLDER: Final = re.compile(
    r"<\s?/?\s?(?:image|img|video|audio)(?:\s?here|[\s_-]?placeholder)?[\s_-]?(?P<number>\d{0,4})\s?/?\s?>",
    re.IGNORECASE,
)
"""A tag of any dialect; ``number`` is empty for one that stands for the next image."""


def lay_out(
    question: str, count: int, options: Sequence[str] = (), *, composite: bool = False
) -> tuple[str, tuple[str, ...]]:
    """The question and its options with exactly `count` ``<image>`` in the question, in the order of the media.

    * Bare tags, as many as there are media: they stay where they are.
    * Numbered tags, each image once and in order: each becomes ``<image>`` where it stands.
    * Numbered tags in any other way (twice, out of order, not all): the images come first, a line each, and every
      tag becomes the words "Image 2". Beside a full set of bare tags numbered ones become words, too.
    * No tag at all: the images come first.
    * An option that is or holds an image: the question lists the options, "A. Image 3: <image>".

    Args:
        question: The source's text, of any dialect.
        count: Media of the row: images, or 1 for a video.
        options: Option texts without their letters.
        composite: The row's one file shows all the images that the text cites: citations become words.

    Raises:
        Rejected: ``placeholders`` if the tags do not fit `count`; ``no_images``; ``no_question``.
    """
    if count < 1:
        raise Rejected("no_images", "the row has neither image nor video")
    texts = [question, *options]
    tags = [(match["number"], match[0]) for text in texts for match in PLACEHOLDER.finditer(text)]
    if sound := next((tag for _, tag in tags if "audio" in tag.lower()), None):
        raise Rejected("placeholders", f"the text holds {sound}, and there is no sound")
    if not any(character.isalnum() for character in PLACEHOLDER.sub("", question)):
        raise Rejected("no_question", f"only placeholders: {question[:80]!r}")
    bare = sum(not number for number, _ in tags)
    cited = [int(number) for number, _ in tags if number]
    if outside := [number for number in cited if not 1 <= number <= count and not composite]:
        raise Rejected("placeholders", f"the text cites image {outside[0]} of {count}")
    if bare not in (0, count):
        raise Rejected("placeholders", f"{bare} placeholder(s) for {count} image(s)")
    in_place = bool(bare) or (cited == list(range(1, count + 1)) and not composite)
    number = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal number
        if match["number"] and (bare or not in_place):
            return f"Image {int(match['number'])}"
        number += 1
        return IMAGE

    question = PLACEHOLDER.sub(replace, question).strip()
    first_of_options = number + 1
    laid = [PLACEHOLDER.sub(replace, option).strip() for option in options]
    if number >= first_of_options:
        question, laid = _list_options(question, laid, first_of_options)
    if not in_place:
        shown = [f"Image {i}: {IMAGE}" for i in range(1, count + 1)] if count > 1 else [IMAGE]
        question = "\n".join([*shown, question])
    return _checked(question, count, laid), tuple(laid)


def in_words(text: str) -> str:
    """The text with "Image 2" for each numbered tag, for texts whose tags are no place for the row's media."""
    return PLACEHOLDER.sub(lambda match: f"Image {int(match['number'])}" if match["number"] else match[0], text)


def without_stale(text: str, last: int) -> str:
    """The text without numbered tags of images that no row can have: ``<img_4421>``, a number of another data set."""
    return PLACEHOLDER.sub(lambda match: "" if match["number"] and int(match["number"]) > last else match[0], text)


def cited(text: str) -> set[int]:
    """The numbers of the images that numbered tags name."""
    return {int(match["number"]) for match in PLACEHOLDER.finditer(text) if match["number"]}


def _list_options(question: str, options: list[str], number: int) -> tuple[str, list[str]]:
    """The options' images move into the question, behind the name by which the option is known."""
    lines, names = [], []
    for letter, option in zip(LETTERS, options, strict=False):
        shown = name = option
        for _ in range(option.count(IMAGE)):
            shown = shown.replace(IMAGE, f"Image {number}:\0", 1)
            name = name.replace(IMAGE, f"Image {number}", 1)
            number += 1
        lines.append(f"{letter}. {shown}".replace("\0", f" {IMAGE}"))
        names.append(name)
    return "\n".join([question, *lines]), names


def _checked(question: str, count: int, options: Sequence[str]) -> str:
    """Replacing can make a tag out of what stood around one (``<ima<image_1>ge>``): such a text is refused."""
    found = [match[0] for match in PLACEHOLDER.finditer("\n".join([question, *options]))]
    if found != [IMAGE] * count:
        raise Rejected("placeholders", f"placeholders inside placeholders: {question[:80]!r}")
    return question
