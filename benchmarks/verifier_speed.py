"""How fast the verifier is: the figures in docs/verifier.md.

    python benchmarks/verifier_speed.py

Rates are per second of CPU time, ours and the workers', so that they mean one core and bear a busy machine; each is the
median of several rounds that alternate between those compared. Latencies are wall-clock time.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cinema_verl.meta_action import parse
from cinema_verl.verify import decide
from cinema_verl.verify.math_pool import MathPool
from cinema_verl.verify.math_worker import equivalent

TEXT = (
    "the image shows a red car next to two trees while in the second picture a dog runs across wet grass and we have "
    "to compare position colour count order of each object between both frames before an answer can be given"
)
WORDS = TEXT.split()
OPTIONS = ("a red car", "a blue car", "two dogs", "none of the above")


def trajectory(rng: random.Random, answer: str) -> str:
    """Four actions and an answer, about 400 tokens: 300 words of English."""
    text = "".join(
        f"<{name}>{' '.join(rng.choices(WORDS, k=75))}</{name}>\n" for name in ("global", "focus", "hint", "think")
    )
    return f"{text}<answer>{answer}</answer>"


def rows(rng: random.Random, kind: str, count: int) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """(trajectory, gold, answer type, options): one gold a group of eight, answers all different where they can be."""

    def row(i: int) -> tuple[str, str, str, tuple[str, ...]]:
        group = i // 8
        if kind == "mcq, letter":
            return rng.choice("ABCD"), rng.choice("ABCD"), "mcq", OPTIONS
        if kind == "mcq, prose":
            return f"The answer is ({rng.choice('ABCD')}) as {i} shows.", "B", "mcq", OPTIONS
        if kind == "mcq, option text":
            return rng.choice(OPTIONS), "B", "mcq", OPTIONS
        if kind == "yesno":
            return rng.choice(("yes", "no", "Yes, they do.")), "yes", "yesno", ()
        if kind == "number, equal":
            return f"{group + 1000}.0", f"{group + 1000}", "number", ()
        if kind == "number, different":
            return f"{rng.randrange(10**6)} cm", f"{group + 1000} cm", "number", ()
        if kind == "text":
            return f"thing {i % 90}", f"thing {group % 90}", "text", ()
        if kind == "ordering":
            return ", ".join(rng.sample("ABCDE", 5)), "B, A, C, E, D", "ordering", ()
        if kind == "ocr, near miss":
            return (
                f"Mind the gup between {group} and {group + 1}",
                f"Mind the gap between {group} and {group + 1}",
                "ocr",
                (),
            )
        raise ValueError(kind)

    made = [row(i) for i in range(count)]
    return [(trajectory(rng, answer), gold, answer_type, options) for answer, gold, answer_type, options in made]


KINDS = (
    *(
        "mcq, letter",
        "mcq, prose",
        "mcq, option text",
        "yesno",
        "number, equal",
        "number, different",
        "text",
        "ordering",
    ),
    "ocr, near miss",
)


def cpu_rate(work: Callable[[], int]) -> float:
    """Items a second of this process's CPU time."""
    start = time.process_time()
    count = work()
    return count / (time.process_time() - start)


