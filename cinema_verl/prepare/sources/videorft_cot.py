"""VideoRFT's CoT-102K: rows as Video-R1's, with a chain of thought (which is not read here)."""

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
)
