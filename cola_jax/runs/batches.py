"""Batches of a run's questions, and the work on them: functions from a worker and a batch.

Both can be sent to other processes.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import block_influence
from cola_jax.execute.worker import Worker
from cola_jax.metrics import Metrics
from cola_jax.path import identity, pad_path
from cola_jax.runs.schema import Part, evaluation_rows, known_verdicts, question_row, search_part
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluations import Evaluations, Known, Path
from cola_jax.scoring.scorer import Evaluate, prompts_of
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.controls import (
    paths_to_ask,
    plain_answers,
    robust,
    with_again,
    with_robust,
)
from cola_jax.strategies.loop import paths_to_confirm, search_batch, with_confirmed
from cola_jax.strategies.rules import Settings

WAVE = 32  # paths of a question that are evaluated, and written, at a time

Earlier = Mapping[str, Sequence[pa.Table]]  # evaluations of earlier starts, by question
# takes the questions, paths [B, C, P] and verdicts [B, C] of a wave
WriteWave = Callable[[Sequence[Encoded], np.ndarray, Verdicts], None]


class Rewording(NamedTuple):
    """The questions of a batch in another variant."""

    encoded: list[Encoded]
    places: list[tuple[int, ...]]  # of their options


class Batch(NamedTuple):
    """Questions that run together, and their evaluations so far."""

    encoded: list[Encoded]
    workload: Workload
    rewordings: Sequence[Rewording] = ()
    earlier: Earlier | None = None
    known: Known | None = None  # evaluations of other runs
    paths: np.ndarray | None = None  # [B, C, P] to evaluate
    indices: np.ndarray | None = None  # [B] of the questions among all
    write: WriteWave | None = None  # None where waves are not kept
    mark: str | None = None  # of the run, where another process encodes the rows for it

    def evaluations(
        self,
        evaluate: Evaluate,
        metrics: Metrics,
        encoded: Sequence[Encoded] | None = None,
        call_size: int | None = None,
    ) -> Evaluations:
        """Return the evaluations of the questions, or of the same in other words."""
        known = self.known if encoded is None else None
        rows = self.encoded if encoded is None else encoded
        return resumed(evaluate, rows, self.earlier or {}, metrics, self.write, known, call_size)


def resumed(
    evaluate: Evaluate,
    encoded: Sequence[Encoded],
    earlier: Earlier,
    metrics: Metrics,
    write: WriteWave | None = None,
    known: Known | None = None,
    call_size: int | None = None,
) -> Evaluations:
    """Return the evaluations of questions, with those of earlier starts.

    `known` and `call_size` are as `Evaluations` takes them.
    """
    rows = [known_verdicts(earlier.get(each.question.id, ()), each) for each in encoded]
    metrics.add(earlier=sum(map(len, rows)))
    return Evaluations(
        evaluate,
        [each.question for each in encoded],
        known=known,
        resumed=rows,
        write=write and functools.partial(write, encoded),
        call_size=call_size,
    )


MakeBatch = Callable[[np.ndarray, Workload], Batch]  # from the indices of its questions
SetAside = Callable[[np.ndarray, str, str], None]  # takes indices, a reason, and the machine


class Work(Protocol):
    """A function from a worker and a batch of questions to its result."""

    @property
    def scorers(self) -> Sequence[Scorer]:
        """The scorers that it uses, which are to be entered before."""
        ...

    def __call__(self, worker: Worker, batch: Batch) -> Any:
        """Evaluate a batch."""
        ...


@dataclasses.dataclass(frozen=True)
class ScorerWork:
    """Work with one scorer."""

    scorer: Scorer

    @property
    def scorers(self) -> Sequence[Scorer]:
        """The scorer alone."""
        return [self.scorer]


@dataclasses.dataclass(frozen=True)
class PathRows(ScorerWork):
    """A function from a batch to the rows of the same paths on its questions."""

    paths: Sequence[Path]
    padded: np.ndarray  # [C, P], the same

    def __call__(self, worker: Worker, batch: Batch) -> Part:
        count = len(batch.encoded)
        size = self.scorer.call_size or WAVE * count
        with self.scorer.evaluator(worker, batch.encoded, batch.workload) as evaluate:
            evaluations = batch.evaluations(evaluate, worker.metrics, call_size=size)
            verdicts = evaluations(np.tile(self.padded, (count, 1, 1)))
        each = enumerate(batch.encoded)
        rows = (evaluation_rows(encoded, self.paths, verdicts.take(b)) for b, encoded in each)
        questions = [question_row(encoded, len(self.paths)) for encoded in batch.encoded]
        return Part(list(itertools.chain(*rows)), questions)


@dataclasses.dataclass(frozen=True)
class PathVerdicts(ScorerWork):
    """A function from a batch with paths [B, C, P] to their verdicts [B, C]."""

    def __call__(self, worker: Worker, batch: Batch) -> Verdicts:
        with self.scorer.evaluator(worker, batch.encoded, batch.workload) as evaluate:
            return evaluate(np.asarray(batch.paths))


@dataclasses.dataclass(frozen=True)
class BatchFunction(ScorerWork):
    """A function from a batch to that of its `Evaluate` and the indices of its questions."""

    function: Callable[[Evaluate, np.ndarray], Any]

    def __call__(self, worker: Worker, batch: Batch) -> Any:
        with self.scorer.evaluator(worker, batch.encoded, batch.workload) as evaluate:
            return self.function(evaluate, np.asarray(batch.indices))


class Influence:
    """A function from a batch to the influence [L] of each layer on its prompts."""

    scorers: Sequence[Scorer] = ()

    def __call__(self, worker: Worker, batch: Batch) -> np.ndarray:
        return block_influence(worker.model, prompts_of(batch.encoded))


@dataclasses.dataclass(frozen=True)
class BatchSearch:
    """A function from a batch to the rows of its searches."""

    scorers: Sequence[Scorer]  # of the questions, and of each variant
    settings: Settings
    robust: bool  # a path is right where it is right in all variants

    @property
    def steps(self) -> int:
        """The steps of a question, with one for each variant that is asked afterwards."""
        return self.settings.steps + (0 if self.robust else len(self.scorers) - 1)

    def __call__(self, worker: Worker, batch: Batch) -> Part:
        return self.search_robust(worker, batch) if self.robust else self.search(worker, batch)

    def search(self, worker: Worker, batch: Batch) -> Part:
        """Search a batch, and ask for the best paths again in its variants."""
        (scorer, *others), layers = self.scorers, worker.config.num_layers
        encoded, workload = batch.encoded, batch.workload
        with scorer.evaluator(worker, encoded, workload) as evaluate:
            evaluations = batch.evaluations(evaluate, worker.metrics, call_size=scorer.call_size)
            outcomes = search_batch(evaluations, layers, self.settings, on_steps=count_on(worker))
        held = scorer.confirm(worker, encoded, workload, *paths_to_confirm(outcomes))
        outcomes = with_confirmed(outcomes, held)
        if others:
            paths = paths_to_ask(outcomes, self.settings.positions(layers))
            variants = zip(others, batch.rewordings, strict=True)
            verdicts = []
            for variant in variants:
                verdicts.append(ask(worker, batch, *variant, paths))
                worker.metrics.add(steps=len(encoded))
            outcomes = with_again(outcomes, verdicts, [each.places for each in batch.rewordings])
        return search_part(encoded, outcomes)

    def search_robust(self, worker: Worker, batch: Batch) -> Part:
        """Search a batch for paths that are right in all variants of its questions."""
        scorer, layers, encoded = self.scorers[0], worker.config.num_layers, batch.encoded
        options = [tuple(range(len(each.question.options))) for each in encoded]
        places = [options, *(rewording.places for rewording in batch.rewordings)]
        rows = [*encoded, *(each for other in batch.rewordings for each in other.encoded)]
        questions = [each.question for each in encoded]
        workload = batch.workload._replace(prefix=0)
        with scorer.evaluator(worker, rows, workload) as evaluate:
            every = batch.evaluations(evaluate, worker.metrics, rows)
            root = pad_path(identity(layers), self.settings.positions(layers))
            plain = every(np.tile(root, (len(rows), 1, 1)))
            evaluations = Evaluations(robust(every, questions, places), questions)
            answers = plain_answers(plain, places)
            outcomes = search_batch(evaluations, layers, self.settings, answers, count_on(worker))
        best, completions = paths_to_confirm(outcomes)
        repeats = len(places)
        held = scorer.confirm(worker, rows, workload, best * repeats, completions * repeats)
        by_question = [held[b :: len(encoded)] for b in range(len(encoded))]
        agreed = [None if None in each else all(each) for each in by_question]
        outcomes = with_robust(with_confirmed(outcomes, agreed), plain, places)
        return search_part(encoded, outcomes, combined=True)


def count_on(worker: Worker) -> Callable[[int], None]:
    """Return a function that adds steps to the metrics of a worker."""

    def count(steps: int) -> None:
        worker.metrics.add(steps=steps)

    return count


def ask(
    worker: Worker, batch: Batch, scorer: Scorer, rewording: Rewording, paths: np.ndarray
) -> Verdicts:
    """Evaluate paths [B, C, P] on the questions of a batch in another variant."""
    encoded, size = rewording.encoded, scorer.call_size
    with scorer.evaluator(worker, encoded, Workload(*paths.shape[1:])) as evaluate:
        return batch.evaluations(evaluate, worker.metrics, encoded, size)(paths)
