"""What makes a training question contaminated or a duplicate, and what does not."""

import json
import subprocess
import sys
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from cinema_verl.data.canonical import REASONS, ImageRef, Question
from cinema_verl.data.directory import read_questions, start_anew, write_dataset
from cinema_verl.prepare.contamination import REASONS as CODES
from cinema_verl.prepare.contamination import Rules
from cinema_verl.prepare.decontaminate import Decontamination
from cinema_verl.prepare.decontamination_report import write_report
from cinema_verl.prepare.duplicates import Fingerprints, duplicates_of, gold_of
from cinema_verl.prepare.media.phash import phash
from cinema_verl.utils.files import sha256_of

LONG = "After the red kite has left the tree, which of the animals in the garden is nearest to the old stone well?"
SCRIPT = Path(__file__).parents[2] / "data_preprocess" / "decontaminate.py"


@pytest.fixture
def picture(tmp_path):
    """picture(seed, size=, quality=) -> ImageRef: the same scene for the same seed, in another size or compression."""

    def picture(seed, size=320, quality=None):
        random = np.random.default_rng(abs(seed))
        coarse = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).resize((size, size * 3 // 4))
        return stored(image, f"{seed}-{size}-{quality}", quality)

    def stored(image, name, quality=None):
        path = tmp_path / f"{name}.{'jpg' if quality else 'png'}"
        image.save(path, **({"quality": quality} if quality else {}))
        with Image.open(path) as image:
            return ImageRef(str(path), *image.size, sha256=sha256_of(path), phash=phash(image))

    picture.stored = stored
    return picture


def question(uid, images, text="Which is the odd one out?", **changes):
    source, source_id = uid.split("/")
    values = {
        "uid": uid,
        "source": source,
        "source_id": source_id,
        "split": "train",
        "license": "none",
        "modality": "single" if len(images) == 1 else "multi",
        "question": "<image>" * len(images) + text,
        "images": tuple(images),
        "answer_type": "mcq",
        "answer": "A",
        "options": ("the first", "the second"),
    }
    return Question(**{**values, **changes})


def dataset(path, questions):
    write_dataset(path, questions, [], {})
    return path


def run_over(tmp_path, train, benchmark, **rules):
    """-> (uids that stay, {uid: match})."""
    inputs = [dataset(tmp_path / f"train{i}", part) for i, part in enumerate(train)]
    run = Decontamination(inputs, {"bench": dataset(tmp_path / "bench", benchmark)}, Rules(**rules))
    kept = [found.uid for found in run.kept()]
    return kept, {match.uid: match for match in run.matches}


def test_a_benchmark_picture_contaminates_whatever_is_asked(tmp_path, picture):
    train = [
        question("t/same", [picture(1), picture(9)], LONG),
        question("t/smaller", [picture(8), picture(2, size=160, quality=60)], "How many windows?"),
        question("t/asked", [picture(1, size=200), picture(2)]),
        question("t/other", [picture(3), picture(4)]),
    ]
    kept, matches = run_over(tmp_path, [train], [question("b/1", [picture(1), picture(2)])])
    assert kept == ["t/other"]
    assert {uid: match.reason for uid, match in matches.items()} == {
        "t/same": "benchmark_image",
        "t/smaller": "benchmark_image",
        "t/asked": "benchmark_question",
    }
    assert [pair[:2] for pair in matches["t/smaller"].pictures] == [(1, 1)]
    assert matches["t/asked"].detail.startswith("bench: b/1; image 1 is its image 1 (")


def test_words_count_only_when_they_are_particular(tmp_path, picture):
    benchmark = [
        question("b/long", [picture(1), picture(2)], LONG),
        question("b/short", [picture(3), picture(4)]),
    ]
    train = [
        question("t/long", [picture(11), picture(12)], LONG.upper()),
        question("t/edited", [picture(13), picture(14)], LONG.replace("old", "ancient"), options=()),
        question("t/short", [picture(15), picture(16)]),
    ]
    kept, matches = run_over(tmp_path, [train], benchmark, similarity=0.6)
    assert kept == ["t/short"]
    assert matches["t/long"].reason == "benchmark_text"
    assert matches["t/long"].similarity == 1.0
    assert 0.6 <= matches["t/edited"].similarity < 0.8


@pytest.mark.parametrize("side", ["train", "benchmark"])
def test_a_template_is_not_particular(tmp_path, picture, side):
    many = [question(f"x/{i}", [picture(10 + i)], LONG) for i in range(5)]
    one = [question("y/0", [picture(99)], LONG)]
    train, benchmark = (many, one) if side == "train" else (one, many)
    kept, _ = run_over(tmp_path, [train], benchmark)
    assert kept == [asked.uid for asked in train]
    (tmp_path / "again").mkdir()
    kept, _ = run_over(tmp_path / "again", [train[:4]], benchmark[:4])
    assert kept == []


def test_blank_pictures_are_no_evidence(tmp_path, picture):
    noise = np.random.default_rng(0).normal(250, 1, (90, 120, 3)).clip(0, 255).astype(np.uint8)
    blank = picture.stored(Image.new("RGB", (64, 48)), "black")
    noisy = picture.stored(Image.fromarray(noise), "noisy", quality=90)
    thin = Image.new("RGB", (320, 240), "white")
    ImageDraw.Draw(thin).polygon([(40, 30), (250, 90), (120, 210)], outline="black", width=2)
    drawing = picture.stored(thin, "drawing")
    benchmark = [question(f"b/{i}", [image]) for i, image in enumerate([blank, noisy, drawing])]
    train = [question(f"t/{i}", [image, picture(1)]) for i, image in enumerate([blank, noisy, drawing])]
    kept, matches = run_over(tmp_path, [train], benchmark)
    assert kept == ["t/0", "t/1"]
    assert list(matches) == ["t/2"]


def test_a_hash_that_errs_is_overruled_by_looking(tmp_path, picture):
    theirs = picture(1)
    mine = replace(picture(2), phash=theirs.phash)
    kept, _ = run_over(tmp_path, [[question("t/1", [mine])]], [question("b/1", [theirs])])
    assert kept == ["t/1"]


def test_a_duplicate_is_looked_at_too(tmp_path, picture):
    """Near hashes, the same words and the same gold over different pictures: two questions, not one."""
    mine = replace(picture(2), phash=picture(1).phash)
    train = [question("t/1", [picture(1)]), question("t/2", [mine]), question("t/3", [picture(1, quality=80)])]
    kept, matches = run_over(tmp_path, [train], [question("b/1", [picture(50)])])
    assert kept == ["t/1", "t/2"]
    assert matches["t/3"].other == "t/1"


def test_the_earlier_input_keeps_its_question(tmp_path, picture):
    images = [picture(1), picture(2)]
    first = [question("z/1", images), question("z/2", images, "Which is larger?")]
    second = [
        question("a/1", images, options=("the second", "the first"), answer="B"),  # the same gold, shuffled
        question("a/2", images[::-1]),  # another order is another question
        question("a/3", [picture(1, quality=70), picture(2, size=200)]),
        question("a/4", [picture(1, quality=70), picture(2, size=200)], answer="B"),  # near, and another gold
        question("a/5", images, answer="B"),  # the same files, and another gold
    ]
    kept, matches = run_over(tmp_path, [first, second], [question("b/1", [picture(50)])])
    assert kept == ["z/1", "z/2", "a/2", "a/4"]
    assert {uid: match.other for uid, match in matches.items()} == {"a/1": "z/1", "a/3": "z/1", "a/5": "z/1"}
    assert matches["a/5"].note == "the same files, but another gold: one of the two is wrong"
    assert matches["a/3"].note == "near pictures and the same gold"


def test_of_a_chain_of_near_pictures_the_ends_stay():
    """a ~ b ~ c, and a is not near c: b goes because of a, and c stays because b is gone."""
    fingerprints = Fingerprints(
        uids=["s/a", "s/b", "s/c"],
        inputs=array("q", [0, 0, 0]),
        hashes=array("Q", [0b0, 0b1111, 0b11111111]),
        files=array("Q", [1, 2, 3]),
        ends=array("q", [1, 2, 3]),
        asked=array("Q", [7, 7, 7]),
        golds=array("Q", [5, 5, 5]),
    )
    assert duplicates_of(fingerprints.candidates(4), alike=lambda i, j: True) == {1: 0}
    assert duplicates_of(fingerprints.candidates(8), alike=lambda i, j: True) == {1: 0, 2: 0}
    assert duplicates_of(fingerprints.candidates(8), alike=lambda i, j: j == 1) == {2: 1}


@settings(max_examples=60)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.sampled_from([0, 1, 0b111, 0b11111, 2**60]), min_size=2, max_size=2),  # hashes
            st.sampled_from([1, 2]),  # what is asked
            st.sampled_from([1, 2]),  # gold
        ),
        max_size=12,
    )
)
def test_duplicates_are_what_comparing_all_pairs_finds(rows):
    fingerprints = Fingerprints()
    for i, (hashes, asked, gold) in enumerate(rows):
        fingerprints.uids.append(f"s/{i:02d}")
        fingerprints.inputs.append(0)
        fingerprints.hashes.extend(hashes)
        fingerprints.files.extend(hashes)
        fingerprints.ends.append(2 * i + 2)
        fingerprints.asked.append(asked)
        fingerprints.golds.append(gold)
    assert fingerprints.golds == array("Q", [gold for _, _, gold in rows])
    expected = {}
    for i, (hashes, asked, gold) in enumerate(rows):
        for j, (other, other_asked, other_gold) in enumerate(rows[:i]):
            near = all((a ^ b).bit_count() <= 3 for a, b in zip(hashes, other, strict=True))
            same = hashes == other or (near and gold == other_gold)
            if j not in expected and asked == other_asked and same:
                expected[i] = j
                break
    assert duplicates_of(fingerprints.candidates(3), alike=lambda i, j: True) == expected


