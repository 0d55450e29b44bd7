"""Video-R1-COT-165k: the questions of Video-R1 that have a chain of thought (which is not read here)."""

from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.sources.video_r1 import EXAMPLE, REQUIRED, converter

ADAPTER = Adapter(
    name="video_r1_cot",
    summary="Video-R1-COT-165k, questions over videos and images with the kind of answer stated",
    license="apache-2.0",
    patterns=("**/Video-R1-COT-165k*.json*",),
    example=EXAMPLE,
    required=REQUIRED,
    convert=converter("video_r1_cot"),
)
