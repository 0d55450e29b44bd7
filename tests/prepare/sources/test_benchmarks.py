"""Rows of each benchmark's shape, made up: good ones, its traps, its rejections."""

import pytest

from cinema_verl.data import sources
from cinema_verl.data.canonical import lists_options
from cinema_verl.prepare.convert import check_draft
from cinema_verl.prepare.draft import Media
from cinema_verl.prepare.sources import adapter
from cinema_verl.verify import verify

from .conftest import convert, reason_of


@pytest.mark.parametrize("name", sources.names(sources.BENCHMARK))
def test_benchmarks_are_for_evaluation(name):
    assert convert(name).split == "test"


def test_muirbench_options_that_are_images():
    draft = convert("muirbench")
    assert draft.question.splitlines()[1:] == [
        "A. Image 2: <image>",
        "B. Image 3: <image>",
        "C. None of the choices provided",
    ]
    assert draft.options == ("Image 2", "Image 3", "None of the choices provided")
    assert verify("Image 3", draft.answer, draft.answer_type, options=draft.options) is True
    assert draft.source == "muirbench/Visual_Retrieval"
    assert reason_of("muirbench", answer="D") == "not_an_option"
    assert reason_of("muirbench", image_list=[{"bytes": b"x", "path": None}] * 2) == "placeholders"


def test_mmiu_options_are_lines_and_images_come_first():
    draft = convert("mmiu")
    assert draft.question.startswith("Image 1: <image>\nImage 2: <image>\nWhat changed")
    assert draft.media == (Media("image", path="spot/before.jpg"), Media("image", path="spot/after.jpg"))
    assert (draft.options, draft.answer) == (("a door opened", "a lamp went out"), "B")
    assert lists_options(draft.question, draft.options)  # the context did, so the prompt does not repeat them


def test_mmiu_letters_up_to_n_and_32_images():
    options = "\n".join(f"{letter}: thing {letter}" for letter in "ABCDEFGHIJKLMN")
    draft = convert("mmiu", options=options, context="", output="N", input_image_path=[f"{n}.jpg" for n in range(32)])
    assert (len(draft.options), draft.answer, draft.question.count("<image>")) == (14, "N", 32)


def test_mmiu_same_question_over_other_images_has_another_id():
    assert convert("mmiu").source_id != convert("mmiu", input_image_path=["a.jpg", "b.jpg"]).source_id


def test_mv_math_cited_twice():
    draft = convert("mv_math")
    assert draft.question.count("<image>") == 3
    assert "The cube in Image 1 is unfolded. Which of Image 2 and Image 3 is the net of Image 1?" in draft.question
    assert (draft.answer_type, draft.options) == ("mcq", ("Image 2", "Image 3"))


@pytest.mark.parametrize(
    ("answer", "answer_type", "also_right"),
    [
        ("真", "text", "真"),  # a word on a face of a cube, and no yes
        ("19:54", "latex", "19 : 54"),
        (r"4+\sqrt{2} ## \sqrt{2}+4", "latex", r"\sqrt{2}+4"),
        (r"$12\sqrt{3}$ cm", "latex", r"12\sqrt{3}"),
        ("36 cm^2", "number", "36"),
    ],
)
def test_mv_math_golds(answer, answer_type, also_right):
    question = "Given <image_1>, <image_2> and <image_3>: what?"
    draft = convert("mv_math", question=question, answer_type="single-step", answer=answer)
    assert draft.answer_type == answer_type
    assert verify(also_right, draft.answer, draft.answer_type, aliases=draft.aliases) is True


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer_type": "multi-step", "answer": "(1) 30 (2) 40"}, "multi_part"),
        ({"answer_type": "free-form", "answer": "(1) 30; (2) 40"}, "multi_part"),
        ({"answer_type": "free-form", "answer": "3 ## 4", "question": "What?"}, "several_golds"),
        ({"question": "Is <image_4> a net?"}, "placeholders"),
    ],
)
def test_mv_math_rejections(changes, reason):
    assert reason_of("mv_math", **changes) == reason


