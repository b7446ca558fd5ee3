"""Benchmark of searches over the questions of a task, and of what their prompts share."""

import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.benchmark import Program, measured_on, time_in_turns
from cola_jax.path import format_path
from cola_jax.runs.parts import by_question
from cola_jax.runs.schema import known_verdicts
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluator import question_batches
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.rules import Settings

SEARCH, WHOLE = "search", "search, whole prompts"
# largest difference of two scores, over the largest score of the path or 1
IN_FLOAT32, ROUNDED = 1e-3, 0.05  # accelerators round the inputs of float32 products


class Pair(NamedTuple):
    """A question and a path, with the verdict of one program."""

    encoded: Encoded
    path: tuple[int, ...]
    verdict: Verdicts  # fields []


def search_pairs(session: Session, settings: Settings) -> list[Pair]:
    """Search all questions as a new run, and return each path of a question once."""
    with tempfile.TemporaryDirectory(prefix="cola-benchmark-") as folder:
        tables = by_question(session.search(f"{folder}/run", settings).evaluations())
    return [
        Pair(encoded, path, verdict.take(0))
        for encoded in session.encoded
        for path, verdict in known_verdicts([tables[encoded.question.id]], encoded).items()
    ]


def benchmark_search(
    session: Session,
    settings: Settings,
    *,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measure a search of a session's questions, in turns with one over whole prompts.

    Args:
      session: the model and the questions.
      settings: of the search, which is the same in each round.
      rounds: how often each program is timed, in turns.

    Returns:
      Results for JSON: evaluations per second, times over the search's with their range over the
      rounds, and how far the verdicts agree.

    Raises:
      InputError: where they do not agree, before anything is timed.
    """
    workload = settings.workload(session.num_layers)
    shared = max(question_batches(session.encoded, workload, session.first).prefixes)
    programs = {SEARCH: functools.partial(search_pairs, session, settings)}
    if shared:
        whole = dataclasses.replace(session, shares_prompts=False)
        programs[WHOLE] = functools.partial(search_pairs, whole, settings)
    results = {name: run() for name, run in programs.items()}
    others = sorted(results.keys() - {SEARCH})
    exact = session.settings["dtype"] == "float32" and jax.default_backend() == "cpu"
    limit = IN_FLOAT32 if exact else ROUNDED
    agreement = {name: compare(name, results[SEARCH], results[name], limit) for name in others}
    timed = [Program(name, run, len(results[name])) for name, run in programs.items()]
    timings = time_in_turns(timed, rounds, warm_up=False)  # each has run once
    config = session.config
    return {
        "model": {"layers": config.num_layers, "width": config.width, "vocab": config.vocab_size},
        "dtype": session.settings["dtype"],
        "scorer": session.scorer.name,
        "questions": len(session.encoded),
        "tokens": max(encoded.num_tokens for encoded in session.encoded),
        "shared_tokens": shared,
        "strategy": settings.preset.name,
        "simulations": settings.simulations,
        "control": settings.control,
        "evaluations": {name: len(each) for name, each in results.items()},
        "evaluations_per_second": {name: 1 / timing.median for name, timing in timings.items()},
        "over_search": {name: timings[name].over(timings[SEARCH]) for name in others},
        "agreement": agreement,
        "tolerance": limit,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "machine": measured_on(),
    }


def compare(
    name: str, ours: Sequence[Pair], theirs: Sequence[Pair], limit: float
) -> dict[str, Any]:
    """Compare the scores of the pairs that two programs have both evaluated.

    Returns:
      How many there are, their largest difference, and how many answers differ, as of options that
      are almost as likely.

    Raises:
      InputError: where they differ by more than the limit.
    """
    known = {(pair.encoded.question.id, pair.path): pair.verdict for pair in ours}
    errors, differ = [], 0
    for encoded, path, verdict in theirs:
        own = known.get((encoded.question.id, path))
        if own is None:  # two searches may part ways over the last bit of a margin
            continue
        errors.append(difference(own, verdict))
        differ += int(own.answer != verdict.answer)
        if not errors[-1] <= limit:
            raise InputError(
                f"{name}: the scores of question {encoded.question.id} on path "
                f"{format_path(path)} differ by {errors[-1]:.1e}, more than {limit:.0e}: nothing "
                "was timed. Please report this with the command."
            )
    return {"compared": len(errors), "difference": max(errors, default=None), "answers": differ}


def difference(one: Verdicts, other: Verdicts) -> float:
    """Return the largest difference of two paths' scores, over the largest score or 1.

    Infinity where only one of the paths is finite.
    """
    if not (one.finite and other.finite):
        return 0.0 if one.finite == other.finite else np.inf
    count = min(len(one.scores), len(other.scores))  # batches are padded with NaN
    a, b = one.scores[:count], other.scores[:count]
    error = np.nanmax(np.abs(a - b)) / max(1.0, np.nanmax(np.abs(a)))
    return float(error)