def median_rates(works: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            rates[name].append(cpu_rate(work))
    return {name: statistics.median(values) for name, values in rates.items()}


def judge_rows(data: Iterable[tuple[str, str, str, tuple[str, ...]]]) -> int:
    return len([decide(parse(text).answer, gold, kind, options=options) for text, gold, kind, options in data])


def non_math(rounds: int) -> None:
    print("parse + verify, 400-token trajectories, a second of one core (target 50,000)")
    rng = random.Random(0)
    works = {}
    for kind in KINDS:
        data = rows(rng, kind, 3000)
        works[kind] = lambda data=data: judge_rows(data)
    mixed = [row for kind in KINDS for row in rows(rng, kind, 400)]
    works["all of them, mixed"] = lambda: judge_rows(mixed)
    for name, rate in median_rates(works, rounds).items():
        print(f"  {name:24s} {rate:10,.0f}")


def beside_geo3k(rounds: int) -> None:
    """Their reward (accuracy and format) of their format, our parse and verify of ours, with the same 300 words."""
    try:
        from verl.utils.reward_score import geo3k
    except ImportError as error:
        print(f"verl's geo3k reward: {error}")
        return
    print("beside verl's geo3k reward, 400-token trajectories, a second of one core")
    rng = random.Random(3)
    for name, answers in {"equal": ["42"] * 300, "different": [str(i + 43) for i in range(300)]}.items():
        thoughts = [" ".join(rng.choices(WORDS, k=300)) for _ in answers]
        pairs = list(zip(thoughts, answers, strict=True))
        boxed = [rf"<think>{thought}</think> \boxed{{{answer}}}" for thought, answer in pairs]
        tagged = [f"<think>{thought}</think><answer>{answer}</answer>" for thought, answer in pairs]

        def theirs(texts: list[str] = boxed) -> int:
            return len([geo3k.compute_score(text, "42") for text in texts])

        def ours(texts: list[str] = tagged) -> int:
            return judge_rows((text, "42", "number", ()) for text in texts)

        rates = median_rates({"theirs": theirs, "ours": ours}, rounds)
        ratio = rates["ours"] / rates["theirs"]
        print(f"  {name:10s} ours {rates['ours']:10,.0f}   theirs {rates['theirs']:10,.0f}   ratio {ratio:6.1f}")


def worker_cpu(pool: MathPool) -> float:
    """CPU seconds of the pool's workers so far; they are forks of one process."""
    assert pool._process is not None
    total, tick = 0, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pool._process.pid:
            total += int(fields[11]) + int(fields[12])
    return total / tick


def fractions(rng: random.Random, count: int) -> list[tuple[str, str]]:
    pairs = []
    for _ in range(count):
        a, b, c = rng.randrange(2, 99), rng.randrange(2, 99), rng.randrange(2, 9)
        gold = rf"\frac{{{a}}}{{{b}}}"
        pairs.append((rng.choice((rf"\frac{{{a * c}}}{{{b * c}}}", rf"\frac{{{a + 1}}}{{{b}}}", f"{a}/{b}")), gold))
    return pairs


def expressions(rng: random.Random, count: int) -> list[tuple[str, str]]:
    pairs = []
    for _ in range(count):
        a, b = rng.randrange(2, 99), rng.randrange(2, 99)
        pairs.append(
            rng.choice(
                (
                    (rf"{a}+\sqrt{{{b}}}", rf"\sqrt{{{b}}}+{a}"),
                    (rf"{a}x+{b}", rf"{b}+{a}x"),
                    (rf"\frac{{{a}x}}{{{b}}}", rf"{a}x/{b}"),
                    (rf"{a}\pi", rf"{b}\pi"),
                    (rf"({a}, \infty)", rf"({b}, \infty)"),
                )
            )
        )
    return pairs


def math(rounds: int) -> None:
    from math_verify import parse as mv_parse
    from math_verify import verify as mv_verify

    print("LaTeX, a second of one core: math-verify in this process, and our workers (their CPU time and ours)")
    pool = MathPool(workers=2, cpu_seconds=60, wall_seconds=600)
    pool.ask("x+1", "1+x")
    rng = random.Random(1)
    for name, make in {"fractions": fractions, "expressions": expressions}.items():
        here, there, verdicts = [], [], []
        for _ in range(rounds):
            pairs = make(rng, 150)  # new ones each round: nobody's cache helps
            start = time.process_time()
            in_process = [mv_verify(mv_parse(f"${gold}$"), mv_parse(f"${answer}$")) for answer, gold in pairs]
            here.append(len(pairs) / (time.process_time() - start))
            ours_before, theirs_before = time.process_time(), worker_cpu(pool)
            pooled = [pool.ask(answer, gold) for answer, gold in pairs]
            there.append(len(pairs) / (time.process_time() - ours_before + worker_cpu(pool) - theirs_before))
            verdicts += [a == bool(b and b.correct) for a, b in zip(in_process, pooled, strict=True)]
        ratio = statistics.median(b / a for a, b in zip(here, there, strict=True))
        rates = f"in process {statistics.median(here):7.0f}   through the workers {statistics.median(there):7.0f}"
        print(f"  {name:12s} {rates}   ratio {ratio:.2f}   same verdicts {sum(verdicts)} of {len(verdicts)}")
    pool.close()


def bombs(count: int) -> None:
    """Ordinary answers and bombs, from as many threads as verl's executor has."""
    rng = random.Random(2)
    questions = [(pair, False) for pair in expressions(rng, count)]
    bombs = ("9^{9^{9^{9}}}", "{" * 10_000 + "x" + "}" * 10_000)
    questions += [((rng.choice(bombs), "x"), True) for _ in range(count // 20)]
    rng.shuffle(questions)
    pool = MathPool()
    pool.ask("x+1", "1+x")
    threads = min(32, (os.cpu_count() or 1) + 4)

    def ask(question: tuple[tuple[str, str], bool]) -> tuple[float, bool, bool]:
        (answer, gold), bomb = question
        start = time.perf_counter()
        verdict = pool.ask(answer, gold)
        return time.perf_counter() - start, bomb, bool(verdict and verdict.correct)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as executor:
        results = list(executor.map(ask, questions))
    wall = time.perf_counter() - start
    pool.close()
    ordinary = sorted(seconds for seconds, bomb, _ in results if not bomb)
    exploded = sorted(seconds for seconds, bomb, _ in results if bomb)
    print(f"{count} ordinary answers and {len(exploded)} bombs, {threads} threads, {wall:.0f} s")
    for name, times in {"ordinary": ordinary, "bombs": exploded}.items():
        p50, p99 = statistics.median(times), times[min(len(times) - 1, int(0.99 * len(times)))]
        print(f"  {name:10s} p50 {p50 * 1e3:7.1f} ms   p99 {p99 * 1e3:7.1f} ms   max {times[-1] * 1e3:7.1f} ms")
    print(f"  bombs called correct: {sum(correct for _, bomb, correct in results if bomb)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("text", "geo3k", "math", "bombs"))
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    parts = {
        "text": lambda: non_math(arguments.rounds),
        "geo3k": lambda: beside_geo3k(arguments.rounds),
        "math": lambda: math(arguments.rounds),
        "bombs": lambda: bombs(600),
    }
    equivalent("x", "x")  # imports math-verify outside every clock
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


if __name__ == "__main__":
    main()
