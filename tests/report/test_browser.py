"""The page in a browser: what a reader sees and does, on a desk and on a phone, by mouse and by keyboard.

One tab serves all tests; whatever a page says to the console, asks the network for, or pops up fails the test that
opened it.
"""

import json
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8").strip()


@pytest.fixture(scope="module")
def tab(open_page, tmp_path_factory):
    blank = tmp_path_factory.mktemp("blank") / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>")
    with open_page(blank) as page:
        page.set_default_timeout(10_000)
        yield page


@pytest.fixture
def visit(tab):
    """`visit(file, viewport, color_scheme)`: the tab with the page drawn."""

    def visit(file, viewport=DESKTOP, color_scheme="light"):
        tab.set_viewport_size(viewport)
        tab.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
        tab.goto(file.absolute().as_uri())
        tab.wait_for_selector("#group :is(.rollout, .empty), #groups > .empty")
        settle(tab)
        return tab

    tab.problems.clear()
    yield visit
    assert tab.problems == []


@pytest.fixture(scope="module")
def built(tmp_path_factory, make_run, report):
    """The made-up run, and its page; a second run with other patterns, and the page of both."""
    folder = tmp_path_factory.mktemp("pages")
    first = make_run(folder / "first")
    second = make_run(folder / "second", steps=4, texts=("<hint>h</hint><answer>B</answer>", "<answer>A</answer>"))
    assert report(first, "--output", folder / "one.html") == 0
    assert report(first, second, "--output", folder / "two.html") == 0
    return folder


@pytest.fixture
def one(built):
    return built / "one.html"


@pytest.fixture
def two(built):
    return built / "two.html"


def patterns(page):
    """The table of patterns as {words: (first, last, rollouts, correct)}."""
    rows = page.locator("#pattern-table tbody tr").all()
    return {row.locator(".hidden").inner_text(): tuple(row.locator("td").all_inner_texts()[1:]) for row in rows}


def choose(page, label, option):
    page.get_by_role("combobox", name=label, exact=True).select_option(label=option)
    settle(page)


def settle(page):
    """Until the group is drawn, which has to be unpacked first, and the charts, whose size the next frame tells."""
    page.locator("#group[aria-busy=true]").wait_for(state="detached")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def unfold(panel):
    """Open the table of a chart. The browser says that a `<details>` is open after the click that opens it, and only
    then is the table made."""
    panel.locator("summary").click()
    panel.locator("tbody tr").first.wait_for()


def click(page, name):
    page.get_by_role("button", name=name).click()
    settle(page)


