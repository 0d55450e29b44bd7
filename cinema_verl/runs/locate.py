"""Find the parts of a run (metrics, rollouts, questions, configuration) from any of its folders.

A run of our trainers has them all in one folder, with a record of its own. verl writes them to four places, and only
Hydra's record of the run (`.hydra/`) knows all four. What is in the folder itself comes first, so that a run that was
copied to another machine is found, too.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import cinema_verl.utils.resolvers  # noqa: F401  the recipes' own interpolations
from cinema_verl.runs.rollouts import step_files

_WHAT_TO_GIVE: Final = (
    "give a folder of a run (the one that Hydra wrote `.hydra/` to, the checkpoints, the rollouts, or the parent of "
    "these), or name the parts with --metrics and --rollouts."
)
METRICS: Final = "metrics.jsonl"
"""In a run's folder, `trainer.default_local_dir`: what the `file` logger writes, one JSON a step."""
RUN: Final = "run.json"
"""There, too: how the run was started, an entry a start (`cinema_verl.training.run_folder`)."""
CONFIG: Final = "config.yaml"
"""There, too: the resolved configuration of the latest start."""

_LOCAL_PLACES: Final = ("rollouts", "validation", "checkpoints/rollouts", "checkpoints/validation")
_EVERY_RUN_HAS: Final = ("rollouts", "validation", "checkpoints", "hydra", ".hydra")
_CONFIG: Final = f".hydra/{CONFIG}"
_DEPTH: Final = 3  # our choice: from where runs are started, outputs/DATE/TIME and checkpoints/PROJECT/EXPERIMENT


class NothingFound(Exception):
    """There is no run in the folder, or more than one; the message says what was looked for or found."""


@dataclass(frozen=True)
class RunFiles:
    """The parts of one run; None where there is none.

    Attributes:
        name: for headings, the end of the folder's path.
        config: the composed configuration, unresolved; empty without `.hydra/`.
        overrides: the command line of the run, as Hydra recorded it.
        metrics: what verl's `file` logger wrote, one JSON a step.
        rollouts: folder of `<step>.jsonl`, verl's `trainer.rollout_data_dir`, or that of the validations.
        from_validation: whether `rollouts` are those of validations.
        data: existing parquet files with the questions.
        notes: what is missing, in sentences.
    """

    name: str
    config: DictConfig
    overrides: tuple[str, ...]
    metrics: Path | None
    rollouts: Path | None
    from_validation: bool
    data: tuple[Path, ...]
    notes: tuple[str, ...]

    def setting(self, key: str) -> Any:
        """A value of the configuration; None where it is missing or cannot be resolved here."""
        return setting(self.config, key)


def setting(config: DictConfig, key: str) -> Any:
    """`OmegaConf.select` that answers None for what is missing or cannot be resolved on this machine."""
    try:
        value = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


def names(directories: Sequence[Path]) -> list[str]:
    """For each directory the end of its path, as short as tells them apart and names the run."""
    paths = [directory.resolve().parts for directory in directories]
    shortest = 2 if any(parts[-1] in _EVERY_RUN_HAS for parts in paths) else 1
    for length in range(shortest, max(map(len, paths)) + 1):
        found = [str(Path(*parts[-length:])) for parts in paths]
        if len(set(found)) == len(found):
            break
    return found


def locate(
    directory: Path, metrics: Path | None = None, rollouts: Path | None = None, data: Sequence[Path] = ()
) -> RunFiles:
    """Find the parts of the run that `directory` belongs to; parts that are given are not looked for.

    Raises:
        NothingFound: there is nothing to report, with everything that was looked for; or there are several runs.
    """
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        raise NothingFound(f"{directory} {what}: {_WHAT_TO_GIVE}")
    name = names([directory])[0]
    directory = Path(os.path.abspath(directory))  # unlike `resolve` it follows no links: the parent is the one given
    if directory.name == ".hydra" or directory.name.startswith("global_step_"):
        directory = directory.parent
    if any(not _looks_like_metrics(path) for _, path in step_files(directory)):  # the rollouts themselves
        rollouts = rollouts or directory
        record, directory = _record_of(directory.parent, directory), directory.parent
    else:
        if not (metrics or rollouts or _is_run(directory)):
            directory = _the_run_below(directory)
        record = _record_of(directory)
    notes = [record.problem] if record.problem else []

    looked_for = [metrics] if metrics else list(_metrics_places(directory, record))
    found_metrics = next((path for path in looked_for if path.is_file()), None)
    if found_metrics is None and not metrics:
        found_metrics = _only(directory, _other_metrics(directory), "give one with --metrics")
    validation = list(_places(directory, record, "validation"))
    train = [rollouts] if rollouts else list(_places(directory, record, "rollouts"))
    found_rollouts = next((path for path in (train if rollouts else [*train, *validation]) if step_files(path)), None)

    if found_metrics is None and found_rollouts is None:
        lines = [f"  {path}" for path in looked_for] + [f"  {path}/<step>.jsonl" for path in [*train, *validation]]
        raise NothingFound(
            f"{directory} has neither metrics nor rollouts. Looked for:\n" + "\n".join(dict.fromkeys(lines)) + "\n"
            f"{_WHAT_TO_GIVE[0].upper()}{_WHAT_TO_GIVE[1:]}"
        )
    from_validation = found_rollouts is not None and found_rollouts.resolve() in [path.resolve() for path in validation]
    if found_metrics is None:
        notes.append(
            "No metrics file (trainer.logger=[console,file] writes one; --metrics names one that is elsewhere). Looked "
            f"for {', '.join(map(str, looked_for))}. Curves below are counted from the rollouts."
        )
    without = "(trainer.rollout_data_dir was not set, or they are elsewhere: --rollouts)"
    if found_rollouts is None:
        notes.append(
            f"No rollouts {without}; looked for {', '.join(map(str, train))}. "
            "Patterns, violations and groups need them."
        )
    elif from_validation and not rollouts:
        notes.append(
            f"No training rollouts {without}: patterns, violations and groups below are those of the validations."
        )
    return RunFiles(
        name=name,
        config=record.config,
        overrides=record.overrides,
        metrics=found_metrics,
        rollouts=found_rollouts,
        from_validation=from_validation,
        data=_data(directory, record, data, notes),
        notes=tuple(notes),
    )