def test_gold_of():
    asked = question("t/1", [ImageRef("/x.png", 1, 1, "0", "0")])
    assert gold_of(asked) == "the first"
    assert gold_of(replace(asked, answer="7", answer_type="number", options=())) == "7"


def test_a_uid_that_two_inputs_have_stops_the_run(tmp_path, picture):
    with pytest.raises(ValueError, match="two questions have the uid 't/1'"):
        run_over(
            tmp_path,
            [[question("t/1", [picture(1)])], [question("t/1", [picture(2)])]],
            [question("b/1", [picture(3)])],
        )


def test_a_picture_that_is_gone_stops_the_run(tmp_path, picture):
    gone = picture(1, size=100)
    Path(gone.path).unlink()
    with pytest.raises(OSError, match="data set is not whole"):
        run_over(tmp_path, [[question("t/1", [gone])]], [question("b/1", [picture(1)])])


def test_a_picture_that_only_the_page_would_show_may_be_gone(tmp_path, picture):
    gone = picture(1)
    train, benchmark = [question("t/1", [gone], LONG)], [question("b/1", [picture(2)], LONG)]
    run = Decontamination([dataset(tmp_path / "t", train)], {"bench": dataset(tmp_path / "b", benchmark)})
    Path(gone.path).unlink()
    assert list(run.kept()) == []
    write_report(tmp_path, run)
    assert "cannot be shown" in (tmp_path / "decontamination.html").read_text()