# ---- what is on the page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_everything_is_drawn_and_nothing_sticks_out(visit, built, name, viewport, color_scheme):
    page = visit(built / f"{name}.html", viewport, color_scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    assert page.locator("#panels figure svg path.line").count() >= 11
    for section in ("overview", "curves", "patterns", "violations", "groups"):
        assert page.locator(f"#{section} h2").is_visible()
    too_wide = page.evaluate("""[...document.querySelectorAll('svg text')].filter((text) => {
        const [a, b] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
    }).map((text) => text.textContent)""")
    assert too_wide == [], "labels are cut off"


def test_curves_have_axes_stages_and_the_last_value(visit, one):
    page = visit(one)
    titles = [text.split("\n")[0] for text in page.locator("#panels figcaption").all_inner_texts()]
    assert titles == [
        "Reward", "Accuracy in training", "Accuracy in validation", "Format", "Token entropy", "Pattern entropy",
        "Unique patterns", "Diversity coefficient", "Diversity in the advantage", "Lengths", "Dynamic sampling",
    ]  # fmt: skip
    for panel in page.locator("#panels figure").all():
        labels = panel.locator("svg text").all_text_contents()
        assert {"stage 1", "stage 2", "step"} <= set(labels)
        assert panel.locator("rect.band").count() == 1
    lengths = page.locator("#panels figure", has_text="Lengths").locator(".reading")
    assert lengths.inner_text().split() == ["last", "response", "26.00", "prompt", "30.00"]


def test_a_third_stage_is_marked_as_the_second_is(visit, make_run, tmp_path, report):
    run = make_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["data"]["cinema/stage"] = float((line["step"] + 1) // 2)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(run, "--output", tmp_path / "three.html") == 0
    for panel in visit(tmp_path / "three.html").locator("#panels figure").all():
        labels = panel.locator("svg text").all_text_contents()
        assert [label for label in labels if label.startswith("stage")] == ["stage 1", "stage 2", "stage 3"]
        assert panel.locator("line.mark").count() == 2


def test_gaps_are_gaps_and_lonely_values_are_points(visit, tmp_path, report):
    """A: 1 2 – 4 5, B: three validations of nine steps, C: one value alone, between two gaps, D: every second step."""
    a = {1: 1.0, 2: 1.0, 4: 2.0, 5: 2.0, 6: 1.0, 7: 1.0, 8: 1.0, 9: 1.0}
    b, c = {1: 0.1, 4: 0.2, 7: 0.3}, {1: 1.0, 2: 1.0, 4: 5.0, 6: 1.0, 7: 1.0, 8: 1.0, 9: 1.0}
    d = dict.fromkeys(range(1, 10, 2), 0.5)
    lines = [
        {"step": i, "data": {name: of[i] for name, of in zip("abcd", (a, b, c, d), strict=True) if i in of}}
        for i in range(1, 10)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(tmp_path) == 0
    page = visit(tmp_path / "report.html")
    found = {}
    for name in "abcd":
        page.get_by_label("Metric (").select_option(name)
        figure = page.locator("#explore figure")
        path = figure.locator("path.line").get_attribute("d")
        found[name] = (path.count("M"), path.count("L"), figure.locator("circle[r='2.5']").count())
    assert found == {"a": (2, 6, 0), "b": (1, 2, 3), "c": (3, 4, 1), "d": (1, 4, 5)}


def test_one_cursor_for_all_charts(visit, one):
    page = visit(one)
    chart = page.locator("#panels figure").first.locator("svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 80)
    assert {text.split()[1] for text in page.locator("#panels .reading > :first-child").all_inner_texts()} == {"1"}
    assert page.locator(".area .at").inner_text() == "step 1"
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 80)
    assert {text.split()[1] for text in page.locator("#panels .reading > :first-child").all_inner_texts()} == {"6"}
    page.mouse.move(0, 0)
    assert set(page.locator("#panels .reading > :first-child").all_inner_texts()) == {"last"}


def test_a_pointer_over_a_chart_that_is_not_drawn_yet(visit, one):
    """Smoothing makes the chart anew under the pointer; it is drawn with the next frame."""
    page = visit(one)
    page.evaluate("""() => {
        document.querySelector('#smoothing').dispatchEvent(new Event('change'));
        document.querySelector('.area svg').dispatchEvent(new PointerEvent('pointermove', { clientX: 300 }));
    }""")
    settle(page)
    assert page.locator(".area .at").inner_text() == "step 6"


def test_the_cursor_moves_by_keys(visit, one):
    page = visit(one)
    slider = page.get_by_role("slider", name=re.compile("^Reward, "))
    slider.focus()
    for key, step in (("Home", 1), ("ArrowRight", 2), ("ArrowUp", 3), ("ArrowLeft", 2), ("End", 6), ("ArrowRight", 6)):
        page.keyboard.press(key)
        assert slider.get_attribute("aria-valuenow") == str(step)
    assert slider.get_attribute("aria-valuetext") == "step 6: reward 0.560"
    page.keyboard.press("Escape")
    assert slider.get_attribute("aria-valuetext").startswith("last: ")


def test_a_chart_is_also_a_table(visit, one):
    page = visit(one)
    panel = page.locator("#panels figure", has_text="Token entropy")
    unfold(panel)
    rows = [row.split() for row in panel.locator("tbody tr").all_inner_texts()]
    assert rows == [["1", "1.000"], ["2", "0.500"], ["3", "0.333"], ["4", "0.250"], ["5", "0.200"], ["6", "0.167"]]


def test_any_metric_can_be_chosen(visit, one):
    page = visit(one)
    page.get_by_label("Metric (").select_option("timing_s/step")
    assert page.locator("#explore figure .reading").inner_text().split() == ["last", "2.000"]


def test_smoothing_draws_a_mean_and_keeps_the_raw_curve(visit, one):
    page = visit(one)
    raw = page.locator("#panels figure").first.locator("path.line")
    assert raw.count() == 1, "a short run is not smoothed unless asked"
    choose(page, "Smoothing", "5 steps")
    assert page.locator("#panels figure").first.locator("path.line").count() == 2
    assert page.locator("#panels figure").first.locator("path.line.raw").count() == 1


# ---- patterns and violations ------------------------------------------------------------------------------------


def test_patterns_by_hand(visit, one):
    """Of each group of four: focus>answer correct and incorrect, global>think>answer correct, and one where nothing
    is closed but the answer, which is incorrect."""
    page = visit(one)
    assert patterns(page) == {
        "focus, answer": ("50 %", "50 %", "24", "50 %"),
        "answer": ("25 %", "25 %", "12", "0 %"),
        "global, think, answer": ("25 %", "25 %", "12", "100 %"),
    }
    assert page.locator(".area .reading").inner_text().split() == [
        "step", "6", "F", "A", "focus,", "answer", "50", "%", "A", "answer", "25", "%",
        "G", "T", "A", "global,", "think,", "answer", "25", "%", "others", "0", "%",
    ]  # fmt: skip


def test_the_tree_of_action_paths(visit, one):
    page = visit(one)
    page.locator("#trees summary").click()
    assert page.locator("#trees details > ul").inner_text().split("\n") == [
        "focus 50 %", "answer 50 %", "answer 25 %", "global 25 %", "think 25 %", "answer 25 %",
    ]  # fmt: skip
    assert page.locator("#trees .node").count() == 6
    heights = [float(node.get_attribute("height")) for node in page.locator("#trees .node rect").all()]
    assert heights == [160, 160, 80, 80, 80, 80]


def test_a_step_of_the_tree_by_slider_and_by_clicking_the_chart(visit, one):
    page = visit(one)
    assert page.locator("#trees h3").inner_text() == "step 6, 8 rollouts"
    page.locator("#tree-step").focus()
    page.keyboard.press("Home")
    assert page.locator("#trees h3").inner_text() == "step 1, 8 rollouts"
    area = page.locator(".area svg")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 12, box["y"] + 50)
    assert page.locator("#trees h3").inner_text() == "step 6, 8 rollouts"


def test_violations_by_code(visit, one):
    page = visit(one)
    found = {
        panel.locator("figcaption").inner_text().split("\n")[0]: panel.locator(".reading b").inner_text()
        for panel in page.locator("#faults figure").all()
    }
    assert found == {"unclosed tag": "0.250", "no action": "0.250", "starts with answer": "0.250"}
    choose(page, "Verdict", "correct")
    assert page.locator("#faults .empty").inner_text() == "None: every rollout that passes the filters is well formed."


# ---- filters ----------------------------------------------------------------------------------------------------


def test_filter_by_verdict(visit, one):
    page = visit(one)
    choose(page, "Verdict", "correct")
    assert patterns(page) == {
        "focus, answer": ("50 %", "50 %", "12", "100 %"),
        "global, think, answer": ("50 %", "50 %", "12", "100 %"),
    }
    assert page.locator("#group .rollout").count() == 4, "a group is shown whole"
    assert page.locator("#group .rollout.other").count() == 2, "and says which are outside the filter"
    choose(page, "Verdict", "not known")
    assert page.locator("#pattern-table").inner_text() == "No rollout passes the filters."
    assert page.locator("#group").inner_text() == "No group of this page passes the filters."
    assert page.get_by_role("button", name="Next").is_disabled()


def test_filter_by_data_source(visit, one):
    page = visit(one)
    choose(page, "Data source", "circles")
    assert {row[2] for row in patterns(page).values()} == {"12", "6"}
    assert page.locator("#group-count").inner_text() == "Showing 6 groups of 12."
    assert "source circles" in page.locator("#group .meta").inner_text()


def test_filter_by_answer_type(visit, one):
    page = visit(one)
    assert page.get_by_role("combobox", name="Answer type").locator("option").all_inner_texts() == ["all", "mcq"]
    choose(page, "Answer type", "mcq")
    assert page.locator("#group-count").inner_text() == "Showing 12 groups of 12."


def test_filter_by_pattern(visit, one):
    page = visit(one)
    choose(page, "Pattern", "global>think>answer")
    assert page.locator(".area path.dim").count() == 3, "two patterns and the others"
    assert page.locator("#group .rollout:not(.other)").count() == 1
    assert page.locator("#faults .empty").is_visible()


def test_filters_work_together_and_are_reset(visit, one):
    page = visit(one)
    choose(page, "Data source", "squares")
    choose(page, "Verdict", "incorrect")
    choose(page, "Pattern", "focus>answer")
    assert page.locator("#group-count").inner_text() == "Showing 6 groups of 12."
    assert page.locator("#group .rollout:not(.other)").count() == 1
    choose(page, "Pattern", "global>think>answer")
    assert page.locator("#group-count").inner_text() == "Showing 0 groups of 12."
    page.get_by_role("button", name="Reset").click()
    page.locator("#group-count", has_text="Showing 12 groups of 12.").wait_for()  # a form is reset after its event
    settle(page)
    assert patterns(page)["focus, answer"][2] == "24"


def test_rollouts_without_an_action_can_be_asked_for(visit, tmp_path, make_run, report):
    run = make_run(tmp_path / "run", steps=1, texts=("no tags at all", "<think>t</think><answer>B</answer>"))
    assert report(run) == 0
    page = visit(run / "report.html")
    choose(page, "Pattern", "no action")
    assert page.locator("#group .rollout:not(.other)").count() == 1
    card = page.locator("#group .rollout:not(.other)")
    assert card.locator("pre.raw").inner_text() == "no tags at all"


# ---- groups -----------------------------------------------------------------------------------------------------


def test_a_group_with_its_question_and_images(visit, one):
    page = visit(one)
    group = page.locator("#group")
    assert group.locator("h3").inner_text() == "Step 1: 2 of 4 correct, 3 patterns"
    assert group.locator(".question").inner_text() == "Which square is red?"
    assert group.locator(".options li").all_inner_texts() == ["A. first", "B. second"]
    assert "gold B" in group.locator(".meta").inner_text()
    assert group.locator("figcaption").all_inner_texts() == ["Image 1", "Image 2"]
    sizes = "[...document.querySelectorAll('#group img')].map((image) => [image.naturalWidth, image.naturalHeight])"
    assert page.evaluate(sizes) == [[40, 30], [40, 30]]


def test_a_group_says_nothing_of_what_it_has_not(visit, tmp_path, make_run, report):
    run = make_run(tmp_path / "run", steps=1, sources=("squares", "squares@blank"))
    shutil.rmtree(run / "data")  # no images, no options
    assert report(run) == 0
    page = visit(run / "report.html")
    text = page.locator("#group").inner_text()
    assert not re.search("null|undefined|NaN|object", text)
    assert "Asked again" not in text
    click(page, "Next")
    assert "Asked again over blank images" in page.locator("#group").inner_text()


def test_the_terms_of_the_reward_by_hand(visit, one):
    """Right, well formed, and alone but for one of four: 0.5 + 0.5 - 0.1 * 0.5 * 1/3."""
    page = visit(one)
    cards = page.locator("#group .rollout")
    assert cards.nth(0).locator(".terms").inner_text().split("\n") == [
        "accuracy × 0.5", "0.500", "format × 0.5", "0.500", "pattern shared by 2 of 4", "−0.017", "reward", "0.983",
    ]  # fmt: skip
    assert cards.nth(1).locator(".terms dd").all_inner_texts() == ["0.500", "0.500", "0", "1.000"]
    assert cards.nth(2).locator(".terms dd").all_inner_texts() == ["0", "0.500", "0", "0.500"]
    broken = cards.nth(3)
    assert broken.locator("h4").inner_text().split("\n")[-1].endswith("incorrect")
    assert "unclosed tag, no action, starts with answer" in broken.inner_text()
    assert "verdict: different" in broken.inner_text()


def test_actions_have_the_colours_of_the_legend(visit, one):
    page = visit(one)
    colour = "(node) => getComputedStyle(node)[node.matches('.chip') ? 'color' : 'borderLeftColor']"
    for action in ("focus", "global", "think", "answer"):
        chip = page.locator(f"#key .chip.{action}").evaluate(colour)
        assert page.locator(f"#group .action.{action}").first.evaluate(colour) == chip


def test_from_group_to_group(visit, one):
    page = visit(one)
    heading = page.locator("#group h3")
    assert page.get_by_role("button", name="Previous").is_disabled()
    for _ in range(2):
        click(page, "Next")
    assert heading.inner_text().startswith("Step 2")
    page.locator("#group-list [aria-selected=true]").focus()
    page.keyboard.press("End")
    settle(page)
    assert heading.inner_text().startswith("Step 6")
    assert page.locator("#group-list [aria-selected=true]").evaluate("(node) => node === document.activeElement")
    assert page.get_by_role("button", name="Next").is_disabled()
    choose(page, "Step", "3")
    assert page.locator("#group-count").inner_text() == "Showing 2 groups of 2 at step 3."
    page.locator("#group-list [role=option]").nth(1).click()
    settle(page)
    assert "circles" in page.locator("#group .meta").inner_text()
    assert heading.inner_text().startswith("Step 3")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_chosen_group_is_in_sight_in_its_list_and_the_page_stays(visit, tmp_path, make_run, report, viewport):
    run = make_run(tmp_path / "run", steps=30)
    assert report(run) == 0
    page = visit(run / "report.html", viewport)
    place = """() => { const list = document.getElementById("group-list").getBoundingClientRect(),
        own = document.querySelector("#group-list [aria-selected=true]").getBoundingClientRect();
        return own.top >= list.top - 2 && own.bottom <= list.bottom + 2; }"""
    for key in ("End", "ArrowUp", "Home"):
        page.locator("#group-list [aria-selected=true]").focus()
        before = page.evaluate("scrollY")
        page.keyboard.press(key)
        settle(page)
        assert page.evaluate(place), key
        assert page.evaluate("scrollY") == before


# ---- two runs ---------------------------------------------------------------------------------------------------


def test_two_runs_side_by_side(visit, two):
    page = visit(two)
    assert page.title() == "Run report: first and second"
    assert page.locator("#legend .run").all_inner_texts() == ["first", "second"]
    assert page.locator("#panels figure").first.locator("path.line").count() == 2
    strokes = page.evaluate("""[...document.querySelectorAll('#panels figure:first-child path.line')]
        .map((one) => getComputedStyle(one).stroke)""")
    assert len(set(strokes)) == 2
    left, right = (chart.bounding_box() for chart in page.locator(".area").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    assert patterns(page)["hint, answer"] == ("0 %", "0 %", "0", "–", "50 %", "50 %", "8", "100 %")
    assert page.locator("#trees .tree").count() == 2
    choose(page, "Run", "second")
    assert "second" in page.locator("#group h3").inner_text()
    assert page.locator("#group-count").inner_text() == "Showing 8 groups of 8."


# ---- what a run may hold ----------------------------------------------------------------------------------------

PROBES = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "javascript:window.pwned=1",
    "\"><svg onload=window.pwned=1>",
    "' onmouseover='window.pwned=1",
    "{{ 7 * 7 }}{% raw %}${7 * 7}",
    "&lt;b&gt; &amp; <b>bold</b>",
    "\u202eright to left\u2066\u200b\u200d\ufeff\u2028\x00\x07",
    "]]><![CDATA[",
    "</textarea></title></style><style>*{display:none}</style>",
)  # fmt: skip
PROBE = " ".join(PROBES)


def test_what_a_run_holds_stays_text(visit, tmp_path, make_run, report):
    name = "<img src=x onerror=window.pwned=1> {{7*7}}"
    run = make_run(
        tmp_path / name,
        steps=2,
        sources=(PROBE, "other"),
        texts=(f"<focus>{PROBE}</focus><answer>B</answer>", f"{PROBE}<think>{PROBE}", *PROBES),
        asked=f"<image><image>{PROBE}",
        options=(PROBE, "second"),
        model=PROBE.replace("${", ""),  # OmegaConf would read it
    )
    for path in (run / "rollouts").iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line |= {key: PROBE for key in ("verdict", "answer_type", "stop_reason", "gts")}
        lines[3] |= {"pattern": f"{PROBE}>{PROBE}", "violations": f"{PROBE},constructor,__proto__"}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with open(run / "metrics.jsonl", "a") as file:
        for metric in (PROBE, "__proto__", "constructor", "toString"):
            file.write(json.dumps({"step": 2, "data": {metric: 1.0}}) + "\n")
    (run / "data" / "images" / "0-0.png").unlink()
    assert report(run) == 0

    page = visit(run / "report.html")
    for _ in range(3):
        click(page, "Next")
    page.get_by_label("Metric (").select_option(index=0)
    for metric in page.get_by_label("Metric (").locator("option").all_text_contents():
        if not metric.startswith(("cinema/", "critic/", "actor/", "val", "timing", "response", "prompt", "report/")):
            page.get_by_label("Metric (").select_option(metric)
    page.locator("#trees summary").click()
    for summary in page.locator("#panels summary").all()[:2]:
        summary.click()
    page.locator("#group details summary").first.click()

    assert page.evaluate("window.pwned") is None
    assert page.title() == f"Run report: {name}"
    tags = Counter(page.evaluate("[...document.querySelectorAll('*')].map((one) => one.localName)"))
    assert tags["script"] == 2, "the data and the page's own"
    assert tags["style"] == 1
    images = page.evaluate("[...document.images].map((image) => image.getAttribute('src').slice(0, 11))")
    assert images
    assert set(images) == {"data:image/"}
    handlers = page.evaluate("""[...document.querySelectorAll('*')].flatMap((one) => [...one.attributes])
        .filter(({ name, value }) => /^on/.test(name) || (/^(href|src)$/.test(name) && /javascript:/.test(value)))
        .map(({ name }) => name)""")
    assert handlers == []
    shown = page.evaluate("document.body.textContent")
    for probe in PROBES:
        assert probe in shown or probe.replace("\x00", "\ufffd") in shown, probe
    assert "{{ 7 * 7 }}" in page.locator("#group").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]


def test_a_direction_mark_turns_its_own_text_only(visit, tmp_path, make_run, report):
    run = make_run(tmp_path / "run", steps=1, sources=("\u202esdrawkcab", "other"))
    assert report(run) == 0
    page = visit(run / "report.html")
    boxes = {
        text.split()[0]: span.bounding_box()
        for span in page.locator("#group .meta span").all()
        for text in [span.inner_text()]
    }
    assert boxes["source"]["x"] < boxes["type"]["x"] < boxes["gold"]["x"]
    isolated = page.evaluate(
        "[...document.querySelectorAll('#group .meta b')].map((one) => getComputedStyle(one).unicodeBidi)"
    )
    assert set(isolated) == {"isolate"}


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_long_words_do_not_widen_the_page(visit, tmp_path, make_run, report, viewport):
    word = "w" * 3000
    run = make_run(
        tmp_path / ("r" * 200), steps=1, sources=(word, "other"), asked=f"<image><image>{word}", options=(word, "b"),
        model=word,
        texts=(f"<think>{word}</think><answer>B</answer>", "<think>a</think>" * 60 + "<answer>B</answer>", word),
    )  # fmt: skip
    assert report(run) == 0
    page = visit(run / "report.html", viewport)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


# ---- what may be missing ----------------------------------------------------------------------------------------


def no_rollouts(run):
    shutil.rmtree(run / "rollouts")


def no_metrics(run):
    (run / "metrics.jsonl").unlink()


def nothing_but_empty_files(run):
    no_rollouts(run)
    (run / "metrics.jsonl").write_text("")


def plain_verl(run):
    shutil.rmtree(run / "hydra")
    for path in [*(run / "rollouts").iterdir(), run / "metrics.jsonl"]:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        keep = ("input", "output", "gts", "score", "step")
        if path.name == "metrics.jsonl":
            lines = [one | {"data": {"critic/score/mean": 0.5, "actor/entropy": 1.0}} for one in lines]
            keep = ("step", "data")
        path.write_text("".join(json.dumps({key: one[key] for key in keep}) + "\n" for one in lines))


def one_step(run):
    for path in (run / "rollouts").iterdir():
        if path.stem != "1":
            path.unlink()
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0] + "\n")