# ---- Hydra's record of a run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """What Hydra wrote of the start of a run.

    Attributes:
        started_in: the working directory of the run; relative paths of the configuration begin there.
        problem: what is not known because there is no record, or because it cannot be read.
    """

    started_in: Path
    config: DictConfig = field(default_factory=OmegaConf.create)
    overrides: tuple[str, ...] = ()
    problem: str = ""

    def path(self, key: str) -> Path | None:
        """Where verl wrote to, by a key below `trainer`."""
        value = setting(self.config, f"trainer.{key}")
        return self.started_in / str(value) if value else None

    def writes_to(self, folder: Path, *, by_name: bool) -> bool:
        """Whether the run wrote to the folder; `by_name`: a folder of that name, as in a run that was moved."""
        keys = ("default_local_dir", "rollout_data_dir", "validation_data_dir")
        paths = [path for path in map(self.path, keys) if path]
        return any(
            path.resolve() == folder.resolve() or (by_name and path.name == folder.name and not path.exists())
            for path in paths
        )


def _record_of(directory: Path, steps: Path | None = None) -> _Record:
    """The newest record in or just below the folder of a run; else one around it that says the run wrote there.

    Args:
        steps: a folder of rollouts in `directory`; then `directory` may hold other things than a run.
    """
    if steps is None or steps.name in _LOCAL_PLACES:
        if (directory / RUN).is_file():
            return _own_record(directory)
        for path in _newest_first(directory, _CONFIG, f"*/{_CONFIG}"):
            return _read_record(path, directory)
    folders = [directory] if steps is None else [steps, directory]
    around = directory.parents[: _DEPTH + 1]
    for place in around if steps is None else [directory, *around]:
        for path in _newest_first(place, _CONFIG, f"*/{_CONFIG}", f"outputs/*/*/{_CONFIG}"):
            text = path.read_text(encoding="utf-8", errors="replace")
            if any(folder.name in text for folder in folders):  # reading a configuration takes a fifth of a second
                record = _read_record(path, directory)
                if any(record.writes_to(folder, by_name=place == folder.parent) for folder in folders):
                    return record
    problem = "No `.hydra/config.yaml`: model, settings and planned steps of the run are not known."
    return _Record(directory, problem=problem)


def _own_record(directory: Path) -> _Record:
    """What the run itself wrote of its latest start."""
    record, run = _read_record(directory / CONFIG, directory), _yaml(directory / RUN)  # JSON is YAML
    try:
        start = run["starts"][-1]
        return replace(record, started_in=Path(start["started_in"]), overrides=tuple(map(str, start["overrides"])))
    except (TypeError, KeyError, IndexError):
        return replace(record, problem=f"{directory / RUN} cannot be read: the command of the run is not known.")


def _newest_first(folder: Path, *patterns: str) -> list[Path]:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _read_record(path: Path, directory: Path) -> _Record:
    """The record whose configuration is at `path`; relative paths begin in `directory` if it does not say where."""
    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        problem = f"{path} cannot be read ({error}): the run's settings are not known."
        return _Record(directory, problem=problem)
    overrides, started_in = _yaml(path.with_name("overrides.yaml")), _yaml(path.with_name("hydra.yaml"))
    for key in ("hydra", "runtime", "cwd"):
        started_in = started_in.get(key) if isinstance(started_in, dict) else None
    return _Record(
        Path(started_in) if isinstance(started_in, str) else directory,
        config,
        tuple(map(str, overrides)) if isinstance(overrides, list) else (),
    )


def _yaml(path: Path) -> Any:
    """What a YAML file holds; None if it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


