"""The picture of the method on the README's first screen, from the code that it shows.

    python tools/method_picture.py docs/img/method.svg

The question is one of the demo's digits questions with its real pictures, the trajectory is one of those that its data
writes, the rewards are those of `cinema_verl.diversity` and the curve is that of `cinema_verl.schedule`. Needs
scikit-learn, for the pictures.
"""

import argparse
import base64
import io
from html import escape
from itertools import groupby
from pathlib import Path

from cinema_verl.demo.digit_images import draw_image, load_pools
from cinema_verl.demo.digit_tasks import image_letters, trajectory
from cinema_verl.demo.digits import DigitsQuestion, questions
from cinema_verl.diversity import group_rewards
from cinema_verl.meta_action import ANSWER, parse
from cinema_verl.schedule import AnnealingSchedule

PATH = ("global", "focus", "hint", "think")
QUESTION = "What is the sum of the digits?"  # over two images, and an answer that needs both
ASKS = {
    "global": "how do the images relate?",
    "focus": "what is in each?",
    "hint": "what matters, what could go wrong?",
    "think": "join it",
    "answer": "the only part whose correctness counts",
}
GROUP = (  # a group of eight: pattern, correct
    *[("focus>think>answer", True)] * 5,
    ("hint>think>answer", True),
    ("global>focus>think>answer", True),
    ("think>answer", False),
)
COEFFICIENT, SCHEDULE = 0.1, AnnealingSchedule(0.1, 700, 300, "linear")
STYLE = """
  text { font-family: Helvetica, Arial, sans-serif; fill: #1b2330 }
  .dim { fill: #5a6675 } .mono { font-family: monospace }
  .card { fill: #fff; stroke: #c9d1da } .page { fill: #f7f9fb }
  .global { fill: #5b3fa8 } .focus { fill: #0b6a86 } .hint { fill: #8a5200 }
  .think { fill: #2f5f2a } .answer { fill: #a01e5d }
  .line { fill: none; stroke: #5b3fa8; stroke-width: 2.5 } .axis { stroke: #c9d1da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6ebf1 } .dim { fill: #9fabb8 } .card { fill: #1a2129; stroke: #3b4754 } .page { fill: #11161c }
    .global { fill: #b9a4ff } .focus { fill: #6fcbe8 } .hint { fill: #f0b860 }
    .think { fill: #98cf90 } .answer { fill: #ff9cc8 }
    .line { stroke: #b9a4ff } .axis { stroke: #3b4754 }
  }
"""


def chosen() -> DigitsQuestion:
    """The first question of the demo's training questions that asks `QUESTION` over digits that are not the same."""
    drawn = questions(load_pools(), "train", "train", 100, 0, set())
    return next(each for each in drawn if each.problem.question == QUESTION and len(set(each.problem.digits)) == 2)


def text(x: float, y: float, words: str, size: float = 15, kind: str = "", weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-weight="{weight}" class="{kind}">{escape(words)}</text>'
    )


