"""Retrieval: the walk by hand, pooling by hand, and a real encoder."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.cold_start.retrieval import PACKAGED_ENCODER, Encoder, EncoderError, embed, explain, pool, walk
from cinema_verl.cold_start.tree import SampledTrajectory, read
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.meta_action import parse

IMAGE = ImageRef("/a.png", 28, 28, "0" * 64, "0" * 16)
QUESTION = Question(
    "q", "made", "0", "train", "none", "multi", "<image><image> which?", (IMAGE, IMAGE), "mcq", "B",
    options=("red", "green"),
)  # fmt: skip


def sample(path: str, answer: str = "B", correct: bool | None = None) -> SampledTrajectory:
    text = "".join(f"<{name}>{name} words</{name}>" for name in path.split()) + f"<answer>{answer}</answer>"
    found = read(path, text, QUESTION)
    return found if correct is None and answer != "?" else SampledTrajectory(path, text, parse(text), (), None)


def at(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane: their cosine is that of the angle between them."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_walk_starts_at_the_least_similar_and_takes_the_first_correct_one_on_another_path():
    samples = [
        sample("focus think"),  # 0: refined
        sample("hint"),  # 1: correct, 60 degrees
        sample("global think", "A"),  # 2: incorrect, 150
        sample("focus think"),  # 3: correct, same path, 120
        sample("think"),  # 4: correct, 90: the one
        sample("hint think"),  # 5: correct, 30
    ]
    visits = walk(samples, 0, at(0, 60, 150, 120, 90, 30))
    assert [(visit.index, visit.verdict) for visit in visits] == [(2, "incorrect"), (3, "same path"), (4, "chosen")]
    assert [visit.similarity for visit in visits] == pytest.approx([-(3**0.5) / 2, -0.5, 0.0], abs=1e-6)
    assert explain(visits) == "cosine 0.000 to the refinement; 2 less similar: -0.866 incorrect, -0.500 same path"


def test_a_second_path_that_is_least_similar_needs_no_excuse():
    visits = walk([sample("hint"), sample("focus")], 1, at(60, 0))
    assert explain(visits) == "cosine 0.500 to the refinement, the least similar"


def test_without_a_correct_one_on_another_path_all_are_visited_and_none_is_chosen():
    samples = [sample("focus"), sample("focus"), sample("hint", "A"), sample("think", "?")]
    assert [visit.verdict for visit in walk(samples, 0, at(0, 10, 20, 30))] == ["not judged", "incorrect", "same path"]
    assert walk([sample("focus")], 0, at(0)) == []


def test_equal_cosines_go_by_the_order_of_sampling():
    samples = [sample("hint"), sample("focus"), sample("think")]
    assert walk(samples, 1, at(90, 0, -90))[-1].index == 0
    noise = at(90, 0, 90 + 1e-5)  # below the sixth decimal
    assert walk(samples, 1, noise)[-1].index == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["focus", "hint", "think", "focus think"]), st.sampled_from("AB"), st.integers(0, 359)
        ),
        min_size=1,
        max_size=10,
    )
)
def test_the_chosen_is_the_least_similar_of_all_that_would_do(drawn):
    samples = [sample("focus think"), *(sample(path, answer) for path, answer, _ in drawn)]
    vectors = at(0, *(angle for *_, angle in drawn))
    visits = walk(samples, 0, vectors)
    cosine = np.round(vectors @ vectors[0], 6)
    would_do = [i for i, each in enumerate(samples) if each.correct and each.path != samples[0].path]
    chosen = [visit.index for visit in visits if visit.verdict == "chosen"]
    if not would_do:
        assert not chosen
        assert len(visits) == len(drawn)
        return
    assert chosen == [visits[-1].index]
    assert cosine[chosen[0]] == min(cosine[i] for i in would_do)
    assert [visit.similarity for visit in visits] == sorted(visit.similarity for visit in visits)


def test_pooling_weighs_by_length():
    vectors = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float32)
    pooled = pool(vectors, [["abc", "four"], ["x"]])  # (3, 4) / 5 and (0, 1)
    assert pooled == pytest.approx(np.array([[0.6, 0.8], [0.0, 1.0]]))


def test_embed_hands_over_bodies_or_names():
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return np.ones((len(texts), 1), dtype=np.float32)

    samples = [sample("focus think"), sample("hint")]
    assert embed(samples, encode, "text").shape == (2, 1)
    assert embed(samples, encode, "actions").shape == (2, 1)
    assert asked == [["focus words", "think words", "B", "hint words", "B"], ["focus, think, answer", "hint, answer"]]
    with pytest.raises(ValueError, match="actions"):
        embed(samples, encode, "letters")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(PACKAGED_ENCODER, device="cpu")


def test_what_a_real_encoder_finds_similar(encoder):
    cat, kitten, tax = encoder(["The cat sleeps on the sofa.", "A kitten naps on a couch.", "Taxes are due in April."])
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ kitten > 0.5 > 0.2 > cat @ tax


def test_a_real_encoder_picks_the_path_that_says_something_else(encoder):
    texts = [
        "<think>Image 1 shows three apples, image 2 shows five, so the second has more.</think><answer>B</answer>",
        "<focus>Three apples in image 1, five apples in image 2: the second has more.</focus><answer>B</answer>",
        "<hint>Do not be misled by the size of the bowls or by the colour of the table.</hint><answer>B</answer>",
        "<global>The pictures were taken in a garage full of old bicycles.</global><answer>A</answer>",
    ]
    samples = [read(str(i), text, QUESTION) for i, text in enumerate(texts)]
    visits = walk(samples, 0, embed(samples, encoder, "text"))
    assert [(visit.index, visit.verdict) for visit in visits] == [(3, "incorrect"), (2, "chosen")]


def test_nothing_of_a_long_text_is_cut_off(encoder):
    words = " ".join(f"word{i} and more of it," for i in range(200))
    pieces = encoder.pieces(words)
    assert len(pieces) > 2
    assert "".join(pieces) == words
    window = encoder._model.max_seq_length
    assert all(len(encoder._tokenizer(piece)["input_ids"]) <= window for piece in pieces)
    base = encoder([words, words + " The final verdict is a purple elephant."])
    assert base[0] @ base[1] < 1 - 1e-4  # the end counts
    assert encoder.pieces("short") == ["short"]
    assert encoder.pieces("") == [""]


def test_an_encoder_that_is_not_there_is_named_with_what_to_do(tmp_path):
    with pytest.raises(EncoderError, match=re.escape(str(tmp_path)) + ".*--encoder packaged"):
        Encoder(str(tmp_path))
    with pytest.raises(EncoderError, match="cannot load encoder ''"):
        Encoder("")


def test_threads_of_the_encoder_sleep_while_they_wait(tmp_path):
    # Which torch is told when it is loaded: nothing before the encoder may load it.
    script = (
        "import os, sys; import cinema_verl.cold_start.command as cli; assert 'torch' not in sys.modules;"
        "from cinema_verl.cold_start.retrieval import Encoder, EncoderError\n"
        f"try: Encoder({str(tmp_path)!r})\n"
        "except EncoderError: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["PASSIVE", "True"]
