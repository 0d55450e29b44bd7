"""Video-R1-COT-165k (Video-R1/Video-R1-data): the questions of Video-R1 that have a chain of thought.

Reads Video-R1-COT-165k.json. Only questions and answers are taken: the chain of thought has none of the five actions.
The same questions are in the 260k set: deduplicate if you mix the two.
"""

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
    about=__doc__,
)