def test_emma_columns_of_images():
    draft = convert("emma")
    assert draft.question == "Which shape continues <image>?\nA. Image 2: <image>\nB. Image 3: <image>"
    assert [medium.path for medium in draft.media] == ["row.png", "a.png", "b.png"]
    opened = convert("emma", options=[], answer="7", question="How many? <image_1>", image_2=None, image_3=None)
    assert (opened.answer_type, opened.answer) == ("number", "7")
    assert convert("emma", context="A chain of beads.").question.startswith("A chain of beads.\nWhich")


def test_emma_rows_of_mathvision_have_one_file_for_all_images():
    draft = convert(
        "emma", question="Which of <image1> fits? <image2>", options=[], answer="12", image_2=None, image_3=None
    )
    assert (draft.question, draft.flags) == ("<image>\nWhich of Image 1 fits? Image 2", ("composite",))
    assert reason_of("emma", question="Which of <image_5>?") == "placeholders"  # of three columns none is the fifth


def test_emma_tags_of_another_data_set_are_no_images():
    draft = convert("emma", context="A chain <img_7310> of beads.")
    assert draft.question.startswith("A chain  of beads.\nWhich shape continues <image>?")


def test_emma_lists_as_text_are_ways_to_say_one_answer():
    draft = convert(
        "emma", options=[], answer="['$CaS$', 'CaS']", question="What forms? <image_1>", image_2=None, image_3=None
    )
    assert verify("CaS", draft.answer, draft.answer_type, aliases=draft.aliases) is True


def mirb(file, **changes):
    return adapter("mirb").draft({**adapter("mirb").example, **changes}, file)


def test_mirb_the_file_is_the_task_and_says_the_form_of_the_answer():
    draft = mirb("MIR/count.json")
    assert (draft.source, draft.answer_type) == ("mirb/count", "number")
    assert draft.question.splitlines()[-1] == "Give one number."
    assert [medium.path for medium in draft.media] == ["count/harbour.jpg", "count/lake.jpg"]
    assert mirb("analogy.json", answers="soft").source == "mirb/analogy"
    title = "On the Drift of Paper Boats in Shallow and Slowly Turning Water"
    assert mirb("arxiv.json", answers=title).answer == title


def test_mirb_html_in_a_question_is_no_image():
    question = 'What does <img> or <img src="a.png"/> show?\nA. a boat\nB. a lake'
    draft = mirb("codeu.json", questions=question, answers="B")
    assert draft.question.count("<image>") == 2
    assert "[img]" in draft.question
    assert (draft.answer_type, draft.answer, draft.options) == ("mcq", "B", ("a boat", "a lake"))


@pytest.mark.parametrize(
    ("answers", "answer_type", "answer", "aliases"),
    [
        ("5", "number", "5", ()),
        ("Yes", "yesno", "Yes", ()),
        ("B", "mcq", "B", ()),
        (["tower", "lighthouse"], "text", "tower", ("lighthouse",)),
        (["3", "three"], "number", "3", ()),
    ],
)
def test_mirb_answers(answers, answer_type, answer, aliases):
    draft = convert("mirb", answers=answers)
    assert (draft.answer_type, draft.answer, draft.aliases) == (answer_type, answer, aliases)


def test_mirb_titles_are_copied_not_phrased():
    title = "On the Drift of Paper Boats in Shallow and Slowly Turning Water"
    assert convert("mirb", subset="arxiv", answers=title).answer_type == "text"
    assert reason_of("mirb", answers=title) == "free_text"
    assert reason_of("mirb", answers=["3", "4"]) == "several_golds"


