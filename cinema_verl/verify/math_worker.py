"""The processes in which mathematics is done: one that has imported everything, and its forks, which judge.

Run as a program by :mod:`cinema_verl.verify.math_pool`. The first process is new, single-threaded and imports
math-verify once; for every socket that it is sent it forks a worker, which costs milliseconds instead of the
second that the imports take. A worker reads one JSON line ``[answer, gold]`` at a time and writes one back: true,
false, or null for no opinion. What stops it is the kernel, and nothing that an expression can catch: an interval
timer whose signal keeps its default action (death), for CPU time, and a limit on its address space. Everything ends
when the process that asked is gone.
"""

import json
import logging
import os
import random
import re
import resource
import select
import signal
import socket
import sys
from functools import lru_cache
from typing import Any, Final

LOOK_AROUND: Final = 5.0
"""Seconds between two looks at whether the parent lives. A closed socket says so at once; this is for the case that
somebody else still holds the socket's other end."""

WARM_UP: Final = (
    (r"\sin^2(x)+\frac{1}{2}", r"\frac{3}{2}-\cos^2(x)"),
    (r"\log_{2}(x)+\pi", r"\ln x"),
    ("y-(x+1)^2=0", "3x^2+6x-3y+3=0"),
    (r"x_{1}-\sqrt{2}<0", r"2x_{1}-\sqrt{8}<0"),
)
"""Judged before the first fork: sympy loads and caches on first use, which would be every new worker's first use."""


def main() -> None:
    """Fork a worker for every socket that comes over standard input, which is a socket too."""
    parent, cpu_seconds, memory = (int(a) if a.isdigit() else float(a) for a in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; this one follows it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the workers
    logging.disable(logging.CRITICAL)  # math-verify warns of every expression that it cannot read
    for answer, gold in WARM_UP:
        equivalent(answer, gold)
    control = socket.socket(fileno=os.dup(0))
    while wait(control, int(parent)):
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as channel:
            zygote = os.getpid()
            if os.fork() == 0:
                try:
                    control.close()
                    os.close(0)
                    serve(channel, zygote, cpu_seconds, int(memory))
                finally:
                    os._exit(0)


def wait(channel: socket.socket, parent: int) -> bool:
    """Until there is something to read; False when the parent has died."""
    while os.getppid() == parent:
        if select.select([channel], [], [], LOOK_AROUND)[0]:
            return True
    return False


def serve(channel: socket.socket, parent: int, cpu_seconds: float, memory: int) -> None:
    """Answer one question after the other, each within the limits, until the other side closes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = channel.makefile("rwb")
    file.write(b"%d\n" % os.getpid())  # ready
    file.flush()
    while wait(channel, parent) and (line := file.readline()):
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        verdict = equivalent(answer, gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        file.write(json.dumps(verdict).encode() + b"\n")
        file.flush()


@lru_cache(maxsize=256)  # a gold is compared with the answers of its whole group
def read(text: str) -> Any:
    """The sympy expression that LaTeX says, or None.

    As math-verify's parser does it, but without the normalisation before, which drops a letter at the end that could be
    a unit: 2ab would be 2.
    """
    from latex2sympy2_extended import latex2sympy

    try:
        return latex2sympy(text, is_real="(I)" not in text, normalization_config=None)
    except Exception:  # its errors have no type of their own
        return None


_RELATION_TO_ZERO: Final = re.compile(r"(.+)([=≠<≤])0")


def equivalent(answer: str, gold: str) -> bool | None:
    """math-verify's opinion in its strict mode; None when it cannot read one of the two.

    Of two relations to zero ("x-1=0") ours: whether one is a constant multiple of the other. math-verify solves them,
    and takes two that it cannot solve for equal.
    """
    from math_verify import verify
    from sympy.core.random import seed

    seed(0)  # sympy tries random points: the same ones every time
    random.seed(0)
    try:
        relations = _RELATION_TO_ZERO.fullmatch(answer), _RELATION_TO_ZERO.fullmatch(gold)
        if relations[0] and relations[1]:
            return multiples(read(relations[0][1]), read(relations[1][1]), relations[0][2])
        expected, found = read(gold), read(answer)
        if expected is None or found is None:
            return None
        # Their time-outs are signals with handlers, which a long multiplication does not let run; ours need none.
        equal = bool(verify(expected, found, timeout_seconds=None))
        return equal and same_size(expected, found) and not is_undefined(expected)
    except (RecursionError, ValueError, TypeError, ArithmeticError, AttributeError):
        return None


def is_undefined(expression: Any) -> bool:
    """Whether there is a division by zero in it, after which everything is equal."""
    from sympy import nan, zoo

    return bool(expression.doit().has(nan, zoo))


def multiples(found: Any, expected: Any, sign: str) -> bool | None:
    """Whether two expressions are zero, or less, together: their ratio is a number, for inequalities a positive one."""
    from sympy import simplify

    if expected is None or found is None or is_undefined(expected):
        return None
    ratio = simplify(found.doit() / expected.doit())
    if not ratio.is_number or not ratio.is_finite or not ratio.is_nonzero:
        return False
    return bool(ratio.is_positive) if sign in "<≤" else True


def same_size(a: Any, b: Any) -> bool:
    """False for two numbers that are equal only because both are so small that math-verify sees zeros."""
    if not (getattr(a, "is_number", False) and getattr(b, "is_number", False)) or a == b:
        return True
    return bool(abs((a - b).evalf()) <= 1e-9 * abs(b.evalf()))


if __name__ == "__main__":
    main()