def cut_in_the_middle(run):
    for path in (run / "rollouts" / "6.jsonl", run / "metrics.jsonl"):
        path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_rollouts, "Patterns, violations and groups need them"),
        (no_metrics, "Curves below are counted from the rollouts"),
        (nothing_but_empty_files, "holds no record"),
        (plain_verl, "No metric for: Accuracy in training"),
        (one_step, None),
        (cut_in_the_middle, "cut off by a crash"),
    ],
)
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_what_is_missing_is_said_and_the_rest_shown(visit, tmp_path, make_run, report, spoil, said, viewport):
    run = make_run(tmp_path / "run")
    spoil(run)
    assert report(run) == 0
    page = visit(run / "report.html", viewport)
    missing = page.locator("#missing")
    assert (said in missing.inner_text()) if said else not missing.count()
    assert page.locator("#panels").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    has_rollouts = spoil not in (no_rollouts, nothing_but_empty_files)
    assert (page.locator("#group .rollout").count() > 0) == has_rollouts


def test_on_paper_nothing_is_cut_off(visit, one):
    """A4 less its margins is 718 pixels wide, and does not scroll."""
    page = visit(one, {"width": 718, "height": 1000}, "dark")
    page.emulate_media(media="print")
    cut = page.evaluate("""[...document.querySelectorAll('main *')]
        .filter((one) => one.checkVisibility() && !one.matches('.hidden, svg'))
        .filter((one) => getComputedStyle(one).overflowX !== 'visible' && one.scrollWidth > one.clientWidth + 1)
        .map((one) => one.className || one.id)""")
    assert cut == []
    assert page.locator("#group .rollout").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.locator("#filters select").first.is_hidden()
    assert page.evaluate("getComputedStyle(document.querySelector('.swatch')).printColorAdjust") == "exact"
    page.emulate_media(media="screen")