# ---- Where the parts of a run may be ---------------------------------------------------------------------------


def _metrics_places(directory: Path, record: _Record) -> Iterator[Path]:
    yield directory / METRICS
    yield directory.parent / METRICS  # the folder may be Hydra's or the checkpoints', inside that of the run
    project, experiment = (setting(record.config, f"trainer.{key}_name") for key in ("project", "experiment"))
    if project and experiment:  # verl: FileLogger's own default
        for root in (directory, directory.parent, record.started_in):
            yield root / str(project) / f"{experiment}.jsonl"


def _other_metrics(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("*.jsonl")) if path.is_file() and _looks_like_metrics(path)]


def _places(directory: Path, record: _Record, name: str) -> Iterator[Path]:
    """Folders that may hold the steps; `name` is that of the folder in the recipes, "rollouts" or "validation"."""
    yield directory / name
    yield directory / "checkpoints" / name
    if configured := record.path({"rollouts": "rollout_data_dir", "validation": "validation_data_dir"}[name]):
        yield configured
        for root in (directory, directory.parent):  # a run that was moved: …/checkpoints/rollouts
            yield root / Path(*configured.parts[-2:])
    if (directory / _CONFIG).is_file():
        yield directory.parent / name
        yield directory.parent / "checkpoints" / name


def _data(directory: Path, record: _Record, given: Sequence[Path], notes: list[str]) -> tuple[Path, ...]:
    wanted: list[Path] = list(given)
    if not given:
        for key in ("data.train_files", "data.val_files"):
            value = setting(record.config, key)
            wanted += [record.started_in / str(one) for one in (value if isinstance(value, list) else [value]) if one]
        if not wanted:
            notes.append("No data files are known (--data): questions are shown without their images.")
    found = []
    for path in wanted:
        here = [path, directory / "data" / path.name, directory.parent / "data" / path.name]
        existing = next((candidate for candidate in here if candidate.is_file()), None)
        if existing:
            found.append(existing)
        else:
            notes.append(f"{path} is not there: its questions are shown without their images (--data).")
    return tuple(dict.fromkeys(found))


def _looks_like_metrics(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            record = json.loads(file.readline(1 << 20))
        except (ValueError, RecursionError):
            return False
    return isinstance(record, dict) and {"step", "data"} <= record.keys()


# ---- Runs below a folder ---------------------------------------------------------------------------------------


def _is_run(folder: Path) -> bool:
    """Whether the folder itself holds Hydra's record, metrics or rollouts."""
    return (
        (folder / _CONFIG).is_file()
        or any(step_files(folder / name) for name in _LOCAL_PLACES)
        or bool(_other_metrics(folder))
    )


def _the_run_below(directory: Path) -> Path:
    """The folder of the one run below; `directory` itself if there is none.

    Folders that share metrics, rollouts, validations or checkpoints belong to one run: Hydra's, one for each start, and
    that of the checkpoints. The folder of the last start knows all others.

    Raises:
        NothingFound: there are several.
    """
    runs: list[tuple[set[Path], list[Path]]] = []  # the parts of a run, and its folders
    for folder in _run_folders(directory):
        record = _record_of(folder) if (folder / _CONFIG).is_file() else _Record(folder)
        places = [*_metrics_places(folder, record), *_places(folder, record, "rollouts")]
        places += [*_places(folder, record, "validation"), record.path("default_local_dir") or folder, folder]
        parts, folders = {path.resolve() for path in places if path.exists()}, [folder]
        for run in [run for run in runs if run[0] & parts]:
            parts, folders = parts | run[0], folders + run[1]
            runs.remove(run)
        runs.append((parts, folders))

    def started(folder: Path) -> float:
        return (folder / _CONFIG).stat().st_mtime if (folder / _CONFIG).is_file() else 0.0

    # A folder of metrics alone counts if there is nothing else: its files belong to runs that have other folders.
    with_parts = [folders for parts, folders in runs if parts - {folder.resolve() for folder in folders}]
    last_starts = [max(folders, key=started) for folders in with_parts or [folders for _, folders in runs]]
    return _only(directory, sorted(last_starts), "give one of these folders") or directory


def _run_folders(directory: Path) -> list[Path]:
    """The uppermost folders below that are runs, as far down as `_DEPTH`."""
    found, level = [], [directory]
    for _ in range(_DEPTH):
        entries = [path for folder in level for path in folder.iterdir() if path.name[0] != "."]
        below = [path for path in entries if path.is_dir() and os.access(path, os.R_OK | os.X_OK)]
        runs = [path for path in below if _is_run(path)]
        found += runs
        level = [path for path in below if path not in runs and not path.name.startswith("global_step_")]
    return found


def _only(directory: Path, found: Sequence[Path], advice: str) -> Path | None:
    if len(found) > 1:
        listed = "\n".join(f"  {path}" for path in found)
        raise NothingFound(f"{directory} holds {len(found)} runs: {advice}.\n{listed}")
    return found[0] if found else None
