"""Decode and process a question's images once, not once for every rollout.

verl's agent loops run each of the G sessions of a prompt on its own: each decodes the same files, and runs the
processor three times over them (to build the prompt, to score, to store), which for four VGA images takes over 0.3 s of
one core for each rollout. The sessions of one question run concurrently in one worker, so they can share: the first one
does the work, the others wait for it and get the same objects. Nothing is kept after the question's last session.

What leaves the worker is shared, too. The images go to a rollout engine as one object of Ray's. Pixel values, which
are nearly all of what a trajectory takes in verl's transfer queue (25 MB for a megapixel), are stored with one
trajectory of the group; the others name it (`store_once`), and the training workers put them back (`with_pixels`).
"""

import asyncio
import weakref
from typing import Any, Final

import ray
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from cinema_verl.training.transfer import read_columns

PIXELS: Final = "pixel_values"
HOLDER: Final = "pixel_values_of"
"""Beside a trajectory's multimodal inputs: key of the row in the transfer queue that has the pixel values."""
MULTI_MODAL: Final = "multi_modal_inputs"
"""The column of what the processor makes of a trajectory's images."""


class SharedImages(list):
    """A question's decoded images, with the processor's features of them once they have been computed.

    On the wire to a rollout engine it is a plain list: the features stay here.

    Attributes:
        features: what the processor makes of the images, `pixel_values` (patches, values of a patch) among it.
        holder: key of the trajectory that is stored with the pixel values, from the first one that is.
    """

    features: dict[str, torch.Tensor] | None = None
    holder: str | None = None
    _sent: Any = None

    def to_send(self) -> Any:
        """The images as an argument of a Ray actor's method: one object for all sessions, which Ray resolves."""
        if not ray.is_initialized():
            return self
        if self._sent is None:
            self._sent = ray.put(list(self))
        return self._sent

    def store_once(self, key: str) -> dict[str, Any]:
        """The features to store for the trajectory `key`: pixel values with the first one only.

        A group's rows are cleared together, so a holder is there as long as one that names it.
        """
        self.holder = self.holder or key
        features = self.features or {}
        if PIXELS not in features:
            return dict(features)
        kept = {name: value for name, value in features.items() if name != PIXELS or key == self.holder}
        return {**kept, HOLDER: self.holder}

    def __reduce__(self) -> tuple[type, tuple[list]]:
        return list, (list(self),)


class SharedPrompt:
    """What the sessions of one question share.

    Attributes:
        media: the decoded images, as verl's agent loops have them.
        prompt_ids: the prompt's tokens.
        sessions: how many are at work.
        rows: what those that have ended have to store (`cinema_verl.training.agent_loop_manager`).
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.media: dict[str, Any] | None = None
        self.prompt_ids: list[int] | None = None
        self.sessions = 0
        self.rows: list[Any] = []

    @classmethod
    def of(cls, uid: str | None) -> "SharedPrompt":
        """The one that other sessions of the question hold in this process, or a new one.

        Args:
            uid: the prompt's; None for a session that shares nothing.
        """
        if uid is None:
            return cls()
        shared = _ALIVE.get(uid)
        if shared is None:
            shared = _ALIVE[uid] = cls()
        return shared


_ALIVE: weakref.WeakValueDictionary[str, SharedPrompt] = weakref.WeakValueDictionary()


def with_pixels(data: TensorDict) -> TensorDict:
    """Put pixel values back that are stored with another trajectory of the group.

    Args:
        data: a batch for a training worker, changed in place where needed.

    Returns:
        The same batch, each trajectory with all of its multimodal inputs; those of a group are the same tensors.

    Raises:
        KeyError: if a trajectory is not in the transfer queue whose pixel values are needed.
    """
    if MULTI_MODAL not in data:
        return data
    rows = [getattr(row, "data", row) for row in data.get(MULTI_MODAL)]
    named = {row[HOLDER] for row in rows if row and HOLDER in row}
    if not named:
        return data
    pixels = {row[HOLDER]: row[PIXELS] for row in rows if row and HOLDER in row and PIXELS in row}
    if elsewhere := sorted(named - pixels.keys()):  # balancing spreads a group over the ranks
        (holders,) = read_columns(elsewhere, "train", MULTI_MODAL)
        pixels |= {key: row[PIXELS] for key, row in zip(elsewhere, holders, strict=True)}
    whole = [
        {PIXELS: pixels[row[HOLDER]], **{name: value for name, value in row.items() if name != HOLDER}}
        if row and HOLDER in row
        else row
        for row in rows
    ]
    tu.assign_non_tensor_stack(data, MULTI_MODAL, whole)
    return data
