"""MVBench (OpenGVLab/MVBench), for evaluation.

    python data_preprocess/mvbench.py --input /data/mvbench/json/action_count.json \\
        --media-root /data/mvbench/video/perception/videos --output outputs/mvbench/action_count

The rows of a task do not say in which folder its videos are: run once for each task, with its media root and an output
of its own. The gold is an option's text and becomes a letter; start and end cut the video; folders of frames are read,
too.
"""

from cinema_verl.prepare.command import script

if __name__ == "__main__":
    raise SystemExit(script("mvbench", __doc__))