def test_without_scripts_the_page_says_so_and_keeps_its_numbers(tab, one):
    context = tab.context.browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(one.absolute().as_uri())
    assert "scripts are switched off" in page.locator("noscript").inner_text()
    assert "Accuracy in training" in page.locator("#overview").inner_text()
    context.close()


# ---- accessibility ----------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything_and_shows_where_it_is(visit, one):
    page = visit(one)
    wanted = page.evaluate("""() => {
        const all = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex="0"]')];
        const reachable = all.filter((one) => one.checkVisibility() && !one.disabled);
        reachable.forEach((one, i) => { one.dataset.stop = i; });
        return reachable.length;
    }""")
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    seen = {}
    for _ in range(wanted + 2):
        page.keyboard.press("Tab")
        stop, ring = page.evaluate("""() => {
            const at = document.activeElement;
            return [at.dataset.stop ?? null, getComputedStyle(at).outlineStyle];
        }""")
        if stop is not None:
            seen[int(stop)] = ring
    assert sorted(seen) == list(range(wanted))
    assert "none" not in seen.values(), "the focus is visible"


def test_every_control_has_a_name(visit, two):
    page = visit(two)
    nameless = page.evaluate("""() => {
        const roles = ['slider', 'listbox', 'region', 'img'].map((role) => `[role=${role}]`);
        const controls = [...document.querySelectorAll(['a[href]', 'button', 'select', 'input', 'img', ...roles])];
        const named = (one) => one.ariaLabel || one.alt || (one.labels?.[0] ?? one).textContent.trim();
        return controls.filter((one) => one.checkVisibility() && !named(one)).map((one) => one.outerHTML.slice(0, 100));
    }""")
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.localName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "no level is skipped"


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "two"])
def test_text_has_the_contrast_that_wcag_asks_for(visit, built, name, color_scheme):
    page = visit(built / f"{name}.html", color_scheme=color_scheme)
    choose(page, "Verdict", "correct")  # some rollouts are outside the filter
    unfold(page.locator("#panels figure").first)
    found = page.evaluate(f"{CONTRAST}.text()")
    assert found["low"] == []
    assert found["count"] > 300
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor").replace(" ", "") == "rgb(22,24,28)"
    assert dark == (color_scheme == "dark")


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_shapes_stand_out_from_what_they_are_drawn_on(visit, one, color_scheme):
    """3 : 1 for what carries meaning without text: the lines and the areas."""
    page = visit(one, color_scheme=color_scheme)
    found = page.evaluate(f"{CONTRAST}.shapes()")
    assert found["count"] == 13
    assert found["low"] == []
