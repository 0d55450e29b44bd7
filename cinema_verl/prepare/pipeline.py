"""A source on disk becomes a dataset directory: plan, convert on every core, join. Interrupted, it goes on.

`prepare` is the run; its command line is `commands.prepare`. What is done to a row is in `convert`, what survives a
kill is in `shards`, and who works where is in `utils.fork_map` and `utils.ray_map`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from tqdm import tqdm

from cinema_verl.data.canonical import REASONS, Rejected, SourceError
from cinema_verl.data.directory import MANIFEST, WORK, sole_writer
from cinema_verl.prepare.convert import Converter, ConvertSettings
from cinema_verl.prepare.draft import Adapter
from cinema_verl.prepare.media.paths import is_inline, is_url
from cinema_verl.prepare.readers import Span, check_fields, contents, find_files, plan, read
from cinema_verl.prepare.shards import PLAN, ROWS_PER_SHARD, Job, join, make_shard
from cinema_verl.utils.files import Locked, atomic_write, sha256_of
from cinema_verl.utils.fork_map import Item, Work, forked
from cinema_verl.utils.hub import HubUnreachable
from cinema_verl.utils.ray_map import ClusterFailed, spread

_VERSIONS: Final = ("cinema-verl", "pillow", "pillow-heif", "av", "pyarrow", "numpy", "transformers")  # decide bytes
_FIRST_MEDIA: Final = 20  # rows whose media must not all be missing; our choice


Overwrite = Literal["never", "differs", "always"]


class Stopped(RuntimeError):
    """The run cannot continue; the message says why and what to do. Finished shards are kept."""


class Result(NamedTuple):
    """What a run made.

    Attributes:
        manifest: As it is on disk.
        workers: The processes that converted rows in this run, ``node:pid``; empty if nothing was left to do.
    """

    manifest: dict[str, Any]
    workers: frozenset[str]


def prepare(
    adapter: Adapter,
    source: str | Path,
    output: str | Path,
    settings: ConvertSettings,
    *,
    limit: int | None = None,
    workers: int = 0,
    ray_address: str | None = None,
    overwrite: Overwrite = "never",
    command: Sequence[str] = (),
) -> Result:
    """Make the dataset directory of a source, or go on where an earlier run was interrupted.

    The same source, settings and versions give the same bytes, whatever the number of workers and of interruptions,
    except that the manifest names the command.

    Args:
        source: A file of rows, or a directory of them.
        output: The dataset directory.
        limit: Take only the first so many rows; None for all.
        workers, ray_address: See `utils.fork_map.forked`, and for a cluster `utils.ray_map.spread`.
        overwrite: When a run that is there is begun anew, instead of being gone on with or kept: ``never``; where it
            ``differs`` in input, settings or versions; or ``always``, which a picture that was mended needs, because
            only the files of rows are compared.
        command: What the manifest is to show as the command.

    Raises:
        SourceError: The input is not what the adapter reads.
        Stopped: An interrupted or finished run with other settings is there; another run is writing there; the input
            changed while it was read; the disk, a permission or a worker failed. What is finished stays.
    """
    output = Path(output).absolute()
    root, found = find_files(source, adapter.patterns, adapter.otherwise)
    files = [file for file in found if output not in (root / file).absolute().parents]  # an output inside the input
    try:
        with sole_writer(output):
            inputs = _Inputs(root, files)
            identity = _identity(adapter, settings, inputs, limit)
            if manifest := _finished(identity, output, overwrite):
                return Result(manifest, frozenset())
            if overwrite != "never":
                _forget_other(identity, output)
            job = Job(adapter, settings, root, output)
            spans = _planned(job, files, identity, limit)
            done = _convert(job, spans, workers, ray_address)
            inputs.check_unchanged()
            manifest = join(job, spans, {"command": list(command), **identity})
            return Result(manifest, done)
    except Locked as error:
        raise Stopped(str(error)) from error
    except HubUnreachable as error:
        raise Stopped(str(error)) from error
    except OSError as error:
        if not error.strerror:  # a sentence of our own
            raise Stopped(str(error)) from error
        raise _stopped(f"{error.strerror}: {error.filename or output}") from error


def _finished(identity: Mapping[str, Any], output: Path, overwrite: Overwrite) -> dict[str, Any] | None:
    """The manifest of the finished run that is there, or None: there is none, or it is to be begun anew.

    Raises:
        Stopped: It differs, and is not to be overwritten.
    """
    path = output / MANIFEST
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if overwrite == "never":
        _check_same(identity, manifest, output)
    if overwrite == "never" or (overwrite == "differs" and not _different(identity, manifest)):
        return manifest
    _clear(output)
    path.unlink()
    return None


def _forget_other(identity: Mapping[str, Any], output: Path) -> None:
    """Clear what an interrupted run has left, if it is another run."""
    path = output / WORK / PLAN
    if path.is_file() and _different(identity, json.loads(path.read_text(encoding="utf-8"))["identity"]):
        _clear(output)


def _clear(output: Path) -> None:
    """Remove plan and shards; what was downloaded stays for as long as the run lasts."""
    for path in (output / WORK / PLAN, *(output / WORK).glob("shard-*")):
        path.unlink(missing_ok=True)


def _stopped(what: str) -> Stopped:
    return Stopped(f"{what}. Finished shards are kept: mend it and run the same command again")


# --- What is run ----------------------------------------------------------------------------------------------------


class _Inputs:
    """The files of the input, hashed.

    Attributes:
        hashed: ``{"name", "bytes", "sha256"}`` of each file, as the manifest lists them.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        paths = [path for file in files for path in contents(root / file)]
        self._states = {path: _state(path) for path in paths}
        self.hashed: list[dict[str, Any]] = []
        total = sum(size for size, _, _ in self._states.values())
        with tqdm(total=total, desc="reading the input's checksums", unit="B", unit_scale=True, delay=5) as progress:
            for path, (size, _, _) in self._states.items():
                self.hashed.append(
                    {"name": path.relative_to(root).as_posix(), "bytes": size, "sha256": sha256_of(path)}
                )
                progress.update(size)

    def check_unchanged(self) -> None:
        """Hash again what may have changed: files of another size, time of change or inode than before.

        Raises:
            Stopped: A file holds something else now.
        """
        for (path, before), entry in zip(self._states.items(), self.hashed, strict=True):
            if _state(path) != before and sha256_of(path) != entry["sha256"]:
                raise Stopped(f"{path} changed while it was read: start over with another --output")


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _identity(adapter: Adapter, settings: ConvertSettings, inputs: _Inputs, limit: int | None) -> dict[str, Any]:
    """Everything that determines the output's bytes, as JSON values."""
    identity = {
        "source": adapter.name,
        "license": adapter.license,
        "settings": asdict(settings),
        "limit": limit,
        "rows_per_shard": ROWS_PER_SHARD,
        "versions": {name: found for name in _VERSIONS if (found := _version(name))},
        "inputs": inputs.hashed,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(identity))
    return as_json


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _check_same(identity: Mapping[str, Any], earlier: Mapping[str, Any], output: Path) -> None:
    """Refuse to mix two runs in one directory."""
    if differences := _different(identity, earlier):
        raise Stopped(
            f"{output} holds a run that differs: {'; '.join(differences[:5])}. "
            "Go on with what it was begun with, begin anew with --overwrite, or give another --output"
        )


