"""The rollout engine of transformers alone, and the same generation behind an OpenAI-compatible endpoint."""

from cinema_verl.utils.moved import moved_names

_ENGINE = ("ServerAdapter", "TransformersReplica", "TransformersServer", "server_name")
__getattr__ = moved_names(__name__, _ENGINE, "cinema_verl.rollout.engine")
