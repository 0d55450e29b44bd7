"""VideoRFT's CoT-102K (QiWang98/VideoRFT-Data): videos and images, in rows like Video-R1's.

Only questions and answers are taken: the chain of thought has none of the five actions.
"""

from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.sources.video_r1 import EXAMPLE, REQUIRED, converter

ADAPTER = Adapter(
    name="videorft_cot",
    summary="VideoRFT-Data-CoT, 102 k questions over videos and images, rows as Video-R1's",
    license="apache-2.0",
    patterns=("**/*CoT*.json*",),
    example=EXAMPLE,
    required=REQUIRED,
    convert=converter("videorft_cot"),
    about=__doc__,
)
