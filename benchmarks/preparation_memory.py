"""Peak memory of a preparation with Ray's workers: flat from 5,000 to 60,000 rows of four images, and small.

python benchmarks/preparation_memory.py [--rows 5000 60000] [--workers 2]

Rows of source ``own`` over small made pictures (rows are distinct, and share pictures). Each size is a run of its own
process. Of the driver: peak resident memory as the kernel counted it. Of the driver, Ray and the workers together:
the peak of proportional memory (PSS: what processes share is counted once), looked at twice a second.

The largest may be 10 % above the smallest, and the driver may take 2 GiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PICTURES, SIDE, IMAGES = 500, 56, 4
FLAT, DRIVER_GIB = 0.1, 2.0
MIB = 1 << 20

RUN = """
import sys
from pathlib import Path
from cinema_verl.prepare.sources import adapter
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.pipeline import prepare

source, output, workers = sys.argv[1:]
manifest = prepare(adapter("own"), source, output, ConvertSettings(media_root=source), workers=int(workers)).manifest
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(manifest["questions"], peak.split()[1])
"""


def make(folder: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(PICTURES):
        Image.fromarray(random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    with open(folder / "rows.jsonl", "w") as file:
        for number, names in enumerate(random.integers(0, PICTURES, (rows, IMAGES)).tolist()):
            row = {"id": str(number), "question": f"Which one shows more, in case {number}?", "answer": "yes"}
            file.write(json.dumps({**row, "images": [f"{name}.jpg" for name in names]}) + "\n")


def pss(process: psutil.Process) -> int:
    """Bytes of a process and all below it."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue  # ended meanwhile
    return total


def measure(rows: int, workers: int) -> tuple[float, int, int]:
    """Seconds; peak RSS of the driver and peak PSS of all, in bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        make(source, rows)
        start, together = time.perf_counter(), 0
        command = [sys.executable, "-c", RUN, str(source), f"{temporary}/output", str(workers)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            while driver.poll() is None:
                together = max(together, pss(psutil.Process(driver.pid)))
                time.sleep(0.5)
            assert driver.stdout is not None
            questions, peak = map(int, driver.stdout.read().split())
        assert questions == rows
        return time.perf_counter() - start, peak << 10, together


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[5_000, 60_000], help="sizes of the inputs in rows (default: 5000 60000)"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers of Ray (default: %(default)s)")
    arguments = parser.parse_args()
    found = [(rows, *measure(rows, arguments.workers)) for rows in arguments.rows]
    print(f"\n  {'rows':>7} {'seconds':>8} {'driver, MiB':>12} {'all, MiB':>9}")
    for rows, seconds, driver, together in found:
        print(f"  {rows:>7,} {seconds:>8.0f} {driver / MIB:>12.0f} {together / MIB:>9.0f}")
    drivers, all_of_it = ([entry[place] for entry in found] for place in (2, 3))
    growth = [max(values) / min(values) - 1 for values in (drivers, all_of_it)]
    print(f"  the driver grows by {growth[0]:.1%}, all by {growth[1]:.1%}   (target: at most {FLAT:.0%})")
    print(f"  the driver takes {max(drivers) / MIB / 1024:.2f} GiB   (target: at most {DRIVER_GIB:g})")
    return int(max(growth) > FLAT or max(drivers) > DRIVER_GIB * 1024 * MIB)


if __name__ == "__main__":
    sys.exit(main())
