"""The method on handwritten digits, small enough for a CPU: data, a tiny model, a shipped policy, stub endpoints."""

from cinema_verl.utils.moved import moved_names

_PROGRAM = ("main", "train", "training_command", "stage_ends", "last_step", "records")
__getattr__ = moved_names(__name__, _PROGRAM, "cinema_verl.demo.__main__")
