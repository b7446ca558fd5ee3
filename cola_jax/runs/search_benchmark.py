"""Benchmark of searches over the questions of a task, against other ways to run their paths."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.benchmark import Program, measured_on, time_in_turns
from cola_jax.execute.common_prefix import Batches
from cola_jax.execute.metrics import Metrics
from cola_jax.execute.worker import Worker
from cola_jax.path import format_path
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import question_batches
from cola_jax.scoring.scorer import prompt_buckets
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.loop import search_batch
from cola_jax.strategies.outcome import Outcome
from cola_jax.strategies.rules import Settings

SEARCH, WHOLE = "search", "search, whole prompts"
# largest difference of two scores, over the largest score of the path or 1
IN_FLOAT32, ROUNDED = 1e-3, 0.05  # accelerators round the inputs of float32 products


class Pair(NamedTuple):
    """A question and a path, with the verdict of one program."""

    encoded: Encoded
    path: tuple[int, ...]
    verdict: Verdicts  # fields []


Baseline = Callable[[Sequence[Pair]], Sequence[Verdicts]]  # evaluates pairs in another way
SearchBaselines = Callable[[Session], Mapping[str, Baseline]]


class Searches:
    """Searches all questions of a session as a run does, without a run directory.

    Shortest correct paths are not confirmed in float32, which is not an evaluation of a search.
    """

    def __init__(self, session: Session, settings: Settings):
        """Raises ValueError where memory does not suffice, before weights load."""
        self.session, self.settings = session, settings
        self.workload = settings.workload(session.num_layers)
        session.check_budget(self.workload.positions)
        session.check_search(settings)
        encoded = session.encoded
        self.batches = question_batches([encoded], self.workload, session.first)
        self.whole = Batches([*prompt_buckets(encoded)], [0] * len(encoded))
        self.workers = session.workers(Metrics())

    def programs(self) -> dict[str, Callable[[], list[Pair]]]:
        """Returns the search of a run, and one of whole prompts where the run shares beginnings."""
        programs = {SEARCH: functools.partial(self.run, self.batches)}
        if any(self.batches.prefixes):
            programs[WHOLE] = functools.partial(self.run, self.whole)
        return programs

    def run(self, batches: Batches) -> list[Pair]:
        """Searches all questions, without reusing anything of an earlier call."""
        for worker in self.workers.workers:
            worker.share_nothing()
        count = len(self.session.encoded)

        def search(worker: Worker, indices: np.ndarray) -> list[Pair]:
            return self.search(worker, indices, batches.prefixes[indices[0]])

        cut = batches.cut(range(count), largest=self.session.batch_size(count))
        with self.session.scorer:
            return [pair for _, pairs in self.workers.map(search, cut) for pair in pairs]

    def search(self, worker: Worker, indices: np.ndarray, prefix: int) -> list[Pair]:
        """Searches a batch of questions, and returns each path of a question once."""
        batch = [self.session.encoded[i] for i in indices]
        questions = [encoded.question for encoded in batch]
        workload = self.workload._replace(prefix=prefix)
        with self.session.scorer.evaluator(worker, batch, workload) as evaluate:
            evaluations = Evaluations(evaluate, questions)
            outcomes = search_batch(evaluations, self.session.num_layers, self.settings)
        each = zip(batch, outcomes, strict=True)
        return [pair for encoded, outcome in each for pair in pairs_of(encoded, outcome)]


def pairs_of(encoded: Encoded, outcome: Outcome) -> list[Pair]:
    """Lists the paths that the searches of a question evaluated, its control searches included."""
    pairs = {
        path: Pair(encoded, path, search.verdicts.take(i))
        for search in (*outcome.controls, outcome)
        for i, path in enumerate(search.paths)
    }
    return list(pairs.values())


def benchmark_search(
    session: Session,
    settings: Settings,
    *,
    rounds: int = 5,
    pairs: int = 32,
    baselines: SearchBaselines = lambda session: {},
) -> dict[str, Any]:
    """Measures a search of a session's questions, in alternation with other programs.

    Args:
      session: the model and the questions.
      settings: of the search, which is the same in each round.
      rounds: how often each program is timed, in turns.
      pairs: evaluations of the search, drawn at random, that the baselines repeat.
      baselines: makes programs that evaluate pairs one after the other, from the session.

    Returns:
      Results for JSON: evaluations per second, times over the search's with their range over the
      rounds, and how far the verdicts agree.

    Raises:
      ValueError: where they do not agree, before anything is timed.
    """
    searches = Searches(session, settings)
    programs = searches.programs()
    results = {name: run() for name, run in programs.items()}
    search = results[SEARCH]
    drawn = np.random.default_rng(0).permutation(len(search))[:pairs]
    sample = [search[i] for i in sorted(drawn)]
    for name, baseline in baselines(session).items():
        programs[name] = functools.partial(evaluate_with, baseline, sample)
        results[name] = programs[name]()
    others = sorted(results.keys() - {SEARCH})
    exact = session.settings["dtype"] == "float32" and jax.default_backend() == "cpu"
    limit = IN_FLOAT32 if exact else ROUNDED
    agreement = {name: compare(name, search, results[name], limit) for name in others}
    timed = [Program(name, run, len(results[name])) for name, run in programs.items()]
    timings = time_in_turns(timed, rounds, warm_up=False)  # each has run once
    return {
        **describe(searches),
        "evaluations": {name: len(each) for name, each in results.items()},
        "evaluations_per_second": {name: 1 / timing.median for name, timing in timings.items()},
        "over_search": {name: timings[name].over(timings[SEARCH]) for name in others},
        "agreement": agreement,
        "tolerance": limit,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "machine": measured_on(),
    }


def evaluate_with(baseline: Baseline, pairs: Sequence[Pair]) -> list[Pair]:
    """Returns pairs with the verdicts of a baseline."""
    verdicts = baseline(pairs)
    return [pair._replace(verdict=verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]


def compare(
    name: str, ours: Sequence[Pair], theirs: Sequence[Pair], limit: float
) -> dict[str, Any]:
    """Compares the scores of the pairs that two programs have both evaluated.

    Returns:
      How many there are, their largest difference, and how many answers differ, as of options that
      are almost as likely.

    Raises:
      ValueError: where they differ by more than the limit.
    """
    by_key = {(one.encoded.question.id, one.path): one for one in ours}
    errors, differ = [], 0
    for other in theirs:
        one = by_key.get((other.encoded.question.id, other.path))
        if one is None:  # two searches may part ways over the last bit of a margin
            continue
        errors.append(difference(one.verdict, other.verdict))
        differ += int(one.verdict.answer != other.verdict.answer)
        if not errors[-1] <= limit:
            raise InputError(
                f"{name}: the scores of question {one.encoded.question.id} on path "
                f"{format_path(one.path)} differ by {errors[-1]:.1e}, and by at most {limit:.0e} "
                "would be rounding: nothing was timed. Please report this with the command."
            )
    return {"compared": len(errors), "difference": max(errors, default=None), "answers": differ}


def difference(one: Verdicts, other: Verdicts) -> float:
    """Returns the largest difference of two paths' scores, over the largest score or 1.

    Infinity where only one of the paths is finite.
    """
    if not (one.finite and other.finite):
        return 0.0 if one.finite == other.finite else np.inf
    count = min(len(one.scores), len(other.scores))  # what a batch pads is NaN
    a, b = one.scores[:count], other.scores[:count]
    error = np.nanmax(np.abs(a - b)) / max(1.0, np.nanmax(np.abs(a)))
    return float(error)


def describe(searches: Searches) -> dict[str, Any]:
    """Records what is searched."""
    session, settings = searches.session, searches.settings
    config = session.config
    return {
        "model": {"layers": config.num_layers, "width": config.width, "vocab": config.vocab_size},
        "dtype": session.settings["dtype"],
        "scorer": session.scorer.name,
        "questions": len(session.encoded),
        "tokens": max(one.num_tokens for one in session.encoded),
        "shared_tokens": max(searches.batches.prefixes),
        "strategy": settings.preset.name,
        "simulations": settings.simulations,
        "control": settings.control,
    }
