"""What an adapter makes of a source's row: words and references to media, before any file is opened.

An adapter is a name, the files it reads, and one pure function from a row to a `Draft`. Opening images, cutting videos,
counting tokens and checking golds are the pipeline's work, the same for every source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cinema_verl.data.canonical import Rejected

FILE: Final = "_file"
"""Under this name `Adapter.convert` finds the file that a row is in."""


@dataclass(frozen=True, slots=True)
class Media:
    """One image or one video of a row.

    Attributes:
        kind: ``image``; ``video`` is a file that PyAV opens, or a folder of frames.
        path: Below the source's media root, as the row writes it; untrusted. Empty where `data` holds the file.
        data: The file's bytes, for sources that embed them.
        start, end: Seconds of a video that the question is about; None for all of it.
        to_end: Whether the last frame of a video must be among those that are shown.
        places: Where the same medium is in other layouts of the download; the first that is there is taken. A place may
            have its own `start` and `end`: a segment that was cut before has none.
    """

    kind: Literal["image", "video"]
    path: str = ""
    data: bytes | None = None
    start: float | None = None
    end: float | None = None
    to_end: bool = False
    places: tuple[Media, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """A row of a source, its fields found and its text in one dialect, before any file is opened.

    Attributes:
        source_id: The row's id in its source; ``uid`` becomes ``source/source_id``.
        split: ``train`` or ``test``.
        question: With one ``<image>`` for each medium, in order; a video has one, too.
        media: Images in order, or one video, which images may follow.
        options, answer_type, answer, aliases, tolerance, pass_rate, flags: As in `canonical.Question`.
        source: Part of the source to report separately (``m4_instruct/nlvr2``); empty for the adapter's own name.
        modality: Where the row states it: ``frames`` for images that are a video's; empty to count the images.
    """

    source_id: str
    split: str
    question: str
    media: tuple[Media, ...]
    answer_type: str
    answer: str
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    tolerance: float | None = None
    pass_rate: float | None = None
    flags: tuple[str, ...] = ()
    source: str = ""
    modality: str = ""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A source.

    Attributes:
        name: ``virl39k``; the data source's name, too.
        summary: One line: what it is, how large.
        license: As the source's card states it.
        patterns: Globs below the input directory for the files of rows (``*.parquet``); at least one must match. One
            that begins with ``!`` takes files out.
        otherwise: Globs that are tried where `patterns` find nothing: other layouts of the same rows.
        example: One made-up row, which ``--help`` shows.
        required: Fields that every row has, if only as null; a first row without one means the file is not this source.
        convert: Row -> draft. Raises `canonical.Rejected` for a row that cannot become a question; ``bad_record`` for
            one whose fields are missing or of another type.
        about: What ``--help`` says beside this: where it comes from, how its files must lie, what becomes of its rows.
            Usually the module's docstring.
        benchmark: Whether it is for evaluation, and not for training.
    """

    name: str
    summary: str
    license: str
    patterns: tuple[str, ...]
    example: Mapping[str, Any]
    required: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Draft]
    about: str | None = None
    benchmark: bool = False
    otherwise: tuple[str, ...] = ()

    def draft(self, row: Mapping[str, Any], file: str = "") -> Draft:
        """What `convert` makes of a row, whatever the row holds.

        Args:
            file: Where the row is, below the input; `convert` finds it as `FILE` of the row, because some sources say
                only there which task or split a row is of.

        Raises:
            Rejected: Also with ``bad_record`` where a required field is missing, and where `convert` fails on one of an
                unexpected type.
        """
        if missing := [name for name in self.required if name not in row]:
            raise Rejected("bad_record", f"no field {', '.join(map(repr, missing))}")
        try:
            return self.convert({**row, FILE: file} if file else row)
        except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise Rejected("bad_record", f"{type(error).__name__}: {error}") from error
