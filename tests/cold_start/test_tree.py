"""Trees: samples merged by path, hand-worked and as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.cold_start.tree import MAX_ACTIONS, ActionNode, grow, pattern, read
from cinema_verl.data.canonical import ImageRef, Question
from cinema_verl.meta_action import ACTIONS, ANSWER

IMAGE = ImageRef("/a.png", 28, 28, "0" * 64, "0" * 16)
QUESTION = Question(
    "q", "made", "0", "train", "none", "multi", "<image><image> which?", (IMAGE, IMAGE), "mcq", "B",
    options=("red", "green"),
)  # fmt: skip
SINGLE = Question("q", "made", "0", "train", "none", "single", "<image> how many?", (IMAGE,), "number", "3")


def shape(nodes):
    """action -> (origins through it, children)."""
    return {node.action: ([step.sample.origin for step in node.steps], shape(node.children)) for node in nodes}


def bodies(node: ActionNode) -> list[str]:
    return [step.body for step in node.steps]


def test_samples_merge_by_path_and_keep_their_words(text):
    samples = [
        read("student/0", text("focus think", "A", "one"), QUESTION),
        read("student/1", text("hint think", "B", "two"), QUESTION),
        read("student/2", "no tags at all", QUESTION),
        read("teacher/0", text("focus think", "B", "three"), QUESTION),
        read("student/3", text("focus", "B", "four"), QUESTION),
    ]
    trees = grow(samples)
    assert shape(trees) == {
        "focus": (
            ["student/0", "teacher/0", "student/3"],
            {
                "think": (["student/0", "teacher/0"], {"answer": (["student/0", "teacher/0"], {})}),
                "answer": (["student/3"], {}),
            },
        ),
        "hint": (["student/1"], {"think": (["student/1"], {"answer": (["student/1"], {})})}),
    }
    focus, hint = trees
    assert bodies(focus) == ["one", "three", "four"]
    assert (focus.correct, focus.children[0].correct, focus.children[1].correct, hint.correct) == (2, 1, 1, 1)
    assert bodies(focus.children[0].children[0]) == ["A", "B"]


def test_an_action_that_repeats_is_a_node_below_itself(text):
    (tree,) = grow([read("s", text("focus focus"), QUESTION)])
    assert shape([tree]) == {"focus": (["s"], {"focus": (["s"], {"answer": (["s"], {})})})}


@pytest.mark.parametrize(
    ("words", "usable", "correct"),
    [
        ("<think>x</think><answer>B</answer>", True, True),
        ("  <think>x</think>\n<answer>B. green</answer>\n", True, True),
        ("<think>x</think><answer>A</answer>", True, False),
        ("<think>x</think><answer>A or B</answer>", True, False),
        ("<think>x</think><answer>B</answer> bye", False, True),  # judged whatever else is wrong
        ("<answer>B</answer>", False, True),
        ("<think>x</think>", False, False),
        ("<think>see <image></think><answer>B</answer>", False, True),  # verl would take it for an image
        ("<think>x</think>" * (MAX_ACTIONS - 1) + "<answer>B</answer>", True, True),
        ("<think>x</think>" * MAX_ACTIONS + "<answer>B</answer>", False, True),
        ("", False, False),
    ],
)
def test_what_grows_and_what_is_correct(words, usable, correct):
    sample = read("s", words, QUESTION)
    assert (sample.usable, sample.correct) == (usable, correct)


def test_over_one_image_global_does_not_grow(text):
    assert not read("s", text("global think", "3"), SINGLE).usable
    assert read("s", text("focus think", "3"), SINGLE).usable


PATHS = st.lists(st.sampled_from([name for name in ACTIONS if name != ANSWER]), min_size=0, max_size=5)


@given(st.lists(st.tuples(PATHS, st.sampled_from("AB")), max_size=12))
def test_trees_hold_each_usable_sample_once_on_its_path(drawn):
    samples = [
        read(str(i), "".join(f"<{name}>x</{name}>" for name in path) + f"<answer>{answer}</answer>", QUESTION)
        for i, (path, answer) in enumerate(drawn)
    ]
    leaves = []

    def visit(node, above):
        path = (*above, node.action)
        assert (node.action == ANSWER) == (not node.children)
        if node.children:
            assert len({child.action for child in node.children}) == len(node.children)
            assert sorted(s.sample.origin for c in node.children for s in c.steps) == sorted(
                s.sample.origin for s in node.steps
            )
            assert node.correct == sum(child.correct for child in node.children)
        else:
            leaves.extend((step.sample.origin, path) for step in node.steps)
        for child in node.children:
            visit(child, path)

    trees = grow(samples)
    assert ANSWER not in {tree.action for tree in trees}
    for tree in trees:
        visit(tree, ())
    assert sorted(leaves) == sorted((s.origin, s.path) for s in samples if s.usable)
    assert all(pattern(s.path) == s.trajectory.pattern for s in samples)
