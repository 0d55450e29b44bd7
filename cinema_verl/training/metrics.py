"""What a batch of trajectories looks like, as `cinema/` metrics beside verl's own.

Pure functions over what the reward function returned for each trajectory (`reward_extra_info`), and the one file logger
that keeps its history when a run is resumed.
"""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from verl.utils.tracking import FileLogger

from cinema_verl.diversity import pattern_statistics
from cinema_verl.utils.files import atomic_write


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def batch_metrics(
    infos: Sequence[Mapping[str, Any]],
    patterns: Sequence[str],
    groups: Sequence[str],
    stop_reasons: Sequence[str],
) -> dict[str, float]:
    """`cinema/` metrics of one batch.

    Args:
        infos: (B,) what the reward function returned for each trajectory; `acc` and `format` are needed, what else
            `cinema_verl.reward.compute_score` returns is reported where it is there.
        patterns: (B,) the patterns that the diversity term compares.
        groups: (B,) group ids.
        stop_reasons: (B,) how each rollout ended (`cinema_verl.training.agent_loop.cut`).

    Returns:
        cinema/acc, format, pattern_entropy (nats, mean over groups), unique_patterns (mean a group),
        verifier_abstained, verifier_timed_out (shares), acc/<answer type>,
        violation/<code> and stop/<reason> (shares of trajectories).
    """
    total = len(infos)
    metrics = {
        "cinema/acc": _mean([float(info["acc"]) for info in infos]),
        "cinema/format": _mean([float(info["format"]) for info in infos]),
    }
    for name in ("abstained", "timed_out"):
        if values := [float(info[name]) for info in infos if name in info]:
            metrics[f"cinema/verifier_{name}"] = _mean(values)
    metrics |= {f"cinema/{name}": value for name, value in pattern_statistics(patterns, groups).items()}
    by_type: defaultdict[str, list[float]] = defaultdict(list)
    violations: Counter[str] = Counter()
    for info in infos:
        by_type[info.get("answer_type", "unknown")].append(float(info["acc"]))
        violations.update(set(filter(None, info.get("violations", "").split(","))))
    metrics |= {f"cinema/acc/{name}": _mean(values) for name, values in by_type.items()}
    metrics |= {f"cinema/violation/{code}": count / total for code, count in violations.items()}
    metrics |= {f"cinema/stop/{reason}": count / total for reason, count in Counter(stop_reasons).items()}
    return metrics


class AppendingFileLogger(FileLogger):
    """verl's `file` logger (one JSON a step: `{"step", "data"}`), which keeps the history of a resumed run.

    verl's opens its file with "wb", so resuming erases what was there. This one keeps every record up to the step that
    the run resumes from, drops the records of later steps (they will be made again) and any line that a crash cut in
    half, and appends.

    Args:
        path: the file; `VERL_FILE_LOGGER_PATH` or verl's default, see `log_path`.
        resume_step: the last step that the checkpoint contains; 0 for a new run, which starts a new file.
    """

    def __init__(self, path: Path, resume_step: int):
        self.filepath = str(path)
        kept = self._records(path, resume_step) if resume_step > 0 else []
        with atomic_write(path, "wb") as file:  # the old history is there until the new one is
            file.writelines(kept)
        self.fp = open(path, "ab", buffering=0)  # noqa: SIM115  closed by finish()

    @staticmethod
    def _records(path: Path, last_step: int) -> list[bytes]:
        if not path.exists():
            return []
        records = []
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                step = orjson.loads(line)["step"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
            if line.endswith(b"\n") and step <= last_step:
                records.append(line)
        return records

    @staticmethod
    def log_path(project_name: str, experiment_name: str) -> Path:
        """Where verl's `file` logger writes (verl: `FileLogger.__init__`)."""
        if path := os.environ.get("VERL_FILE_LOGGER_PATH"):
            return Path(path)
        root = Path(os.environ.get("VERL_FILE_LOGGER_ROOT", ".")).expanduser()
        return root / project_name / f"{experiment_name}.jsonl"
