"""The digits set: disjoint splits, correct answers, well-formed gold trajectories, the same bytes again."""

import random
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cinema_verl.demo import digit_images, digit_tasks, digits
from cinema_verl.meta_action import parse
from cinema_verl.reward import compute_score

SIZES = digits.Sizes(train=60, test=40, sft_train=400, sft_val=20, pretrain=60)
FILES = ("train", "test", "sft_train", "sft_val", "pretrain")


@pytest.fixture(scope="module")
def pools():
    return digit_images.load_pools()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits")
    digits.write_dataset(output, SIZES, seed=3)
    return output


def _shown(path):
    """Indices of scikit-learn's digits that a file's rows show."""
    return {
        int(cell["image"].rsplit("/", 1)[1][:4])
        for row in pq.read_table(path, columns=["images"]).to_pylist()
        for cell in row["images"]
    }


def test_splits_share_no_digit(pools, dataset):
    indices = [index for split in pools.by_split.values() for pool in split.values() for index in pool]
    assert sorted(indices) == list(range(1797))
    test, val = _shown(dataset / "test.parquet"), _shown(dataset / "sft_val.parquet")
    train = set().union(*(_shown(dataset / f"{name}.parquet") for name in ("train", "sft_train", "pretrain")))
    assert len(train) + len(val) + len(test) == len(train | val | test)


def test_no_question_is_asked_twice(pools):
    asked = set()
    drawn = [q for name in ("a", "b") for q in digits.questions(pools, "train", name, 500, 0, asked)]
    assert len({(question.problem.question, question.images) for question in drawn}) == len(drawn) == len(asked)


def test_more_questions_than_there_are_is_an_error(pools):
    with pytest.raises(ValueError, match="no new question for read"):
        list(digits.questions(pools, "val", "x", 20_000, 0, set()))


def test_every_task_is_drawn_equally_and_every_answer_occurs(pools):
    answers = defaultdict(Counter)
    for question in digits.questions(pools, "train", "x", 3000, 0, set()):
        answers[question.task.name][question.problem.answer] += 1
    assert {name: counts.total() for name, counts in answers.items()} == {task.name: 300 for task in digit_tasks.TASKS}
    for name, counts in answers.items():
        share = counts.most_common(1)[0][1] / 300
        assert share < 0.62, f"{name}: guessing {counts.most_common(1)[0][0]!r} gets {share:.2f}"


def _by_hand(name, values, question):
    """The correct answer, computed in another way than the generator's."""
    letters = "ABCD"[: len(values)]
    match name:
        case "largest":
            return letters[int(np.argmax(values))]
        case "sum":
            return str(sum(values))
        case "odd_one_out":
            return next(letter for letter, value in zip(letters, values, strict=True) if values.count(value) == 1)
        case "order":
            return ", ".join(letters[i] for i in np.argsort(values))
        case "same":
            return "yes" if len(set(values)) == 1 else "no"
        case "count_even":
            return str(sum(value % 2 == 0 for value in values))
        case "trend":
            return "rise" if np.all(np.diff(values) > 0) else "fall"
        case "change":
            return letters[int(np.flatnonzero(np.diff(values))[0]) + 1]
        case "read":
            return str(values[0])
        case "greater":
            return "yes" if values[0] > int(question.split("than ")[1][0]) else "no"


def test_answers_are_correct_for_the_digits_in_the_images(pools):
    from sklearn.datasets import load_digits

    target = load_digits().target
    for question in digits.questions(pools, "test", "x", 1000, 1, set()):
        values = [int(target[int(name[:4])]) for name in question.images]
        assert question.problem.answer == _by_hand(question.task.name, values, question.problem.question)


def test_gold_trajectories_score_full_marks_and_differ_in_pattern(pools, dataset):
    for index, question in enumerate(digits.questions(pools, "train", "x", 1000, 2, set())):
        row = digits.question_rl_row(question, index, dataset)
        patterns = set()
        for text in question.trajectories:
            gold = row["reward_model"]["ground_truth"]
            score = compute_score(row["data_source"], text, gold, row["extra_info"])
            assert (score["acc"], score["format"]) == (1.0, 1.0), text
            patterns.add(score["pattern"])
        assert len(patterns) == 2