def _different(identity: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    return list(_differences(identity, {name: earlier.get(name) for name in identity}))


def _differences(new: Any, old: Any, name: str = "") -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        for key in {**old, **new}:
            yield from _differences(new.get(key), old.get(key), f"{name}.{key}".lstrip("."))
    elif name == "inputs" and isinstance(old, list):
        before, now = ({item["name"]: item for item in items} for items in (old, new))
        for file in {**before, **now}:
            if before.get(file) != now.get(file):
                state = "is new" if file not in before else "is gone" if file not in now else "has changed"
                yield f"input file {file} {state}"
    elif new != old:
        yield f"{name} was {old!r} and is {new!r}"


def _planned(job: Job, files: Sequence[str], identity: dict[str, Any], limit: int | None) -> list[Span]:
    """The spans of the run: those of the interrupted run that is there, or new ones."""
    path = job.output / WORK / PLAN
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        _check_same(identity, earlier["identity"], job.output)
        return [Span(*span) for span in earlier["spans"]]
    spans: list[Span] = []
    for file in tqdm(files, desc="planning", unit=" files", delay=2):
        found = plan(job.root, file, ROWS_PER_SHARD)
        if found:
            check_fields(job.root, found, job.adapter)
        spans += found
    if not spans:
        raise SourceError(f"{job.root}: no rows in {', '.join(files[:8])}")
    spans = _first(spans, limit)
    _check_media(job, spans[0])
    with atomic_write(path) as file:
        json.dump({"identity": identity, "spans": spans}, file, ensure_ascii=False)
    return spans


def _first(spans: Sequence[Span], limit: int | None) -> list[Span]:
    """The spans of the first `limit` rows."""
    if limit is None:
        return list(spans)
    taken: list[Span] = []
    for span in spans:
        if limit <= 0:
            break
        taken.append(span._replace(rows=min(span.rows, limit)))
        limit -= span.rows
    return taken


def _check_media(job: Job, span: Span) -> None:
    """Stop at once if no row's media are found: with a wrong --media-root every row would be rejected, one by one."""
    converter, missing = Converter(job.adapter, job.settings, job.output), []
    for _, row in read(job.root, span):
        try:
            if isinstance(row, Rejected):
                continue
            media = [medium for medium in converter.draft(row, span.file).media if medium.data is None]
        except Rejected:
            continue
        for medium in media:
            try:
                if is_url(medium.path) or is_inline(medium.path) or converter.located(medium)[0]:
                    return
            except Rejected as rejected:
                if rejected.reason not in ("path_missing", "path_outside"):
                    return
                missing.append(rejected.detail)
        if len(missing) >= _FIRST_MEDIA:
            raise SourceError(
                f"{job.root / span.file}: none of the first {len(missing)} images and videos is below "
                f"{job.settings.media_root}: {missing[0]}. Is --media-root right? Absolute paths need it, or "
                "--allow-root, to name the folder above them"
            )


# --- Converting -----------------------------------------------------------------------------------------------------


def _convert(job: Job, spans: Sequence[Span], workers: int, ray_address: str | None) -> frozenset[str]:
    """Make the shards that are not there yet."""
    for trace in (job.output / WORK).glob("*.try-*"):  # of the run that was interrupted
        trace.unlink()
    numbers = [number for number in range(len(spans)) if not job.shard(number).is_file()]
    rows, left = sum(span.rows for span in spans), sum(spans[number].rows for number in numbers)
    items = [{"number": number, "span": json.dumps(spans[number])} for number in numbers]
    seen: set[str] = set()
    rejected = 0
    with tqdm(total=rows, initial=rows - left, desc=job.adapter.name, unit=" rows", smoothing=0.05) as progress:
        try:
            for result in _mapped(partial(make_shard, job=job), items, workers, ray_address):
                if result["error"]:
                    raise _stopped(result["error"])
                seen.add(result["worker"])
                rejected += result["rejected"]
                progress.update(result["rows"])
                progress.set_postfix(rejected=rejected, refresh=False)
        except ClusterFailed as error:
            raise _stopped(str(error)) from error
    return frozenset(seen)


def _mapped(work: Work, items: Sequence[Item], workers: int, ray_address: str | None) -> Iterator[Item]:
    """On this machine by forks, which start at once; over a cluster, and where this process is in one, by Ray."""
    ray = sys.modules.get("ray")
    if ray_address is not None or (ray and ray.is_initialized()):
        return spread(work, items, workers=workers, ray_address=ray_address)
    return forked(work, items, workers=workers)


def summary(manifest: Mapping[str, Any]) -> str:
    """A summary of a finished run, to print; its numbers add up to the input."""
    rows, questions, rejected = manifest["input_rows"], manifest["questions"], manifest["rejected"]
    lines = [f"{rows:,} rows = {questions:,} questions + {rejected:,} rejected"]
    for name, counts in manifest["counts"].items():
        ordered = sorted(counts.items(), key=lambda item: int(item[0]) if name == "images" else -item[1])
        if ordered:
            lines.append(f"  {name.replace('_', ' '):<12} " + "   ".join(f"{key} {count:,}" for key, count in ordered))
    for reason, count in sorted(manifest["rejected_by_reason"].items(), key=lambda item: -item[1]):
        lines.append(f"  rejected {count:>9,}  {reason}: {REASONS[reason]}")
    return "\n".join(lines)


def processors() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
