"""How close cold start's client comes to the most that an endpoint's latency allows, and whether its memory is flat.

    python benchmarks/cold_start_client.py
    python benchmarks/cold_start_client.py --memory-calls 100000

A stub endpoint, in a process of its own, answers after 200 ms; 64 connections can then ask 320 times a second. Beside
the client runs a bare loop over 64 sockets with ready-made requests, in turns with it: what Python, the kernel and the
stub leave of the ideal without any client. Each call has two images of about 100 KB; a question is asked four times,
as the drafts of a student are. Client and stub share the machine: two cores are enough when nothing else runs.
"""

import argparse
import asyncio
import hashlib
import io
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from cinema_verl.data.canonical import ImageRef
from cinema_verl.endpoint.ledger import Call, Ledger
from cinema_verl.endpoint.paid import PaidClient
from cinema_verl.endpoint.settings import Endpoint

CONNECTIONS = 64
LATENCY = 0.2
DRAWS = 4  # of a question: its images are read once
WORDS = "compare the position, colour and number of all objects in these images before you answer. " * 25  # 2 KB
SIDE = 185  # of an image of noise, which PNG cannot compress: 103 KB

Ask = Callable[[int], Awaitable[None]]


@contextmanager
def stub(latency: float) -> Iterator[tuple[str, int]]:
    """(base URL, process id) of a stub endpoint."""
    command = [sys.executable, "-m", "cinema_verl.demo.stub_server", "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def pictures(folder: Path, count: int) -> list[ImageRef]:
    made = []
    for number in range(count):
        file = io.BytesIO()
        noise = random.Random(number).randbytes(3 * SIDE * SIDE)
        Image.frombytes("RGB", (SIDE, SIDE), noise).save(file, "PNG", compress_level=0)
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        path = folder / f"{sha256}.png"
        path.write_bytes(file.getvalue())
        made.append(ImageRef(str(path), SIDE, SIDE, sha256, "0" * 16))
    return made


def call(number: int, images: Sequence[ImageRef]) -> Call:
    parts = [{"type": "image", "sha256": image.sha256} for image in images]
    content = [*parts, {"type": "text", "text": f"Question {number // DRAWS}: {WORDS}"}]
    messages = [{"role": "system", "content": WORDS}, {"role": "user", "content": content}]
    return Call("draft", "stub", messages, {"temperature": 1.0, "max_tokens": 1024}, number % DRAWS)


async def busy(ask: Ask, numbers: Iterator[int], at_once: int) -> None:
    """Ask for all numbers, so many at a time."""

    async def worker() -> None:
        for number in numbers:
            await ask(number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident() -> float:
    """MiB of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


# --- Rate ---------------------------------------------------------------------------------------------------


async def client_run(url: str, folder: Path, numbers: range, images: Sequence[ImageRef]) -> float:
    """Calls a second of the client: ledger, limits that do not bind, budget, images, HTTP."""
    endpoint = Endpoint(
        url,
        "stub",
        prompt_price=2.5,
        completion_price=10.0,
        requests_per_minute=1e9,
        tokens_per_minute=1e12,
        concurrency=CONNECTIONS,
    )
    outcomes: Counter[str] = Counter()
    with Ledger(folder / "ledger.sqlite") as ledger:
        async with PaidClient(endpoint, ledger, budget=1e9) as client:

            async def ask(number: int) -> None:
                first = number // DRAWS * 2 % max(1, len(images))
                used = images[first : first + 2]
                outcomes[(await client.complete(call(number, used), used)).outcome] += 1

            start = time.perf_counter()
            await busy(ask, iter(numbers), 2 * CONNECTIONS)  # as the pipeline: more wait than can be sent
            seconds = time.perf_counter() - start
    assert outcomes == {"ok": len(numbers)}, outcomes
    return len(numbers) / seconds


async def bare_run(url: str, numbers: range, images: Sequence[ImageRef]) -> float:
    """Calls a second of 64 sockets that send one ready-made body of the same size."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    body = await PaidClient(Endpoint(url, "stub"), Ledger(":memory:"))._body(call(0, images[:2]), images[:2])
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS)]

    async def ask(number: int) -> None:
        reader, writer = connections.pop()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\nIdempotency-Key: {number}\r\n\r\n"
        writer.write(head.encode())
        writer.write(body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        assert answer.startswith(b"HTTP/1.1 200")
        await reader.readexactly(length)
        connections.append((reader, writer))

    start = time.perf_counter()
    await busy(ask, iter(numbers), CONNECTIONS)
    seconds = time.perf_counter() - start
    for _, writer in connections:
        writer.close()
    return len(numbers) / seconds


def rates(calls: int, rounds: int, latency: float) -> None:
    ideal = CONNECTIONS / latency
    print(f"{CONNECTIONS} connections, {latency * 1e3:.0f} ms: ideal {ideal:.0f} calls/s; {calls} calls a round")
    print(f"{'':14}{'images':>8}{'calls/s':>9}{'of ideal':>10}{'ms CPU/call':>13}{'of the stub':>13}")
    with tempfile.TemporaryDirectory() as name, stub(latency) as (url, pid):
        folder, count = Path(name), itertools.count()
        noise = pictures(folder, 2 * calls // DRAWS)
        measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
        for with_images in (2, 0) * rounds:
            images = noise if with_images else []
            first = next(count) * calls
            numbers = range(first, first + calls)
            for who in ("bare sockets", "client"):
                cpu, stub_cpu = time.process_time(), cpu_seconds(pid)
                run = bare_run(url, numbers, images) if who != "client" else client_run(url, folder, numbers, images)
                rate = asyncio.run(run)
                spent = (time.process_time() - cpu, cpu_seconds(pid) - stub_cpu)
                measured.setdefault((who, with_images), []).append((rate, *(1e3 * each / calls for each in spent)))
        for (who, with_images), runs in sorted(measured.items(), reverse=True):
            rate, ours, theirs = map(statistics.median, zip(*runs, strict=True))
            print(f"{who:14}{with_images:8}{rate:9.0f}{rate / ideal:10.1%}{ours:13.2f}{theirs:13.2f}")


# --- Memory -------------------------------------------------------------------------------------------------


def memory(calls: int) -> None:
    print("memory, small calls without latency: MiB resident after so many calls, MiB of the ledger")

    async def run(url: str, path: Path) -> None:
        with Ledger(path) as ledger:
            async with PaidClient(Endpoint(url, "stub", concurrency=CONNECTIONS), ledger, budget=1e9) as client:

                async def ask(number: int) -> None:
                    await client.complete(call(number, ()))

                numbers, start = iter(range(calls)), time.perf_counter()
                done = 0
                for mark in [mark for mark in (1000, 3000, 10_000, 30_000, 100_000, 300_000) if mark < calls] + [calls]:
                    await busy(ask, itertools.islice(numbers, mark - done), 2 * CONNECTIONS)
                    done = mark
                    rate, size = done / (time.perf_counter() - start), path.stat().st_size / 2**20
                    print(f"{done:10,} calls{resident():9.1f}{size:9.1f}{rate:9.0f} calls/s", flush=True)

    with tempfile.TemporaryDirectory() as name, stub(0.0) as (url, _):
        asyncio.run(run(url, Path(name) / "ledger.sqlite"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3200, help="of a round; %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="%(default)s")
    parser.add_argument("--latency", type=float, default=LATENCY, help="of the stub, in seconds; %(default)s")
    parser.add_argument("--memory-calls", type=int, default=20_000, help="0 for none; %(default)s")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    if options.rounds:
        rates(options.calls, options.rounds, options.latency)
    if options.memory_calls:
        memory(options.memory_calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