def card(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" class="card"/>'


def asked(question: DigitsQuestion) -> list[str]:
    """The question with its pictures, on the left."""
    parts = [card(16, 16, 262, 282), text(32, 44, "A question over images", 15, weight="bold")]
    for letter, name, x in zip(image_letters(2), question.images, (32, 150), strict=True):
        file = io.BytesIO()
        draw_image(load_pools(), name).save(file, format="PNG")
        data = base64.b64encode(file.getvalue()).decode()
        parts.append(
            f'<image x="{x}" y="60" width="94" height="94" href="data:image/png;base64,{data}" '
            'style="image-rendering:pixelated"/>'
        )
        parts.append(text(x, 174, f"Image {letter}", 13, "dim"))
    parts += [
        text(32, 208, question.problem.question, 15),
        text(32, 244, "from the demo: handwritten digits,", 12.5, "dim"),
    ]
    return [*parts, text(32, 262, "a tiny Qwen2.5-VL, two CPU cores", 12.5, "dim")]


def answered(question: DigitsQuestion) -> list[str]:
    """The trajectory, one row an action."""
    parts = [
        card(294, 16, 690, 282),
        text(310, 44, "Reasoning as meta-actions, in an order that the model chooses", 15, weight="bold"),
    ]
    found = parse(trajectory(question.problem, PATH))
    for row, (name, body) in enumerate(found.actions):
        y = 82 + row * 48
        parts.append(f'<rect x="310" y="{y - 20}" width="5" height="32" rx="2" class="{name}"/>')
        parts.append(text(326, y, f"<{name}>", 15, f"mono {name}", "bold"))
        parts.append(text(430, y, body, 16, "mono"))
        parts.append(text(676, y, ASKS[name], 13.5, "dim"))
    return parts


def explored() -> list[str]:
    """Stage 1: a group with the rewards that `group_rewards` gives it."""
    parts = [card(16, 314, 476, 208), text(32, 342, "Stage 1, exploration: 700 steps", 15, weight="bold")]
    parts.append(text(32, 363, "A correct answer found as everybody found it is worth a little less.", 13, "dim"))
    patterns, correct = zip(*GROUP, strict=True)
    rewards = group_rewards([*map(float, correct)], [1.0] * len(GROUP), list(patterns), ["q"] * len(GROUP), COEFFICIENT)
    rows = [(pattern, right, len([*same]), reward) for (pattern, right, reward), same in
            groupby((*each, float(reward)) for each, reward in zip(GROUP, rewards, strict=True))]  # fmt: skip
    for row, (pattern, right, count, reward) in enumerate(rows):
        y, x = 394 + row * 26, 72.0
        parts.append(text(32, y, f"{count} ×", 14, "dim"))
        for name in pattern.split(">"):
            width = 11 + 8.2 * len(name)
            parts.append(text(x, y, name, 13.5, f"mono {name}", "bold"))
            x += width + (14 if name != ANSWER else 0)
            if name != ANSWER:
                parts.append(text(x - 18, y, "›", 14, "dim"))
        parts.append(text(346, y, "correct" if right else "incorrect", 13, "dim"))
        parts.append(text(418, y, f"R {reward:.3f}", 14, "mono"))
    return [
        *parts,
        text(
            32, 505, f"{len(GROUP)} rollouts of one question, all well formed; coefficient {COEFFICIENT}", 12.5, "dim"
        ),
    ]


def annealed() -> list[str]:
    """Stage 2: the coefficient over the steps, as the schedule gives it."""
    parts = [card(508, 314, 476, 208), text(524, 342, "Stage 2, exploitation: 300 steps", 15, weight="bold")]
    parts.append(text(524, 363, "The term anneals to 0; only mixed groups are trained on.", 13, "dim"))
    left, right, top, bottom = 570.0, 964.0, 388.0, 478.0
    steps = range(0, SCHEDULE.total_steps + 1, 10)
    across, down = (right - left) / SCHEDULE.total_steps, (bottom - top) / COEFFICIENT
    place = [(left + across * step, bottom - down * SCHEDULE(step)) for step in steps]
    parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    parts.append('<polyline class="line" points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in place) + '"/>')
    parts += [text(528, top + 5, "0.1", 13, "dim"), text(528, bottom + 5, "0", 13, "dim")]
    change = left + (right - left) * 0.7
    parts.append(f'<path class="axis" stroke-dasharray="4 4" d="M{change} {top}V{bottom}"/>')
    parts += [
        text(left - 4, 498, "step 0", 12.5, "dim"),
        text(change - 12, 498, "700", 12.5, "dim"),
        text(right - 28, 498, "1,000", 12.5, "dim"),
    ]
    return [*parts, text(524, 515, "coefficient of the diversity term, over the steps", 12.5, "dim")]


def picture() -> str:
    question = chosen()
    parts = [*asked(question), *answered(question), *explored(), *annealed()]
    title = "The method: a question over two images, a trajectory of five meta-actions, and the two stages of training"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 538" role="img">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n"
        '<rect width="1000" height="538" rx="10" class="page"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="SVG file to write.")
    parser.parse_args().path.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
