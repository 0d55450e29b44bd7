"""The paper-sized sets in one run: every source that is there is prepared, cleaned and mixed, step by step.

    OUTPUT/sources/NAME/, benchmarks/NAME/   what each download became
    OUTPUT/clean/                            all training questions without duplicates and benchmarks' questions
    OUTPUT/rl_questions/, cold_start/        the two sets, with no question in both
    OUTPUT/rl/                               the parquet of the RL set
    OUTPUT/specs/NAME.yaml                   the specification of each mix, as it was used
    OUTPUT/steps.json                        what each step was made of: a step is repeated only if that has changed

Killed at any moment, the same run goes on: preparation where it was (see `shards`), other steps from their beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

import cinema_verl
from cinema_verl.data.canonical import Rejected
from cinema_verl.data.directory import Uids, fingerprint, read_questions, sole_writer
from cinema_verl.prepare.choices import COLD_START, RL, Choices, Download
from cinema_verl.prepare.contamination import Rules
from cinema_verl.prepare.convert import ConvertSettings
from cinema_verl.prepare.decontaminate import decontaminate
from cinema_verl.prepare.decontamination_report import JSON_NAME
from cinema_verl.prepare.export import Export, to_parquet
from cinema_verl.prepare.media.paths import resolve
from cinema_verl.prepare.mix import Mixed, mix, takes
from cinema_verl.prepare.mix_spec import OTHER, MixError, MixSpec
from cinema_verl.prepare.pipeline import prepare
from cinema_verl.prepare.readers import find_files, first_rows
from cinema_verl.prepare.sources import adapter
from cinema_verl.utils.files import atomic_write

STEPS: Final = "steps.json"
_FIRST_ROWS: Final = 50  # looked at to find a download's media; our choice
QUESTIONS_OF: Final = {RL: "rl_questions", COLD_START: "cold_start"}
"""The folder of each set's questions."""


