"""MMR1-RL (MMR1/MMR1-RL): mathematical and logical problems over one image, in rows like Geometry3K's.

Reads the parquet with embedded images. Rows have no id, so it is made from their content.
"""

from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.sources.geometry3k import converter

ADAPTER = Adapter(
    name="mmr1",
    summary="MMR1-RL, 15 k problems over one image",
    license="apache-2.0",
    patterns=("**/*.parquet",),
    example={
        "images": [{"bytes": None, "path": "balance.png"}],
        "problem": "<image>How many cubes balance one ball?",
        "answer": "\\boxed{4}",
    },
    required=("images", "problem", "answer"),
    convert=converter("mmr1"),
    about=__doc__,
)
