"""The gallery shows rows as they are, whatever they hold, and its filters work."""

import json
import re

import pytest
from PIL import Image

from cinema_verl.checks import gallery
from cinema_verl.data.check import SFT, inspect_rows
from cinema_verl.data.schema import image_cell, rl_row, sft_rows
from cinema_verl.data.tokens import QWEN2_5_VL
from cinema_verl.prompts import system_prompt
from cinema_verl.utils.files import atomic_write

PROBE = "<script>alert('q')</script><img src=x onerror=alert(1)> Which was taken later? </article>&amp;"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
SUMMARY = {"ok": False, "text_counted": True, "problems": {"image_missing": {"count": 3}}}
SUMMARY["findings"] = [{"ok": False, "what": "checks", "detail": "<b>3 rows</b>", "advice": "look", "where": "rows"}]


@pytest.fixture
def row(tmp_path):
    """row(uid, **changes) -> an RL row over one image or more."""
    Image.effect_noise((56, 56), 50).save(tmp_path / "a.png")

    def row(uid, number=2, **changes):
        text = "".join(f"Image {i + 1}: <image>\n" for i in range(number)) + PROBE
        values = {
            "uid": uid,
            "index": 0,
            "split": "train",
            "data_source": "mine/<i>photos</i>",
            "ability": "reading",
            "prompt": [{"role": "user", "content": text}],
            "images": [image_cell(tmp_path / "a.png", min_pixels=784, max_pixels=7840)] * number,
            "modality": "multi" if number > 1 else "single",
            "question": text,
            "answer": "B",
            "answer_type": "mcq",
            "options": ["<u>the first</u>", "the second"],
        }
        return rl_row(**{**values, **changes})

    return row


def chosen_of(rows, size=gallery.SHOWN, **options):
    chosen = gallery.Chosen(size)
    for number, inspected in enumerate(inspect_rows(rows, patching=QWEN2_5_VL, **options)):
        chosen.offer(inspected, f"train.parquet, row {number:04d}")
    return chosen


@pytest.fixture
def page_of(tmp_path):
    def page_of(rows, **options):
        with atomic_write(tmp_path / "gallery.html") as file:
            file.write(gallery.page(chosen_of(rows, **options), SUMMARY))
        return tmp_path / "gallery.html"

    return page_of


@pytest.fixture
def mixed(row):
    """Ten rows: four of one source, with numbers for answers; two whose image is gone."""
    rows = [row(f"q/{i}") for i in range(4)]
    rows += [
        row(f"q/n{i}", number=1, data_source="numbers", answer="7", answer_type="number", options=()) for i in range(4)
    ]
    for i in range(2):
        rows.append(row(f"q/gone{i}"))
        rows[-1]["images"] = [dict(rows[-1]["images"][0]), {**rows[-1]["images"][1], "image": "/no/such.png"}]
    return rows


def test_rows_with_findings_come_first_and_never_crowd_out_the_others(row):
    broken = {**row("x/0"), "images": []}
    items = chosen_of([row("x/1")] * 30 + [broken] * 30, size=10).items()
    assert [bool(inspected.faults) for inspected, _ in items] == [True] * 5 + [False] * 5
    items = chosen_of([row("x/1")] * 2 + [broken] * 30, size=10).items()
    assert [bool(inspected.faults) for inspected, _ in items] == [True] * 8 + [False] * 2
    assert [bool(inspected.faults) for inspected, _ in chosen_of([row("x/1")] * 30, size=10).items()] == [False] * 10


def test_the_choice_does_not_depend_on_the_order_of_rows(row):
    rows = [row(f"x/{i}") for i in range(40)]
    inspected = [(found, f"place {i}") for i, found in enumerate(inspect_rows(rows))]
    one, other = gallery.Chosen(5), gallery.Chosen(5)
    for pair in inspected:
        one.offer(*pair)
    for pair in reversed(inspected):
        other.offer(*pair)
    assert [place for _, place in one.items()] == [place for _, place in other.items()]


@pytest.mark.parametrize("spoil", [{}, {"images": None}, {"prompt": "x"}, {"extra_info": None}, {"reward_model": 3}])
def test_a_row_of_any_shape_is_shown(row, spoil):
    html = gallery.page(chosen_of([{**row("x/0"), **spoil}, {}]), SUMMARY)
    assert html.count("<article") == 2


def test_pictures_are_called_as_the_prompt_calls_them(row):
    asked = "Image A: <image>\nLong words that are no name, which end before it: <image>\n<image>Which was taken later?"
    spoilt = row("x/0", number=3, prompt=[{"role": "user", "content": asked}], question="Which was taken later?")
    spoilt["images"].append(spoilt["images"][0])  # without a placeholder
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", gallery.page(chosen_of([spoilt]), SUMMARY))
    assert captions == ["Image 1 of 4<br>“Image A”", "Image 2 of 4", "Image 3 of 4", "Image 4 of 4"]
    shown = gallery.page(chosen_of([row("x/1")]), SUMMARY)  # its question has the names
    assert "<br>“" not in shown


def test_rows_without_a_system_prompt_open_nothing(row):
    assert "1 of these rows has no system prompt" in (page := gallery.page(chosen_of([row("x/0")]), SUMMARY))
    assert "<details" not in page