def test_every_reason_has_a_meaning():
    assert set(CODES) <= set(REASONS)


@pytest.fixture
def contaminated(tmp_path, picture):
    """Directories of training questions with every reason, and of a benchmark."""
    bad = '<script>alert("x")</script><img src=x onerror=alert(1)> what stands on the third shelf from the left?'
    train = [
        question("t/question", [picture(1), picture(2)]),
        question("t/image", [picture(1), picture(5)], bad),
        question("t/text", [picture(6), picture(7)], LONG),
        question("t/twice", [picture(6), picture(8)], "Which is larger?"),
        question("t/twice-again", [picture(6), picture(8)], "Which is larger?"),
    ]
    benchmark = [question("b/1", [picture(1), picture(2)]), question("b/2", [picture(3)], LONG)]
    return dataset(tmp_path / "train", train), dataset(tmp_path / "bench", benchmark)


def test_the_script_writes_what_adds_up(tmp_path, contaminated):
    train, benchmark = contaminated
    command = [
        sys.executable,
        SCRIPT,
        "--input",
        train,
        "--benchmark",
        f"muir={benchmark}",
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [kept.uid for kept in read_questions(tmp_path / "out")] == ["t/twice"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["questions"] + manifest["rejected"] == 5
    assert manifest["rejected_by_reason"] == {
        "benchmark_image": 1,
        "benchmark_question": 1,
        "benchmark_text": 1,
        "duplicate": 1,
    }
    summary = json.loads((tmp_path / "out" / "decontamination.json").read_text())
    assert summary["by_benchmark"] == {
        "muir": {"benchmark_question": 1, "benchmark_image": 1, "benchmark_text": 1},
    }
    assert summary["by_source"]["t"]["read"] == 5
    # Pictures stay where they are, by absolute path, and a second run does not overwrite the first.
    assert not (tmp_path / "out" / "images").exists()
    assert Path(next(read_questions(tmp_path / "out")).images[0].path).exists()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "holds a complete data set" in again.stderr


def test_without_a_benchmark_duplicates_go(tmp_path, contaminated):
    train, _ = contaminated
    command = [sys.executable, SCRIPT, "--input", train, "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["rejected_by_reason"] == {"duplicate": 1}
    assert "By benchmark" not in (tmp_path / "out" / "decontamination.html").read_text()


def test_what_an_interrupted_run_left_is_cleared(tmp_path):
    part = tmp_path / "out" / "questions" / "part-00007.jsonl"
    part.parent.mkdir(parents=True)
    part.write_text("{}\n")
    start_anew(tmp_path / "out")
    assert not part.exists()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_the_page_shows_pairs_and_untrusted_text(tmp_path, contaminated, open_page, color_scheme):
    train, benchmark = contaminated
    run = Decontamination([train], {"muir": benchmark})
    list(run.kept())
    write_report(tmp_path, run)
    with open_page(tmp_path / "decontamination.html", color_scheme=color_scheme) as page:
        assert page.problems == []
        assert page.locator("article").count() == 4
        assert page.locator("article script, article [onerror]").count() == 0
        assert "<script>alert" in page.locator("#benchmark_image ~ article pre").first.inner_text()
        assert page.locator("article img").count() == 15
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