class SetsError(ValueError):
    """The sets cannot be made of what is there. The message says what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is asked for.

    Attributes:
        downloads, output: Folders.
        choices: What the sets are made of, their sizes included.
        without: Names of sources and benchmarks that are left out although they are, or are not, there.
        workers: Processes that prepare; see `utils.fork_map.forked`.
        limit: Rows of each source, for a first look; None for all.
        settings: `ConvertSettings` by name, beside the media root.
    """

    downloads: Path
    output: Path
    choices: Choices
    without: frozenset[str] = frozenset()
    workers: int = 0
    limit: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What a run has found and made.

    Attributes:
        prepared: Name -> the manifest's numbers, of sources and benchmarks.
        missing, left_out: Those that are not there, and those that were left out by choice.
        clean: Numbers of the decontamination.
        sets: Name -> its size and table.
        parquet: Rows of each file.
        done: Steps that this run carried out; those that it found done are not among them.
    """

    prepared: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[Download] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    clean: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    parquet: dict[str, int] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)


def make_sets(plan: Plan, say: Callable[[str], None] = print) -> Report:
    """Make the two sets, or go on where an earlier run was interrupted.

    Args:
        say: Is told of each step that ends.

    Raises:
        SetsError: A benchmark or every source is missing, or there are too few questions for the sizes.
        SourceError, Stopped: A download cannot be prepared (`pipeline.prepare`).
        Locked: Another run is writing to the output.
        OSError, ValueError: As the steps raise them.
    """
    report = Report()
    output = plan.output.absolute()
    with sole_writer(output):
        training, benchmarks = _found(plan, report)
        steps = Steps(output, report, say)
        kept = {}
        for kind, downloads in (("sources", training), ("benchmarks", benchmarks)):
            kept[kind] = [each.name for each in downloads if _prepared(plan, kind, each, report, say)]
        if not kept["sources"]:
            raise SetsError("no row of any source became a question: see rejected.jsonl below sources/")
        if empty := [each.name for each in benchmarks if each.name not in kept["benchmarks"]]:
            raise SetsError(
                f"no row of {', '.join(empty)} became a question, so nothing can be compared with it: see "
                f"benchmarks/{empty[0]}/rejected.jsonl, or leave it out with --without {empty[0]}"
            )
        clean = _cleaned(plan, kept, steps)
        made: list[Path] = []
        for name in plan.choices.sets:
            made.append(_mixed(plan, name, clean, made, steps))
        _exported(plan, steps)
    return report


# --- What is there --------------------------------------------------------------------------------------------------


def _found(plan: Plan, report: Report) -> tuple[list[Download], list[Download]]:
    """The sources and the benchmarks that are there and wanted.

    Raises:
        SetsError: See `make_sets`.
    """
    choices = plan.choices
    every = {each.name: each for each in (*choices.training, *choices.benchmarks)}
    if unknown := sorted(plan.without - set(every)):
        raise SetsError(f"--without {unknown[0]}: the choices name no such source; they name {', '.join(every)}")
    report.left_out = [name for name in every if name in plan.without]
    wanted = [each for name, each in every.items() if name not in plan.without]
    report.missing = [each for each in wanted if not (plan.downloads / each.name).exists()]
    there = [each for each in wanted if each not in report.missing]
    training, benchmarks = ([each for each in there if each in kind] for kind in (choices.training, choices.benchmarks))
    if not training:
        holds = (
            "holds none of the sources" if plan.downloads.is_dir() else "is no folder, so none of the sources is there"
        )
        raise SetsError(f"{plan.downloads} {holds}. Get at least one:\n{where_to_get(choices.training)}")
    if missing := [each for each in report.missing if each in choices.benchmarks]:
        raise SetsError(
            f"{len(missing)} benchmarks are missing, and what is not compared with them may hold their questions. Get "
            f"them, or leave each out with --without NAME:\n{where_to_get(missing)}"
        )
    return training, benchmarks


def where_to_get(downloads: Sequence[Download]) -> str:
    """A line for each: where it is published, and the folder that it is looked for in."""
    width = max(len(each.name) for each in downloads)
    return "\n".join(
        f"  {each.name:<{width}}  data set {each.get_from}, into DOWNLOADS/{each.name}" for each in downloads
    )


# --- The steps ------------------------------------------------------------------------------------------------------


class Steps:
    """Carries out steps whose inputs or settings have changed since they were last carried out.

    Args:
        output: Of the run.
    """

    def __init__(self, output: Path, report: Report, say: Callable[[str], None]) -> None:
        self.output, self.report, self.say = output, report, say
        self._path = output / STEPS
        self._made: dict[str, Any] = {}
        if self._path.is_file():
            self._made = json.loads(self._path.read_text(encoding="utf-8"))

    def run(self, name: str, inputs: Sequence[Path], settings: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, as JSON values: now, or when the same step was carried out before.

        Args:
            name: Of the step, and of the folder that it makes.
            inputs: Dataset directories.
        """
        parts = [fingerprint(path)["parts"] for path in inputs]
        described = json.dumps([cinema_verl.__version__, list(map(str, inputs)), parts, settings], sort_keys=True)
        key = hashlib.sha256(described.encode()).hexdigest()
        before = self._made.get(name)
        if before is not None and before["key"] == key and before["files"] == self._files(name):
            return before["result"]
        self._made.pop(name, None)
        result = json.loads(json.dumps(make()))
        self._made[name] = {"key": key, "files": self._files(name), "result": result}
        with atomic_write(self._path) as file:
            json.dump(self._made, file, ensure_ascii=False, indent=1)
        self.report.done.append(name)
        return result

    def _files(self, name: str) -> list[list[Any]]:
        """Name and size of what a step leaves at the top of its folder; a step whose files are gone is repeated."""
        folder = self.output / name
        found = (path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
        return sorted([path.name, path.stat().st_size] for path in found)


def media_root(download: Download, folder: Path) -> Path:
    """The folder below which most media of the download's first rows are: its own, or one that the choices name.

    Args:
        folder: The download's own.
    """
    roots = [folder, *(folder / name for name in download.media if (folder / name).is_dir())]
    if len(roots) == 1:
        return folder
    source = adapter(download.name)
    root, files = find_files(folder, source.patterns)
    names = []
    for _, row in first_rows(root, files[0], _FIRST_ROWS):
        with suppress(Rejected):
            names += [] if isinstance(row, Rejected) else [medium.path for medium in source.draft(row).media]
    return max(roots, key=lambda each: sum(_is_below(each, name) for name in names))


def _is_below(root: Path, name: str) -> bool:
    try:
        return bool(resolve(root, name))
    except Rejected:
        return False


def _prepared(plan: Plan, kind: str, download: Download, report: Report, say: Callable[[str], None]) -> bool:
    """Prepare a download; whether a row of it became a question."""
    folder = plan.downloads / download.name
    settings = ConvertSettings(media_root=str(media_root(download, folder)), **plan.settings)
    output = plan.output.absolute() / kind / download.name
    result = prepare(
        adapter(download.name),
        folder,
        output,
        settings,
        limit=plan.limit if kind == "sources" else None,  # a part of a benchmark would be a part of the comparison
        workers=plan.workers,
        overwrite="differs",
        command=["cinema-verl", "sets"],
    )
    numbers = {name: result.manifest[name] for name in ("license", "input_rows", "questions", "rejected")}
    report.prepared[download.name] = numbers | {"reasons": result.manifest["rejected_by_reason"], "kind": kind}
    if result.workers:
        report.done.append(f"{kind}/{download.name}")
    rows, questions, rejected = (f"{numbers[name]:,}" for name in ("input_rows", "questions", "rejected"))
    say(f"{download.name}: {rows} rows = {questions} questions + {rejected} rejected")
    return bool(numbers["questions"])


def _cleaned(plan: Plan, kept: Mapping[str, Sequence[str]], steps: Steps) -> Path:
    """Take duplicates and benchmarks' questions out of all training questions."""
    clean = steps.output / "clean"
    training = [steps.output / "sources" / name for name in kept["sources"]]
    against = {name: steps.output / "benchmarks" / name for name in kept["benchmarks"]}

    def make() -> dict[str, Any]:
        summary = decontaminate(training, against, clean, overwrite=True, command=["cinema-verl", "sets"])
        return {name: summary[name] for name in ("read", "kept", "removed", "by_benchmark", "by_source")}

    steps.report.clean = steps.run("clean", [*training, *against.values()], asdict(Rules()), make)
    steps.say(
        f"{steps.report.clean['kept']:,} of {steps.report.clean['read']:,} questions stay; see {clean / JSON_NAME}"
    )
    return clean


def _mixed(plan: Plan, name: str, clean: Path, made: Sequence[Path], steps: Steps) -> Path:
    """Mix a set of the clean questions that no set before has taken."""
    output = steps.output / QUESTIONS_OF[name]
    wanted = plan.choices.sets[name]

    def make() -> dict[str, Any]:
        spec = _of_what_is_there(wanted, clean, made)
        path = steps.output / "specs" / f"{name}.yaml"
        with atomic_write(path) as file:
            yaml.safe_dump(dict(spec), file, sort_keys=False, allow_unicode=True)
        try:
            done: Mixed = mix([clean], path, output, exclude=made, overwrite=True, command=["cinema-verl", "sets"])
        except MixError as error:
            option = f"--size-{name.replace('_', '-')}"
            raise SetsError(f"{name}: {error}. Add sources, or ask for fewer with {option}") from error
        absent = [source for source in wanted.get("source", {}) if source not in spec.get("source", {})]
        return {
            **_counts(output),
            "questions": done.taken,
            "of": done.read,
            "lines": [asdict(line) for line in done.lines],
            "absent": absent,
        }

    steps.report.sets[name] = steps.run(QUESTIONS_OF[name], [clean, *made], wanted, make)
    steps.say(f"{name}: {steps.report.sets[name]['questions']:,} questions in {output}")
    return output


def _of_what_is_there(wanted: Mapping[str, Any], clean: Path, made: Sequence[Path]) -> Mapping[str, Any]:
    """The specification without sources of which no question could be taken: the mix refuses to name one of these."""
    spec, elsewhere, there = MixSpec.of(wanted), Uids(), Counter[str]()
    for path in made:
        for question in read_questions(path):
            elsewhere.add(question.uid)
    for question in read_questions(clean):
        if "source" in spec.dimensions and takes(question, spec, elsewhere):
            there[spec.stratum_of("source", question)] += 1
    shares = {name: value for name, value in wanted.get("source", {}).items() if there[name]}
    rest = {key: value for key, value in wanted.items() if key != "source"}
    return {**rest, "source": shares} if shares and set(there) - {OTHER} else rest


def _counts(questions: Path) -> dict[str, dict[str, int]]:
    """Questions by source and by modality."""
    by_source, by_modality = Counter[str](), Counter[str]()
    for question in read_questions(questions):
        by_source[question.source.partition("/")[0]] += 1
        by_modality[question.modality] += 1
    return {"by_source": dict(by_source), "by_modality": dict(by_modality)}


def _exported(plan: Plan, steps: Steps) -> None:
    """Write the parquet of the RL set."""
    questions = steps.output / QUESTIONS_OF[RL]
    export = Export(val_fraction=plan.choices.val_fraction)

    def make() -> dict[str, int]:
        written = to_parquet([questions], steps.output / "rl", export, overwrite=True)
        return {Path(path).name: rows for path, rows in written.items()}

    steps.report.parquet = steps.run("rl", [questions], asdict(export), make)
    for name, rows in steps.report.parquet.items():
        steps.say(f"{steps.output / 'rl' / name}: {rows:,} rows")