def test_what_is_not_counted_is_not_shown_as_nothing(row):
    spoilt = {**row("x/0"), "prompt": "x"}
    assert "0 text" not in gallery.page(chosen_of([spoilt]), SUMMARY)


def test_options_that_cannot_be_read_are_left_to_the_findings(row):
    spoilt = row("x/0")
    spoilt["extra_info"]["options_json"] = "A or B"
    html = gallery.page(chosen_of([spoilt]), SUMMARY)
    assert "options_json" in html
    assert '<ul class="options">' not in html


def test_options_that_the_question_lists_are_not_shown_twice(row):
    text = "<image><image>Which?\nA. this\nB. that"
    listed = row("x/0", question=text, options=["this", "that"])
    html = gallery.page(chosen_of([listed]), SUMMARY)
    assert '<ul class="options">' not in html
    assert "Gold: <b>B. that</b>" in html


def test_many_images_are_cut_off_and_counted(row):
    html = gallery.page(chosen_of([row("x/0", number=15)]), SUMMARY)
    assert html.count("<figure>") == 12
    assert "and 3 more images" in html


def test_what_is_untrusted_stays_text(open_page, page_of, mixed):
    with open_page(page_of(mixed)) as page:
        assert page.problems == []
        assert page.locator("article script, article [onerror], article i, article u, header b b").count() == 0
        first = page.locator("article", has=page.get_by_role("heading", name="q/0", exact=True))
        assert PROBE in first.locator("pre").inner_text()
        assert first.locator(".options li").all_inner_texts() == ["A. <u>the first</u>", "B. the second ✓ gold"]
        assert page.locator("article").first.locator(".findings").inner_text().startswith("image_missing: image 2 of 2")
        assert page.locator("article .gone").count() == 2
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_the_filters(open_page, page_of, mixed):
    with open_page(page_of(mixed)) as page:

        def shown():
            count = page.locator("article:visible").count()
            assert page.locator("#shown").inner_text() == f"{count} of 10"
            return count

        assert shown() == 10
        page.get_by_label("source").select_option("numbers")
        assert shown() == 4
        page.get_by_label("finding").select_option("image_missing")
        assert shown() == 0
        assert page.get_by_text("No row of this page").is_visible()
        page.get_by_label("source").select_option("")
        assert shown() == 2
        page.get_by_label("finding").select_option("none")
        assert shown() == 8
        page.get_by_label("modality").select_option("multi")
        assert shown() == 4
        page.get_by_label("text").fill("Q/3")
        assert shown() == 1
        assert page.locator("article:visible h2").inner_text() == "q/3"
        assert page.problems == []


def test_the_keyboard(open_page, page_of, mixed):
    with open_page(page_of(mixed)) as page:
        focused = "document.activeElement.querySelector('h2')?.textContent"
        seen = []
        for key in "jjkk":
            page.keyboard.press(key)
            seen.append(page.evaluate(focused))
        assert seen == ["q/gone0", "q/gone1", "q/gone0", "q/gone0"]
        page.keyboard.press("/")
        page.keyboard.type("q/n1 jk")  # letters are text there
        assert page.get_by_label("text").input_value() == "q/n1 jk"


@pytest.mark.parametrize(("viewport", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")])
def test_nothing_is_wider_than_the_screen(open_page, page_of, row, viewport, scheme):
    rows = [row("x/" + "long" * 40, number=5), row("x/2", options=["word" * 60, "b"])]
    with open_page(page_of(rows), viewport=viewport, color_scheme=scheme) as page:
        assert page.problems == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")


def test_trajectories_are_shown_by_action(row, tmp_path):
    asked = row("x/0")
    texts = ["<focus>A <b>is</b> dark.</focus><answer>B</answer>", "<think>no</think><answer>B</answer>"]
    rows = sft_rows(uid="x/0", prompt=asked["prompt"], images=asked["images"], trajectories=texts)
    rows[1]["messages"][-1]["content"] = "<answer>B</answer> and more"
    html = gallery.page(chosen_of(rows, form=SFT), SUMMARY)
    assert '<div class="action focus"><b>focus</b> <pre>A &lt;b&gt;is&lt;/b&gt; dark.</pre></div>' in html
    assert "<pre>&lt;answer&gt;B&lt;/answer&gt; and more</pre>" in html
    assert json.dumps("focus>answer")[1:-1].replace(">", "&gt;") in html


def told(text, *users):
    return [{"role": "system", "content": text}, *({"role": "user", "content": user} for user in users)]


def test_the_page_shows_what_the_policy_is_told(row):
    rows = [
        row("a"),
        row("b", prompt=told("<b>Rules</b>", "<image><image>?")),
        row("c", prompt=told("<b>Rules</b>", "<image><image>!")),
    ]
    assert gallery.system_prompts(rows, None) == [("<b>Rules</b>", 2), ("", 1)]
    page = gallery.page(chosen_of(rows), SUMMARY)
    assert "&lt;b&gt;Rules&lt;/b&gt;" in page
    assert "1 of these rows has no system prompt" in page


def test_the_mode_of_the_run_takes_the_place_of_the_rows_prompts(row):
    rows = [row("a"), row("b", prompt=told("Rules", "<image><image>?"))]
    (found,) = gallery.system_prompts(rows, "cot")
    assert found == (system_prompt("cot"), 2)
    assert "Rules" not in gallery.page(chosen_of(rows), SUMMARY, "cot")