def test_mvbench_option_text_becomes_its_letter():
    draft = convert("mvbench")
    assert (draft.answer, draft.options[1]) == ("B", "the middle one")
    assert draft.media == (Media("video", path="shell/42.mp4", start=1.5, end=9.0),)
    assert draft.question == "<image>\nUnder which cup does the ball end?"
    whole = convert("mvbench", start=..., end=..., video="frames/42")
    assert whole.media == (Media("video", path="frames/42"),)
    assert whole.source_id != draft.source_id
    assert convert("mvbench", candidates=["2", "3"], answer="3").answer == "B"
    # "Which letter was written first?": a text that is another option's letter stays a text
    assert convert("mvbench", candidates=["v", "b", "a"], answer="a").answer == "C"
    assert reason_of("mvbench", answer="none of them") == "not_an_option"
    assert reason_of("mvbench", candidates=["left", "left"], answer="left") == "not_an_option"


def test_mvbench_tasks_are_files_and_have_folders_of_videos():
    row = {**adapter("mvbench").example, "video": "7.mp4"}
    draft = adapter("mvbench").draft(row, "json/action_sequence.json")
    places = {place.path: (place.start, place.end) for place in draft.media[0].places}
    assert draft.source == "mvbench/action_sequence"
    assert places["video/star/Charades_v1_480/7.mp4"] == (1.5, 9.0)
    assert places["star/Charades_segment/7.mp4"] == (None, None)  # cut before
    counted = adapter("mvbench").draft(row, "action_count.json")
    assert [place.path for place in counted.media[0].places][:2] == [
        "video/perception/videos/7.mp4",
        "perception/videos/7.mp4",
    ]
    assert counted.source_id != draft.source_id
    assert adapter("mvbench").draft({**row, "task_type": "Action Count"}, "rows.json").source == "mvbench/action_count"


def test_video_mme_options_lose_their_letters():
    draft = convert("video_mme")
    assert (draft.options, draft.answer) == (("One.", "Two.", "Three.", "Four."), "C")
    assert (draft.media, draft.source) == ((Media("video", path="aB3_xyz.mp4"),), "video_mme/short")


def test_videommmu_questions_of_the_end_show_the_end_and_their_picture():
    draft = convert("videommmu")
    video, picture = draft.media
    assert video == Media("video", path="Business/dev_Accounting_9.mp4", to_end=True)
    assert picture == Media("image", path="ledger.png")
    assert draft.question.startswith("<image>\nWith the method")
    assert draft.question.endswith("which entry of Image 1 is wrong?\nImage 1: <image>")
    assert (draft.question.count("<image>"), draft.flags) == (2, ("image_at_end",))
    without = convert("videommmu", image=None)
    assert (without.media, without.question.count("<image>")) == ((video,), 1)
    assert without.question.endswith("Image 1 is shown at the end of the video.")


def test_videommmu_one_id_has_a_question_in_each_track():
    """The tracks share ids and question types: what tells them apart is the file's folder, or ``qa_type``."""
    row = {**adapter("videommmu").example, "image": None, "question": "What is 3 + 4?", "options": [], "answer": "7"}
    row.pop("qa_type")
    files = [f"{track}/test-00000-of-00001.parquet" for track in ("Perception", "Comprehension", "Adaptation")]
    drafts = [adapter("videommmu").draft(row, file) for file in files]
    assert [draft.source for draft in drafts] == [f"videommmu/{file.split('/')[0]}" for file in files]
    assert len({draft.source_id for draft in drafts}) == 3
    assert {(draft.answer_type, draft.flags) for draft in drafts} == {("number", ())}
    assert convert("videommmu", qa_type="perception").source == "videommmu/Perception"
    assert reason_of("videommmu", qa_type=...) == "bad_record"  # which of the three questions?


def test_places_of_videos_in_the_layouts_of_their_downloads():
    def paths(draft):
        return [draft.media[0].path, *(place.path for place in draft.media[0].places)]

    assert paths(convert("video_mme")) == ["aB3_xyz.mp4", *(f"{f}/aB3_xyz.mp4" for f in ("data", "videos", "video"))]
    assert "videos/Business/dev_Accounting_9.mp4" in paths(convert("videommmu"))
    assert paths(convert("llava_video_178k"))[1:] == ["academic_source/kitchen/v8.mp4"]
    assert [p.path for m in convert("mv_math").media[:1] for p in m.places] == [
        "images/31_1.png",
        "data/images/31_1.png",
    ]


