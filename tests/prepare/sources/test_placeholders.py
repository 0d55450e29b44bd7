"""Every dialect of "here is an image", alone and mixed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import LETTERS, Rejected, lists_options
from cinema_verl.prepare.sources.placeholders import PLACEHOLDER, cited, in_words, lay_out


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("<image>\n<image>\nSame?", 2, "<image>\n<image>\nSame?"),
        ("<ImageHere> or <ImageHere>?", 2, "<image> or <image>?"),
        ("Left <image_1>, right <image_2>.", 2, "Left <image>, right <image>."),
        ("See <image1>.", 1, "See <image>."),
        ("See <image 1>.", 1, "See <image>."),
        ("<IMAGE_1> now", 1, "<image> now"),
        ("<video>\nWho?", 1, "<image>\nWho?"),
        ("<image>\nWho is in the video?", 1, "<image>\nWho is in the video?"),
        ("Who?", 1, "<image>\nWho?"),
        ("Same?", 2, "Image 1: <image>\nImage 2: <image>\nSame?"),
        ("<image_1> is cut from <image_1>.", 1, "<image>\nImage 1 is cut from Image 1."),
        ("<image_2> after <image_1>", 2, "Image 1: <image>\nImage 2: <image>\nImage 2 after Image 1"),
        ("Only <image_2>", 2, "Image 1: <image>\nImage 2: <image>\nOnly Image 2"),
        ("<image><image> Is <image_1> larger?", 2, "<image><image> Is Image 1 larger?"),
        ("x < 3 and <b> stay, <image>", 1, "x < 3 and <b> stay, <image>"),
        ("<ima<image_1>ge> or <image_2>?", 2, "<ima<image>ge> or <image>?"),
    ],
)
def test_dialects(text, count, expected):
    assert lay_out(text, count)[0] == expected


@pytest.mark.parametrize(
    ("text", "count", "reason"),
    [
        ("<image> Which?", 2, "placeholders"),
        ("<image><image> Which?", 1, "placeholders"),
        ("<image_3> Which?", 2, "placeholders"),
        ("<image_0> Which?", 1, "placeholders"),
        ("<audio> Which?", 1, "placeholders"),
        ("<image> Which of <image_5>?", 1, "placeholders"),
        ("<image>, then <image_2>?", 2, "placeholders"),
        ("Which?", 0, "no_images"),
        ("<image> ", 1, "no_question"),
        ("?!", 1, "no_question"),
    ],
)
def test_what_does_not_fit_is_rejected_by_name(text, count, reason):
    with pytest.raises(Rejected) as rejected:
        lay_out(text, count)
    assert rejected.value.reason == reason


def test_options_that_are_images_are_listed_in_the_question():
    question, options = lay_out("Which fits <image>?", 3, ("<image>", "<image>", "neither"))
    assert question == "Which fits <image>?\nA. Image 2: <image>\nB. Image 3: <image>\nC. neither"
    assert options == ("Image 2", "Image 3", "neither")
    assert lists_options(question, options)  # so that the prompt does not list them again


def test_an_option_may_hold_words_and_several_images():
    question, options = lay_out("Which pair?", 3, ("<image> and <image>", "<image> alone"))
    assert question == "Which pair?\nA. Image 1: <image> and Image 2: <image>\nB. Image 3: <image> alone"
    assert options == ("Image 1 and Image 2", "Image 3 alone")


def test_options_that_cite_an_image_again_are_words():
    question, options = lay_out("Which is not <image_1>?", 2, ("<image_1>", "<image_2>"))
    assert question == "Image 1: <image>\nImage 2: <image>\nWhich is not Image 1?"
    assert options == ("Image 1", "Image 2")


def test_one_file_that_shows_all_cited_images():
    question, options = lay_out("<image1> Which? <image2>", 1, ("<image3>", "none"), composite=True)
    assert question == "<image>\nImage 1 Which? Image 2"
    assert options == ("Image 3", "none")


def test_citations_in_words():
    assert in_words("See <image 1> and <image>") == "See Image 1 and <image>"
    assert cited("<image_2> <image3> <image>") == {2, 3}


_TAGS = ("<image>", "<ImageHere>", "<video>", "<audio>", "<img>", "</image>", "<image_1>", "<image 2>", "<image3>")
_PIECES = st.lists(
    st.sampled_from(_TAGS)
    | st.sampled_from(("<", ">", "image", "_1", "\0", "Image 1: ", "A. ", "\n"))
    | st.text(max_size=4)
).map("".join)


@given(_PIECES, st.integers(0, 5), st.lists(_PIECES, max_size=4), st.booleans())
def test_as_many_images_as_there_are_and_no_other_placeholder_or_rejected(question, count, options, composite):
    try:
        laid, texts = lay_out(question, count, options, composite=composite)
    except Rejected:
        return
    assert [match[0] for match in PLACEHOLDER.finditer(laid)] == ["<image>"] * count
    assert not any(PLACEHOLDER.search(text) for text in texts)
    assert len(texts) == len(options)


@given(st.permutations(range(1, 5)), st.integers(1, 4))
def test_every_image_is_shown_whatever_the_order_of_citations(order, shown):
    text = "Compare " + ", ".join(f"<image_{number}>" for number in order[:shown])
    laid, _ = lay_out(text, 4)
    assert laid.count("<image>") == 4
    if order[:shown] != [1, 2, 3, 4]:
        assert all(f"Image {number}" in laid.splitlines()[-1] for number in order[:shown])


@given(st.integers(2, 26))
def test_listed_options_keep_their_letters(count):
    _, options = lay_out("Which?", count, ["<image>"] * count)
    assert options == tuple(f"Image {i}" for i in range(1, count + 1))
    assert len(LETTERS) >= count
