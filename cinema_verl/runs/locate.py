"""Where the parts of a run are: metrics, rollouts, questions and configuration, found from the directory of the run.

verl writes them to four places, and only Hydra's record of the run (`.hydra/`) knows all four. What lies in the run
directory itself comes first, so that a run that was copied to another machine is still found.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import cinema_verl.utils.resolvers  # noqa: F401  the recipes' own interpolations

_WHAT_TO_GIVE: Final = (
    "give the folder of a run (the one that Hydra wrote `.hydra/` to, or its parent), or point at the parts with "
    "--metrics and --rollouts."
)


class NothingFound(Exception):
    """There is no directory, or neither metrics nor rollouts in it; the message says what was looked for."""


@dataclass(frozen=True)
class RunFiles:
    """The parts of one run; None where there is none.

    Args:
        name: for headings, the end of the directory's path.
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
    """For each directory the end of its path, as short as tells them apart."""
    paths = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, paths)) + 1):
        found = [str(Path(*parts[-length:])) for parts in paths]
        if len(set(found)) == len(found):
            break
    return found


def locate(
    directory: Path, metrics: Path | None = None, rollouts: Path | None = None, data: Sequence[Path] = ()
) -> RunFiles:
    """Find the parts of the run in `directory`; what is given is not looked for.

    Raises:
        NothingFound: there is nothing to report, with everything that was looked for.
    """
    if not directory.is_dir():
        what = "is a file, not a directory" if directory.exists() else "does not exist"
        raise NothingFound(f"{directory} {what}: {_WHAT_TO_GIVE}")
    notes: list[str] = []
    config, overrides, started_in = _hydra(directory, notes)

    looked_for = [metrics] if metrics else list(_metrics_places(directory, config, started_in))
    found_metrics = next((path for path in looked_for if path.is_file()), None)
    if found_metrics is None and not metrics:
        files = sorted(filter(Path.is_file, directory.glob("*.jsonl")))
        found_metrics = next(filter(_looks_like_metrics, files), None)

    train = [rollouts] if rollouts else list(_places(directory, config, started_in, "rollout_data_dir", "rollouts"))
    validation = [] if rollouts else list(_places(directory, config, started_in, "validation_data_dir", "validation"))
    found_rollouts = next((path for path in [*train, *validation] if _has_steps(path)), None)

    if found_metrics is None and found_rollouts is None:
        lines = [f"  {path}" for path in looked_for] + [f"  {path}/<step>.jsonl" for path in [*train, *validation]]
        raise NothingFound(
            f"{directory} has neither metrics nor rollouts. Looked for:\n" + "\n".join(dict.fromkeys(lines)) + "\n"
            f"{_WHAT_TO_GIVE[0].upper()}{_WHAT_TO_GIVE[1:]}"
        )
    from_validation = found_rollouts in validation
    if found_metrics is None:
        notes.append(
            "No metrics file: the run had no `file` logger (trainer.logger=[console,file]), or it is elsewhere "
            f"(--metrics). Looked for {', '.join(map(str, looked_for))}. Curves below are counted from the rollouts."
        )
    if found_rollouts is None:
        notes.append(
            "No rollouts (trainer.rollout_data_dir was not set, or they are elsewhere: --rollouts). Looked for "
            f"{', '.join(map(str, train))}. Patterns, violations and groups need them."
        )
    elif from_validation:
        notes.append(
            "No training rollouts (trainer.rollout_data_dir was not set, or they are elsewhere: --rollouts): "
            "patterns, violations and groups below are those of the validations."
        )
    return RunFiles(
        name=names([directory])[0],
        config=config,
        overrides=overrides,
        metrics=found_metrics,
        rollouts=found_rollouts,
        from_validation=from_validation,
        data=_data(directory, config, started_in, data, notes),
        notes=tuple(notes),
    )


def _hydra(directory: Path, notes: list[str]) -> tuple[DictConfig, tuple[str, ...], Path]:
    """Configuration, overrides and working directory of the run, from the newest `.hydra/` in or just below it."""
    found = [*directory.glob(".hydra/config.yaml"), *directory.glob("*/.hydra/config.yaml")]
    empty = OmegaConf.create()
    if not found:
        notes.append("No `.hydra/config.yaml`: model, settings and planned steps of the run are not known.")
        return empty, (), directory
    folder = max(found, key=lambda path: path.stat().st_mtime).parent
    try:
        config = OmegaConf.load(folder / "config.yaml")
        if not isinstance(config, DictConfig):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        notes.append(f"{folder / 'config.yaml'} cannot be read ({error}): the run's settings are not known.")
        return empty, (), directory
    return config, _overrides(folder / "overrides.yaml"), _working_directory(folder / "hydra.yaml") or directory


def _overrides(path: Path) -> tuple[str, ...]:
    try:
        lines = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return tuple(map(str, lines)) if isinstance(lines, list) else ()


def _working_directory(path: Path) -> Path | None:
    try:
        value = setting(DictConfig(OmegaConf.load(path)), "hydra.runtime.cwd")
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):
        return None
    return Path(value) if isinstance(value, str) else None


def _metrics_places(directory: Path, config: DictConfig, started_in: Path) -> Iterator[Path]:
    yield directory / "metrics.jsonl"
    yield directory.parent / "metrics.jsonl"  # the run directory may be Hydra's, inside the folder of the run
    project, experiment = setting(config, "trainer.project_name"), setting(config, "trainer.experiment_name")
    if project and experiment:  # verl: FileLogger's own default
        yield directory / str(project) / f"{experiment}.jsonl"
        yield started_in / str(project) / f"{experiment}.jsonl"


def _places(directory: Path, config: DictConfig, started_in: Path, key: str, name: str) -> Iterator[Path]:
    yield directory / name
    yield directory / "checkpoints" / name
    configured = setting(config, f"trainer.{key}")
    if configured:
        yield started_in / str(configured)


def _data(
    directory: Path, config: DictConfig, started_in: Path, given: Sequence[Path], notes: list[str]
) -> tuple[Path, ...]:
    wanted: list[Path] = list(given)
    if not given:
        for key in ("data.train_files", "data.val_files"):
            value = setting(config, key)
            wanted += [started_in / str(one) for one in (value if isinstance(value, list) else [value]) if one]
        if not wanted:
            notes.append("No data files are known (--data): questions are shown without their images.")
    found = []
    for path in wanted:
        here = [path, directory / "data" / path.name]
        existing = next((candidate for candidate in here if candidate.is_file()), None)
        if existing:
            found.append(existing)
        else:
            notes.append(f"{path} is not there: its questions are shown without their images (--data).")
    return tuple(dict.fromkeys(found))


def _has_steps(path: Path) -> bool:
    return path.is_dir() and any(file.stem.isdecimal() for file in path.glob("*.jsonl"))


def _looks_like_metrics(path: Path) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            record = json.loads(file.readline(1 << 20))
        except ValueError:
            return False
    return isinstance(record, dict) and {"step", "data"} <= record.keys()