@pytest.mark.parametrize(
    ("changes", "answer_type", "answer", "tolerance"),
    [
        ({}, "number", "2.4", 0.05),
        ({"precision": 2.0, "answer": "0.12"}, "number", "0.12", 0.005),
        ({"answer_type": "integer", "precision": None, "answer": "14"}, "number", "14", None),
        ({"answer_type": "text", "choices": ["(A) 2", "(B) 3"], "answer": "3"}, "mcq", "B", None),
        ({"answer_type": "integer", "choices": ["2", "3"], "answer": "3"}, "mcq", "B", None),
        ({"answer_type": "list", "answer": "[2, 7]"}, "ordering", "[2, 7]", None),
    ],
)
def test_mathvista_golds(changes, answer_type, answer, tolerance):
    draft = convert("mathvista", **changes)
    assert (draft.answer_type, draft.answer, draft.tolerance) == (answer_type, answer, tolerance)


def test_mathvista_precision_and_unit():
    draft = convert("mathvista")
    assert draft.question == "<image>\nHow long is the shorter side? (Unit: m)"
    for answer, right in (("2.44", True), ("2.36 m", True), ("2.46", False)):
        assert verify(answer, draft.answer, "number", tolerance=draft.tolerance) is right


def test_mathvista_choices_that_are_letters_in_another_order():
    draft = convert("mathvista", choices=["D", "A", "C", "B"], answer="A", answer_type="text")
    assert (draft.options, draft.answer) == (("D", "A", "C", "B"), "B")


def test_mathvista_rejections():
    assert reason_of("mathvista", answer="") == "no_answer"  # the test split
    assert reason_of("mathvista", answer_type="essay") == "answer_type"


def test_mathvista_lists_that_repeat_an_item_are_compared_as_written():
    draft = convert("mathvista", answer_type="list", answer="[2, 2]", precision=None)
    check_draft(draft)
    for answer, right in (("[2, 2]", True), ("2, 2", True), ("2,2", True), ("[2, 3]", False), ("2", False)):
        assert verify(answer, draft.answer, draft.answer_type, aliases=draft.aliases) is right


def test_mathvista_equal_options_are_one():
    draft = convert("mathvista", choices=["5", "6", "5 ", "7"], answer="7", answer_type="text", unit=None)
    assert (draft.options, draft.answer) == (("5", "6", "7"), "C")
    assert convert("mathvista", choices=["5", "6", "5"], answer="5", answer_type="text").answer == "A"


def test_mathvision_composites_are_one_image_with_words():
    draft = convert("mathvision")
    assert len(draft.media) == draft.question.count("<image>") == 1
    assert "Image 1 Which of them completes the wall? Image 2" in draft.question
    assert draft.flags == ("composite", "choices_in_image")
    assert draft.question.endswith("Choices, shown in the image: A, B, C, D, E")
    assert (draft.options, draft.answer_type, draft.answer) == ((), "mcq", "D")


def test_mathvision_one_file_is_also_the_second_image():
    draft = convert("mathvision", question="Which fits <image2>?", options=[], answer="12")
    assert (draft.question, draft.flags, len(draft.media)) == ("<image>\nWhich fits Image 2?", ("composite",), 1)


def test_mathvision_other_rows():
    plain = convert("mathvision", question="How many? <image1>", options=[], answer="12")
    assert (plain.question, plain.answer_type, plain.flags) == ("How many? <image>", "number", ())
    worded = convert("mathvision", question="How many? <image1>", options=["3", "4", "5"], answer="B")
    assert (worded.options, worded.answer) == (("3", "4", "5"), "B")
    embedded = convert("mathvision", decoded_image={"bytes": b"png", "path": None})
    assert embedded.media == (Media("image", data=b"png"),)
    assert convert("mathvision", answer="F", options=list("ABCDE")).answer_type == "mcq"
