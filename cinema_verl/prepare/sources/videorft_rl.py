"""VideoRFT's RL-310K: rows as Video-R1's."""

from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.sources.video_r1 import EXAMPLE, REQUIRED, converter

ADAPTER = Adapter(
    name="videorft_rl",
    summary="VideoRFT-Data-RL, 310 k questions over videos and images, rows as Video-R1's",
    license="apache-2.0",
    patterns=("**/*RL*.json*",),
    example=EXAMPLE,
    required=REQUIRED,
    convert=converter("videorft_rl"),
)
