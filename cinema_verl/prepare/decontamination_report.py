"""What decontamination took out and why: numbers as JSON, and a page with the pairs of pictures side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cinema_verl.data.canonical import REASONS as MEANINGS
from cinema_verl.data.canonical import Question
from cinema_verl.prepare.contamination import DUPLICATE, REASONS
from cinema_verl.utils.files import atomic_write
from cinema_verl.utils.pages import render, thumbnail

if TYPE_CHECKING:
    from cinema_verl.prepare.decontaminate import Decontamination

JSON_NAME: Final = "decontamination.json"
PAGE_NAME: Final = "decontamination.html"
_PICTURES: Final = 4  # of a question on the page
_LETTERS: Final = 600  # of a question's text on the page


def summarise(run: Decontamination) -> dict[str, Any]:
    """The numbers of a run whose `kept` is exhausted, and every match.

    `by_benchmark` counts training questions taken out, each under the one benchmark question that it matches best;
    `by_source` has ``read`` beside the reasons.
    """
    read = Counter(run.sources)
    by_benchmark = {name: Counter[str]() for name in run.benchmarks.counts}
    by_source = {source: Counter[str]() for source in sorted(read)}
    for match in run.matches:
        by_source[match.source][match.reason] += 1
        if match.benchmark:
            by_benchmark[match.benchmark][match.reason] += 1
    reasons = Counter(match.reason for match in run.matches)
    return {
        "rules": asdict(run.rules),
        "read": sum(read.values()),
        "kept": sum(read.values()) - len(run.matches),
        "removed": {reason: reasons[reason] for reason in REASONS},
        "benchmark_questions": dict(run.benchmarks.counts),
        "templates": len(run.templates),
        "by_benchmark": {name: dict(counts) for name, counts in by_benchmark.items()},
        "by_source": {source: {"read": read[source], **counts} for source, counts in by_source.items()},
        "matches": [asdict(match) for match in run.matches],
    }


def write_report(directory: Path, run: Decontamination) -> dict[str, Any]:
    """Write `decontamination.json` and `decontamination.html` into a directory; returns what `summarise` does."""
    summary = summarise(run)
    with atomic_write(directory / JSON_NAME) as file:
        file.write(json.dumps(summary, ensure_ascii=False, indent=1) + "\n")
    pairs = {
        reason: [
            {
                "match": match,
                "here": _shown(question, (i for i, _, _ in match.pictures)),
                "there": _shown(other, (j for _, j, _ in match.pictures)),
            }
            for match, question, other in run.shown[reason].items()
        ]
        for reason in REASONS
    }
    page = render(
        "decontamination.html",
        title="What decontamination took out",
        summary={name: value for name, value in summary.items() if name != "matches"},
        meanings={reason: MEANINGS[reason] for reason in REASONS},
        reasons=REASONS,
        duplicate=DUPLICATE,
        pairs=pairs,
    )
    with atomic_write(directory / PAGE_NAME) as file:
        file.write(page)
    return summary


def _shown(question: Question, marked: Any) -> Mapping[str, Any]:
    """A question for the page: the pictures that matched first."""
    matched = list(dict.fromkeys(marked))
    places = (matched + [i for i in range(len(question.images)) if i not in matched])[:_PICTURES]
    text = question.prompt
    return {
        "uid": question.uid,
        "text": text if len(text) <= _LETTERS else text[:_LETTERS] + " …",
        "answer": question.answer,
        "images": [
            {"place": i + 1, "matched": i in matched, "uri": _thumbnail(question.images[i].path)}
            for i in sorted(places)
        ],
        "hidden": len(question.images) - len(places),
    }


def _thumbnail(path: str) -> str:
    """ "" for a picture that is gone: words alone made the match, and the page says that it cannot be shown."""
    try:
        return thumbnail(path)
    except OSError:
        return ""