def test_sft_file_has_two_patterns_a_question_and_global_only_over_many(dataset):
    rows = pq.read_table(dataset / "sft_train.parquet").to_pylist()
    assert len(rows) == 2 * SIZES.sft_train
    patterns = defaultdict(list)
    for row in rows:
        assert parse(row["messages"][-1]["content"]).pattern == row["pattern"]
        assert not (len(row["images"]) == 1 and "global" in row["pattern"])
        patterns[row["uid"]].append(row["pattern"])
    assert all(len(set(pair)) == 2 for pair in patterns.values())
    assert len({pattern for pair in patterns.values() for pattern in pair}) >= 12


def test_two_focus_actions_share_the_images():
    problem = digit_tasks.TASKS[0].make(random.Random(0))
    text = digit_tasks.trajectory(problem, ("focus", "focus"))
    first, second, _ = (body for _, body in parse(text).actions)
    assert len(f"{first}, {second}".split(", ")) == len(problem.digits)


def test_pretraining_rows_read_every_digit_and_reason(dataset):
    rows = pq.read_table(dataset / "pretrain.parquet").to_pylist()
    assert len(rows) == SIZES.pretrain
    assert {row["pattern"] for row in rows} == {"focus>think>answer"}
    for row in rows:
        assert row["messages"][-1]["content"].count("=") >= len(row["images"])


def test_images_are_one_vision_token_of_dark_ink_on_white(pools, dataset):
    rows = pq.read_table(dataset / "test.parquet").to_pylist()
    cell = rows[0]["images"][0]
    assert (cell["min_pixels"], cell["max_pixels"]) == (784, 784)
    with Image.open(cell["image"]) as image:
        assert image.size == (28, 28)
        assert np.asarray(image).mean() > 127
    centre = digit_images.draw_image(pools, "0000+0+0.png")
    moved = digit_images.draw_image(pools, "0000+2+1.png")
    assert np.array_equal(np.roll(np.asarray(centre), (1, 2), axis=(0, 1)), np.asarray(moved))


def test_a_file_of_no_questions_is_left_out(tmp_path):
    digits.write_dataset(tmp_path, digits.Sizes(train=10, test=10, sft_train=0, sft_val=0))
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["test.parquet", "train.parquet"]


def test_the_same_arguments_give_the_same_bytes_and_a_second_run_writes_nothing(dataset, capsys):
    before = {name: (dataset / f"{name}.parquet").read_bytes() for name in FILES}
    times = {name: (dataset / f"{name}.parquet").stat().st_mtime_ns for name in FILES}
    digits.write_dataset(dataset, SIZES, seed=3)
    assert "nothing to do" in capsys.readouterr().out
    assert times == {name: (dataset / f"{name}.parquet").stat().st_mtime_ns for name in FILES}
    (dataset / "digits.json").unlink()
    digits.write_dataset(dataset, SIZES, seed=3)
    assert before == {name: (dataset / f"{name}.parquet").read_bytes() for name in FILES}
    digits.write_dataset(dataset, SIZES, seed=4)
    assert before["train"] != (dataset / "train.parquet").read_bytes()
    digits.write_dataset(dataset, SIZES, seed=3)


def test_pictures_are_one_token_of_the_model_that_is_named(pools, tmp_path):
    """28-pixel tokens and 32-pixel ones: shown in the pixels of the first, a digit would be nothing to the second."""
    from cinema_verl.data.tokens import ImageSizeError, Patching, vision_tokens
    from cinema_verl.utils.torchvision import ensure_torchvision_importable

    ensure_torchvision_importable()
    from transformers import Qwen2VLImageProcessor

    small = {"shortest_edge": 1024, "longest_edge": 1024 * 16}
    larger, smaller = Qwen2VLImageProcessor(patch_size=16, size=small), Qwen2VLImageProcessor(patch_size=14, size=small)
    assert (digits.token_area(larger), digits.token_area(smaller)) == (1024, 784)
    (question,) = digits.questions(pools, "test", "one", 1, 0, set())
    row = digits.question_rl_row(question, 0, tmp_path, pixels=digits.token_area(larger))
    limits = {name: row["images"][0][name] for name in ("min_pixels", "max_pixels")}
    assert vision_tokens(28, 28, Patching.of(larger), **limits) == 1
    with pytest.raises(ImageSizeError, match="32 px a side"):
        vision_tokens(28, 28, Patching.of(larger), min_pixels=784, max_pixels=784)
    with pytest.raises(TypeError, match="NoneType cuts images"):
        digits.token_area(None)
