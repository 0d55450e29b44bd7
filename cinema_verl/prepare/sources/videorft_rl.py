"""VideoRFT's RL-310K (QiWang98/VideoRFT-Data): videos and images, in rows like Video-R1's.

Each row states the kind of its answer. Videos become frames.
"""

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
    about=__doc__,
)
