"""What adapters call: from a source's words to a draft, with placeholders laid out, options cleaned, the gold read."""

from __future__ import annotations

from collections.abc import Sequence

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.draft import Draft, Media
from cinema_verl.prepare.sources import gold_answers, placeholders
from cinema_verl.prepare.sources import options as choices


def build(
    *,
    source_id: str,
    question: str,
    media: tuple[Media, ...],
    answer: str | Sequence[str],
    options: Sequence[str] = (),
    answer_type: str = "",
    tolerance: float | None = None,
    max_words: int = gold_answers.MAX_WORDS,
    composite: bool = False,
    split: str = "train",
    pass_rate: float | None = None,
    flags: tuple[str, ...] = (),
    source: str = "",
) -> Draft:
    """Make a draft of a row's fields.

    Args:
        question: In the source's dialect.
        answer: The gold as the source writes it; a list of several ways to say it.
        options: With or without their letters; () if there are none or the question lists them.
        answer_type: Where the source states it; "" infers it by the rules of `gold_answers.read`.
        max_words: Of a gold that is compared word for word.
        composite: One file shows all the images that the text cites.
        source_id, media, tolerance, split, pass_rate, flags, source: As in `Draft`.

    Raises:
        Rejected: by name, for a row that cannot become a verifiable question.
    """
    if not source_id.strip():
        raise Rejected("bad_record", "the row's id is empty")
    if options and choices.are_letters(options):
        named = ", ".join(option.strip(" .()") for option in options)
        question, options = f"{question}\nChoices, shown in the image: {named}", ()
        answer_type, flags = answer_type or "mcq", (*flags, "choices_in_image")
    texts = choices.clean(options) if options else ()
    question, texts = placeholders.lay_out(question, len(media), texts, composite=composite)
    read = gold_answers.read if isinstance(answer, str) else gold_answers.one_of
    gold = read(
        answer,  # type: ignore[arg-type]
        question=question,
        options=texts,
        answer_type=answer_type,
        tolerance=tolerance,
        max_words=max_words,
    )
    return Draft(
        source_id=source_id,
        split=split,
        question=question,
        media=media,
        options=gold.options,
        answer_type=gold.answer_type,
        answer=gold.answer,
        aliases=gold.aliases,
        tolerance=gold.tolerance,
        pass_rate=pass_rate,
        flags=flags,
        source=source,
    )
