"""Decode and process a question's images once, not once for every rollout.

verl's agent loops run each of the G sessions of a prompt on its own: each decodes the same files, and runs the
processor three times over them (to build the prompt, to score, to store), which for four VGA images takes over 0.3 s of
one core for each rollout. The sessions of one question run concurrently in one worker, so they can share: the first one
does the work, the others wait for it and get the same objects. Nothing is kept after the question's last session.
"""

import asyncio
import weakref
from typing import Any

import torch


class SharedImages(list):
    """A question's decoded images, with the processor's features of them once they have been computed.

    On the wire to a rollout engine it is a plain list: the features stay here.
    """

    features: dict[str, torch.Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple[list]]:
        return list, (list(self),)


class SharedPrompt:
    """What the sessions of one question share: decoded media, and the prompt's token ids."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.media: dict[str, Any] | None = None
        self.prompt_ids: list[int] | None = None

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
