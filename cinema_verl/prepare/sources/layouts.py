"""How the downloads of benchmarks lie on a disk: folders of videos, and what only a file's place says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from cinema_verl.prepare.draft import FILE, Media
from cinema_verl.prepare.sources import fields

# --- MVBench --------------------------------------------------------------------------------------------------------

MVBENCH_FOLDERS: Final = {
    ("star/Charades_v1_480", "star/Charades_segment"): "action_sequence action_prediction object_interaction",
    ("sta/sta_video", "sta/sta_video_segment"): "action_localization",
    ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"): "episodic_reasoning",
    ("perception/videos", ""): "action_count character_order object_shuffle state_change",
    ("clevrer/video_validation", ""): "counterfactual_inference moving_attribute moving_count moving_direction "
    "object_existence",
    ("ssv2_video", ""): "action_antonym",
    ("Moments_in_Time_Raw/videos", ""): "fine_grained_action",
    ("FunQA_test/test", ""): "unexpected_action",
    ("nturgbd", "nturgbd_convert"): "fine_grained_pose",
    ("scene_qa/video", ""): "scene_transition",
    ("vlnqa", ""): "egocentric_navigation",
}
"""Where full videos and segments of each task are, below video/."""
MVBENCH_TASKS: Final = {task: folders for folders, tasks in MVBENCH_FOLDERS.items() for task in tasks.split()}


def mvbench_places(name: str, task: str, start: float | None, end: float | None) -> Iterator[Media]:
    """Where a task's video may be: whole, or as the segment from `start` to `end`, in each layout of the archives."""
    full, cut = MVBENCH_TASKS.get(task, ("", ""))
    for root in ("video/", "", "video/data0613/", "data0613/") if full else ():
        yield Media("video", f"{root}{full}/{name}", start=start, end=end)
        if cut:
            yield Media("video", f"{root}{cut}/{name}")


# --- Video-MMMU -----------------------------------------------------------------------------------------------------

VIDEOMMMU_FOLDERS: Final = {
    "Art": "Art Art_Theory Design Music",
    "Business": "Accounting Economics Finance Manage Marketing",
    "Engineering": "Agriculture Architecture_and_Engineering Computer_Science Electronics Energy_and_Power Materials "
    "Mechanical_Engineering",
    "Humanities": "History Literature Psychology Sociology",
    "Medicine": "Basic_Medical_Science Clinical_Medicine Diagnostics_and_Laboratory_Medicine Pharmacy Public_Health",
    "Science": "Biology Chemistry Geography Math Physics",
}
VIDEOMMMU_TRACKS: Final = ("Perception", "Comprehension", "Adaptation")
_VIDEOMMMU_FOLDER_OF: Final = {
    subject: f"{folder}/" for folder, names in VIDEOMMMU_FOLDERS.items() for subject in names.split()
}


def videommmu_paths(name: str) -> Iterator[str]:
    """Where the video ``validation_Physics_2`` may be: ``Science/validation_Physics_2.mp4`` first."""
    folder = _VIDEOMMMU_FOLDER_OF.get("_".join(name.split("_")[1:-1]), "")
    for root in dict.fromkeys((folder, f"videos/{folder}", "", "videos/")):
        yield f"{root}{name}.mp4"


def videommmu_track(row: fields.Row) -> str:
    """The track of a question: its file's folder, or what the row says.

    Raises:
        Rejected: ``bad_record``: neither says it; the same id has a question in each track.
    """
    said = [*PurePosixPath(row.get(FILE, "")).parts, *(fields.text(row, name, "") for name in ("qa_type", "track"))]
    said.append(fields.text(row, "question_type", ""))
    for word in said:
        for track in VIDEOMMMU_TRACKS:
            if word.casefold().startswith(track.casefold()):
                return track
    raise fields.bad("qa_type", f"one of {', '.join(VIDEOMMMU_TRACKS)}, or a file in a folder of that name", said[-1])
