"""How verifiers judge the cases of verifier_cases.jsonl, side by side: the table in docs/verifier.md.

    python benchmarks/verifier_conformance.py                      # whoever can be imported here
    python benchmarks/verifier_conformance.py --only ours --failures

A case is (type, answer, gold, options, aliases, tolerance), the verdict that it should get (true, false, null: the gold
cannot be read, which nobody's answer may be right for) and why. A verifier is a function of a case that returns a bool
or None: add one to VERIFIERS to see how it does. Every verifier gets the answer wrapped in what it looks for, and only
cases of the types that it is used for. verl's and math-verify know no options, aliases and tolerances: cases that give
any are left out for them. Each runs in a process of its own, and a case that takes more than a minute ends it.
"""

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("verifier_cases.jsonl")
SECONDS = 60  # for one case; a bomb has a second of CPU time, which takes longer on a busy machine

Case = dict[str, Any]
Verifier = Callable[[Case], bool | None]


def ours() -> Verifier:
    from cinema_verl.verify import verify

    def judge(case: Case) -> bool | None:
        given = {key: case[key] for key in ("options", "aliases", "tolerance") if key in case}
        return verify(case["answer"], case["gold"], case["type"], **given)

    return judge


def geo3k() -> Verifier:
    from verl.utils.reward_score.geo3k import acc_reward

    return lambda case: acc_reward(rf"\boxed{{{case['answer']}}}", case["gold"]) == 1


def math_dapo() -> Verifier:
    from verl.utils.reward_score.math_dapo import compute_score

    return lambda case: bool(compute_score(f"Answer: {case['answer']}", case["gold"])["acc"])


def math_reward() -> Verifier:
    from verl.utils.reward_score.math_reward import compute_score

    return lambda case: compute_score(rf"\boxed{{{case['answer']}}}", case["gold"]) == 1


def gsm8k() -> Verifier:
    from verl.utils.reward_score.gsm8k import compute_score

    return lambda case: compute_score(f"#### {case['answer']}", case["gold"]) == 1


def search_em() -> Verifier:
    from verl.utils.reward_score.search_r1_like_qa_em import compute_score

    return lambda case: compute_score(f"<answer>{case['answer']}</answer>", {"target": [case["gold"]]}) == 1


def math_verify() -> Verifier:
    from math_verify import parse, verify

    def judge(case: Case) -> bool:
        return bool(verify(parse(f"${case['gold']}$"), parse(f"${case['answer']}$")))

    return judge


MATHS = ("mcq", "number", "latex")  # what the math rewards are pointed at in multimodal recipes
WORDS = ("mcq", "yesno", "ocr", "text")
VERIFIERS: dict[str, tuple[Callable[[], Verifier], tuple[str, ...]]] = {
    "ours": (ours, ()),
    "math-verify": (math_verify, ("number", "latex")),
    "verl geo3k": (geo3k, MATHS),
    "verl math_dapo": (math_dapo, MATHS),
    "verl math_reward": (math_reward, MATHS),
    "verl gsm8k": (gsm8k, ("number",)),
    "verl search_r1 (EM)": (search_em, WORDS),
}


def cases_for(types: tuple[str, ...]) -> list[Case]:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    if not types:
        return cases
    return [c for c in cases if c["type"] in types and not {"options", "aliases", "tolerance"} & c.keys()]


def _serve(name: str, pipe: Connection) -> None:
    try:
        logging.disable()  # math-verify repeats every expression that takes too long
        with contextlib.redirect_stdout(io.StringIO()):  # search_r1 prints a sample now and then
            judge = VERIFIERS[name][0]()
            pipe.send(None)
            while case := pipe.recv():
                start = time.perf_counter()
                try:
                    outcome: object = judge(case)
                except Exception as error:  # whatever a verifier raises is what we count
                    outcome = repr(error)
                pipe.send((outcome, time.perf_counter() - start))
    except ImportError as error:
        pipe.send(str(error))


class Process:
    """A verifier in a process of its own, which is killed when a case takes too long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start()

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(self.name, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.missing = self.pipe.recv()

    def ask(self, case: Case) -> tuple[object, float]:
        self.pipe.send(case)
        try:
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
        except EOFError:
            pass
        self.stop()
        self.start()
        return "hung or died", float(SECONDS)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def run(name: str) -> tuple[Counter[str], list[tuple[Case, object]], float] | None:
    """Tally of passed, accepted, refused, abstained, crashed; the failures; and the seconds that it took."""
    process = Process(name)
    if process.missing:
        return None
    tally: Counter[str] = Counter()
    failures, times = [], []
    for case in cases_for(VERIFIERS[name][1]):
        outcome, seconds = process.ask(case)
        times.append(seconds)
        expected = case["verdict"]
        if outcome not in (True, False, None):
            kind = "crashed"
        elif outcome is True and expected is not True:
            kind = "accepted"
        elif expected is True and outcome is not True:
            kind = "refused"
        else:
            kind = "passed"  # who cannot abstain passes by refusing
        tally[kind] += 1
        tally["right"] += expected is True
        if kind != "passed":
            failures.append((case, outcome))
    process.stop()
    return tally, failures, sum(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one verifier", choices=VERIFIERS)
    parser.add_argument("--failures", action="store_true", help="print every case that did not pass")
    arguments = parser.parse_args()
    print("| verifier | cases | passed | wrong accepted | right refused | crashed or hung | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in [arguments.only] if arguments.only else VERIFIERS:
        result = run(name)
        if result is None:
            print(f"| {name} | cannot be imported here | | | | | |")
            continue
        tally, failures, seconds = result
        passed, accepted, refused, crashed = (tally[k] for k in ("passed", "accepted", "refused", "crashed"))
        total = passed + accepted + refused + crashed
        print(
            f"| {name} | {total} | {passed} ({passed / total:.1%}) | {accepted} | "
            f"{refused} of {tally['right']} ({refused / tally['right']:.1%}) | {crashed} | {seconds:.1f} |",
            flush=True,
        )
        if arguments.failures:
            for case, outcome in failures:
                print(f"  {case['id']}: {case['answer'][:60]!r} for {case['gold']!r}: {outcome} ({case['why']})")


if __name__ == "__main__":
    main()
