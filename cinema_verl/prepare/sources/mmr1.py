"""MMR1-RL: mathematical and logical problems over one image; rows as Geometry3K's."""

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
)
