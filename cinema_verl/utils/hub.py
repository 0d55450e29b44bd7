"""A model by name: from this machine, or from the hub, and said within seconds where the hub cannot be reached.

The loaders of transformers and sentence-transformers try every file again and again, for minutes where an address does
not answer. So the hub is asked once, before they are.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

SECONDS: Final = 4.0
"""For the hub to answer, which takes it less than one. Our choice: with a training's imports, less than fifteen."""


class HubUnreachable(OSError):
    """A model is not on this machine, and the hub does not answer.

    Attributes:
        what: What is wrong.
        advice: What to do.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}. {advice[0].upper()}{advice[1:]}")
        self.what, self.advice = what, advice


def only_local(name: str, needs: str = "config.json") -> bool:
    """Whether a model is to be loaded from this machine alone, as ``local_files_only`` of the loaders takes it.

    True for a path, where ``HF_HUB_OFFLINE`` is set, and for a name that the cache has while the hub does not answer.

    Args:
        name: A folder, or a name on the hub.
        needs: The file by which the cache is known to have it.

    Raises:
        HubUnreachable: It is not on this machine, and the hub does not answer within `SECONDS`.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).expanduser().is_dir() or constants.HF_HUB_OFFLINE:
        return True
    try:
        cached = isinstance(try_to_load_from_cache(name, needs), str)
    except HFValidationError:
        return True  # a path, and no name of the hub's: the loader says that it is not there
    if not (problem := _problem()):
        return False
    if cached:
        return True
    raise HubUnreachable(
        f"{name} is no folder and not in this machine's cache, and the hub at {constants.ENDPOINT} does not answer "
        f"({problem})",
        f"give the folder of a model; or download it where there is a network (hf download {name}) and take the cache "
        "along (HF_HOME); or set a proxy (HTTPS_PROXY) or a mirror (HF_ENDPOINT)",
    )


def _problem() -> str:
    """Why the hub does not answer, "" where it does. In a thread, because looking up a name has no time limit."""
    from huggingface_hub import constants, get_session

    found: list[str] = []

    def ask() -> None:
        try:
            session: Any = get_session()
            session.head(constants.ENDPOINT, timeout=SECONDS)  # any answer will do
            found.append("")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=ask, name="hub", daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else f"nothing in {SECONDS:g} s"
