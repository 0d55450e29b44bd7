"""The tree browser in a real browser: what models and data sets wrote is text, and a phone is wide enough."""

import pytest

from cinema_verl.cold_start.outputs import write_outputs
from cinema_verl.cold_start.requests import SamplingSettings
from cinema_verl.cold_start.retrieval import Visit
from cinema_verl.cold_start.sampling import COLD_START, LEFT_OUT, RL
from cinema_verl.cold_start.trees_page import Gallery

PHONE = {"width": 390, "height": 844}
XSS = (
    "</pre><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"><svg onload=alert(3)>'",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(4)",
)


@pytest.fixture
def page_path(make_question, make_result, text, tmp_path):
    probes = " ".join(XSS)
    two, wrong, off, gold = (
        make_question(
            number, images=images, question=f"{'<image>' * images} which, {probes}?", uid=f"q/{number}{probes}"
        )
        for number, images in enumerate((3, 2, 1, 2))
    )
    samples = {
        "student/0": text("focus think", "A", "I see.\n" + probes),
        "student/1": text("hint", "B"),
        "student/2": "off the format " + probes,
        "teacher/0": text("focus think", "B", "Red, " * 150),
    }
    results = [
        make_result(two, COLD_START, "two_paths", samples, draft=0, refined=3, second=1,
                    path=("focus", "think", "answer"), visits=[Visit(0, 0.25, "incorrect"), Visit(1, 0.5, "chosen")]),
        make_result(wrong, RL, "teacher_wrong", {"teacher/0": text("global think", "C")}, refined=0),
        make_result(off, LEFT_OUT, "student_off_format", {"student/0": probes}),
        make_result(gold, LEFT_OUT, "gold_unreadable", {}),
    ]  # fmt: skip
    (tmp_path / "images" / "30.png").write_bytes(b"no picture any more")
    gallery, questions = Gallery(), [two, wrong, off, gold]
    records = {result.uid: result.record() for result in results}
    summary = write_outputs(tmp_path, questions, records.get, SamplingSettings(), look=gallery.look)
    return gallery.write(tmp_path, summary.to_json())


def test_nothing_that_is_shown_is_anything_but_text(page_path, open_page):
    with open_page(page_path) as page:
        assert page.problems == []
        assert page.locator("article").count() == 4
        words = page.locator("main").inner_text()
        for probe in XSS:
            assert probe in words
        assert page.locator("article script, article svg").count() == 0
        assert page.locator("article img").count() == 3 + 2 + 1 + 1  # one of the eight cannot be read
        assert "cannot be read" in words


def test_the_chosen_branches_are_open_and_marked(page_path, open_page):
    with open_page(page_path) as page:
        article = page.locator("article[data-reason=two_paths]")
        assert article.locator(".tree > li > details[open]").count() == 2
        for mark in ("its path was followed", "the refinement", "the second trajectory"):
            assert article.get_by_text(mark).count() >= 1
        assert article.locator("table tbody tr").all_inner_texts() == [
            "student/0: focus › think › answer\t0.250\tincorrect",
            "student/1: hint › answer\t0.500\tchosen",
        ]
        assert "path given to the teacher: focus › think › answer" in article.inner_text()
        assert "text outside" in article.inner_text()  # why the third draft is on no tree


def test_filter_and_folding_work(page_path, open_page):
    with open_page(page_path) as page:
        page.select_option("#show", "teacher_wrong")
        assert page.locator("article:visible").count() == 1
        assert page.locator("#shown").inner_text() == "1 shown"
        page.click("#close")
        assert page.locator("article:visible details[open]").count() == 0
        page.select_option("#show", "")
        page.click("#open")
        assert page.locator("article details:not([open])").count() == 0
        assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(page_path, open_page, scheme):
    with open_page(page_path, viewport=PHONE, color_scheme=scheme) as page:
        page.click("#open")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        totals = page.locator(".totals tr:has(td:nth-child(3):empty)")
        assert totals.count() == 3
        assert all(row.bounding_box()["height"] < 45 for row in totals.all())  # one line: no number is broken
        assert page.problems == []


def test_the_sample_has_every_reason_before_it_has_more_of_one(make_question, make_result, text):
    gallery = Gallery(4)
    for number in range(20):
        question = make_question(number)
        gallery.look(
            question, make_result(question, RL, "teacher_wrong", {"teacher/0": text("focus", "A")}, refined=0).record()
        )
    last = make_question(20)
    gallery.look(last, make_result(last, LEFT_OUT, "gold_unreadable", {}).record())
    assert [entry.record["reason"] for entry in gallery.entries].count("gold_unreadable") == 1
    assert len(gallery.entries) == 4
