"""Geometry3K (hiyouga/geometry3k), as verl's own example uses it: a diagram, a short problem, an answer in LaTeX.

Reads train*.parquet with embedded images; validation and test are left alone. Rows have no id, so it is made from
their content.
"""

from collections.abc import Callable

from cinema_verl.prepare.draft import Adapter, Draft
from cinema_verl.prepare.sources import fields
from cinema_verl.prepare.sources.build import build


def converter(name: str) -> Callable[[fields.Row], Draft]:
    """For the source of that name, whose rows are ``problem``, ``answer`` and ``images``."""

    def convert(row: fields.Row) -> Draft:
        problem, answer, media = fields.text(row, "problem"), fields.text(row, "answer"), fields.pictures(row["images"])
        return build(
            source_id=fields.text(row, "id", fields.content_id(problem, answer, *media)),
            source=fields.sub_source(name, fields.text(row, "data_source", "")),
            question=problem,
            media=media,
            answer=answer,
        )

    return convert


ADAPTER = Adapter(
    name="geometry3k",
    summary="Geometry3K, 2.1 k training problems over one diagram",
    license="mit",
    patterns=("**/train*.parquet",),
    example={
        "images": [{"bytes": None, "path": "diagram.png"}],
        "problem": "<image>Find x.",
        "answer": "3 \\sqrt { 2 }",
    },
    required=("images", "problem", "answer"),
    convert=converter("geometry3k"),
    about=__doc__,
)
