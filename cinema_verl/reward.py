"""What one trajectory is worth by itself: 0.5 * R_acc + 0.5 * R_format (paper, reinforcement learning).

:func:`compute_score` has the signature of verl's reward functions. Both parts are 0 or 1; the diversity term needs
the whole group and is added where the group is known (:mod:`cinema_verl.diversity`). A row that cannot be scored as
it is described stops the run and says which row it is: a default score would be trained on.
"""

import asyncio
import json
import math
import operator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from cinema_verl.meta_action import PATTERN_MODES, parse, pattern_of
from cinema_verl.prompts import removed_action
from cinema_verl.utils.native_reasoning import NATIVE_REASONING, VIOLATION, is_refused, trajectory_begins
from cinema_verl.verify import decide
from cinema_verl.verify.verdict import TIMED_OUT

ACCURACY_WEIGHT: Final = 0.5  # paper, the reward of the diversity-preserving strategy
FORMAT_WEIGHT: Final = 0.5  # the same

Score = dict[str, float | str]


class _BadRow(Exception):
    """What is wrong with a row and what to do about it; compute_score adds which row it is."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    *,
    pattern_mode: str = "exact",
    prompt_mode: str | None = None,
    native_reasoning: str = "none",
    **kwargs: Any,
) -> Score:
    """Score one trajectory against its gold.

    Args:
        data_source: where the row comes from; only named in errors.
        solution_str: the decoded response, special tokens skipped.
        ground_truth: the gold answer.
        extra_info: the row's ``extra_info`` column. Needed: ``answer_type`` and ``num_images``. Read where
            present: ``options_json`` and ``aliases_json`` (JSON lists of strings), ``tolerance`` (None and NaN
            mean the type's default), ``question``, ``uid`` and ``index`` (to name the row). Other keys, such
            as those verl adds, are left alone.
        pattern_mode: one of ``meta_action.PATTERN_MODES``; the default is the paper's.
        prompt_mode: one of ``prompts.MODES``, or None for the prompt as the data has it. Under
            ``cinema_without_ACTION`` that action breaks the format rule; no other mode changes the rule, and none
            changes how the answer is read.
        native_reasoning: what is declared of the policy's own reasoning, one of ``utils.native_reasoning``. Under
            ``strip`` the trajectory begins behind the first ``</think>`` that nothing in the response opened, else
            behind a leading ``<think>`` block. Under ``refuse`` such a ``</think>`` is the violation
            ``native_reasoning``.
        **kwargs: what verl's reward managers pass besides (``reward_router_address``, ...); not used.

    Returns:
        The same keys on every call, floats and strings only, so that verl can average the ones and log the
        others: ``score`` in [0, 1]; ``acc`` and ``format`` in {0, 1}; ``pattern``; ``answer`` ("" when
        there is not exactly one); ``abstained`` in {0, 1}, 1 where the gold cannot be read or the
        judge could not be asked, and then ``acc`` is 0; ``timed_out`` in {0, 1}, 1 where the verifier reached
        its limits on an answer, and then ``acc`` is 0; ``violations``, codes joined by ","; ``verdict``, why
        acc is what it is; ``answer_type``; ``num_images``; ``question_uid``, the row's ``uid``, by which the same
        question is found again in verl's dumps; ``native_reasoning`` in {0, 1}, 1 where reasoning of the policy's own
        was taken off or refused; ``stripped``, what was taken off.

    Raises:
        ValueError: the row lacks something, or something in it is not what it should be.
    """
    if pattern_mode not in PATTERN_MODES:
        raise ValueError(f"unknown pattern_mode {pattern_mode!r}; known: {', '.join(PATTERN_MODES)}")
    if native_reasoning not in NATIVE_REASONING:
        raise ValueError(f"unknown native_reasoning {native_reasoning!r}; known: {', '.join(NATIVE_REASONING)}")
    removed = removed_action(prompt_mode)
    try:
        return _score(solution_str, ground_truth, extra_info, pattern_mode, removed, native_reasoning)
    except _BadRow as error:
        raise ValueError(f"cannot score {_name(data_source, extra_info)}: {error}") from error.__cause__


_WAITING: Final = ThreadPoolExecutor(max_workers=128, thread_name_prefix="cinema-reward")
"""Threads that wait for the judge: our choice, twice its concurrency. They start when needed."""


async def compute_score_async(*args: Any, **kwargs: Any) -> Score:
    """:func:`compute_score` for data with ``judge`` rows: many answers wait for the endpoint at once.

    verl awaits a reward function that is a coroutine function; another one it calls in its default executor, whose few
    threads would then be waiting for the network. Choose it with
    ``reward.custom_reward_function.name=compute_score_async``.
    """
    return await asyncio.get_running_loop().run_in_executor(_WAITING, partial(compute_score, *args, **kwargs))


def _score(
    solution: str,
    gold: str,
    extra_info: Mapping[str, Any] | None,
    pattern_mode: str,
    removed: str | None,
    native_reasoning: str,
) -> Score:
    for name, value in (("solution_str", solution), ("ground_truth", gold)):
        if not isinstance(value, str):
            raise _BadRow(f"{name} is {type(value).__name__}, not str; write it as a string into the parquet")
    if not isinstance(extra_info, Mapping):
        raise _BadRow(f"extra_info is {type(extra_info).__name__}, not a mapping; {_REBUILD}")
    num_images = _num_images(extra_info)
    answer_type = _need(extra_info, "answer_type")

    begins = trajectory_begins(solution, native_reasoning)
    trajectory = parse(solution[begins:])
    violations = trajectory.violations_for(num_images, removed)
    refused = is_refused(solution, native_reasoning)
    if refused:
        violations = (*violations, VIOLATION)
    try:
        verdict = decide(
            trajectory.answer,
            gold,
            answer_type,
            options=_strings(extra_info, "options_json"),
            aliases=_strings(extra_info, "aliases_json"),
            tolerance=_tolerance(extra_info),
            question=_text(extra_info, "question"),
        )
    except ValueError as error:
        raise _BadRow(f"{error}; correct it in the data, or register the type before training") from error

    acc = float(verdict.correct is True)
    well_formed = float(not violations)
    return {
        "score": ACCURACY_WEIGHT * acc + FORMAT_WEIGHT * well_formed,
        "acc": acc,
        "format": well_formed,
        "pattern": pattern_of(trajectory, pattern_mode),
        "answer": trajectory.answer or "",
        "abstained": float(verdict.correct is None),
        "timed_out": float(verdict.reason in TIMED_OUT),
        "violations": ",".join(violations),
        "verdict": verdict.reason,
        "answer_type": answer_type,
        "num_images": float(num_images),
        "question_uid": _text(extra_info, "uid"),
        "native_reasoning": float(begins > 0 or refused),
        "stripped": solution[:begins],
    }


_REBUILD: Final = "write the parquet again with the columns of the RL schema, and run `cinema-verl preflight` on it"


def _name(data_source: object, extra_info: object) -> str:
    row = extra_info if isinstance(extra_info, Mapping) else {}
    known = [f"{key}={row[key]!r}" for key in ("uid", "index") if row.get(key) is not None]
    return f"row {' '.join(known) or '(no uid)'} of data_source={data_source!r}"


def _need(extra_info: Mapping[str, Any], key: str) -> Any:
    value = extra_info.get(key)
    if value is None:
        raise _BadRow(f"extra_info has no {key!r}; {_REBUILD}")
    return value


def _text(extra_info: Mapping[str, Any], key: str) -> str:
    value = extra_info.get(key)
    return "" if value is None else str(value)


def _num_images(extra_info: Mapping[str, Any]) -> int:
    """The number of images: any integer type, for parquet readers differ in theirs."""
    value = _need(extra_info, "num_images")
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 1:
        raise _BadRow(f"extra_info['num_images'] must be an integer of at least 1, got {value!r}; {_REBUILD}")
    return number


def _strings(extra_info: Mapping[str, Any], key: str) -> tuple[str, ...]:
    text = extra_info.get(key)
    if text is None or text == "[]":
        return ()
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _BadRow(f"extra_info[{key!r}] is not JSON: {str(text)[:80]!r}; {_REBUILD}") from error
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _BadRow(f"extra_info[{key!r}] must be a JSON list of strings, got {text[:80]!r}; {_REBUILD}")
    return tuple(value)


def _tolerance(extra_info: Mapping[str, Any]) -> float | None:
    value = extra_info.get("tolerance")
    try:
        tolerance = None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise _BadRow(f"extra_info['tolerance'] is no number: {value!r}; {_REBUILD}") from error
    return None if tolerance is None or math.isnan(tolerance) else tolerance
