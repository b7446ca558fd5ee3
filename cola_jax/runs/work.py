"""What a run does on its batches: evaluate paths, or search them; the results are rows.

Workers make and encode the rows, for which the driver of a cluster would take longer than for all
else.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cola_jax.engine.question_set import QuestionSet
from cola_jax.engine.work import Batch, Keep, Work
from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import block_influence
from cola_jax.execute.worker import Worker
from cola_jax.metrics import Metrics
from cola_jax.path import LayerPath
from cola_jax.runs.schema import (
    Part,
    RowLayout,
    evaluation_rows,
    known_verdicts,
    question_row,
    search_part,
)
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluations import Evaluations, PathLists
from cola_jax.scoring.scorer import Evaluate, prompts_of
from cola_jax.scoring.verdicts import Completion, Verdicts
from cola_jax.strategies.controls import paths_to_ask, with_again
from cola_jax.strategies.device_searches import DeviceBatch, check_on_device
from cola_jax.strategies.loop import paths_to_confirm, search_batch, with_confirmed
from cola_jax.strategies.outcome import Outcome
from cola_jax.strategies.rules import Settings
from cola_jax.tasks.wordings import WordedScorer

WAVE = 32  # paths of a question that are evaluated, and written, at a time


class KnownRows(NamedTuple):
    """The evaluations of a question that are known at the start."""

    earlier: Sequence[pa.Table] = ()  # of earlier starts of the run, which count as its own
    reused: Sequence[pa.Table] = ()  # of other runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunWork(Work):
    """Work whose results are parts of a run."""

    layout: RowLayout | None  # of the run; without one, no rows are made

    def evaluations(
        self,
        evaluate: Evaluate,
        encoded: Sequence[Encoded],
        batch: Batch,
        metrics: Metrics,
        keep: Keep,
        *,
        call_size: int | None = None,
    ) -> Evaluations:
        """Return the evaluations of encoded questions, of which those known are not run again."""
        rows = [batch.known.get(each.question.id, KnownRows()) for each in encoded]
        pairs = list(zip(rows, encoded, strict=True))
        scorer = self.encoder.scorer
        earlier = [known_verdicts(known.earlier, each, scorer) for known, each in pairs]
        reused = [known_verdicts(known.reused, each, scorer) for known, each in pairs]
        most = self.workload.positions
        metrics.add(earlier=sum(map(len, earlier)))
        return Evaluations(
            evaluate,
            [each.question for each in encoded],
            known=[{p: v for p, v in each.items() if len(p) <= most} for each in reused],
            resumed=earlier,
            write=None if self.layout is None else functools.partial(self.keep_wave, keep, encoded),
            call_size=call_size,
            in_parts=scorer.decodes,
        )

    def keep_wave(
        self, keep: Keep, encoded: Sequence[Encoded], paths: PathLists, verdicts: Verdicts
    ) -> None:
        """Keep the evaluations of paths of unfinished questions."""
        assert self.layout is not None
        keep(wave_part(encoded, paths, verdicts, self.layout))

    def part(self, part: Part) -> Part:
        """Return a part as it is written."""
        if self.layout is None:
            return part
        return part.encode(self.layout)


def wave_part(
    encoded: Sequence[Encoded], paths: PathLists, verdicts: Verdicts, layout: RowLayout
) -> Part:
    """Make the part of evaluations of paths of questions that are not finished."""
    rows: list[dict[str, Any]] = []
    for b, each in enumerate(encoded):
        own = verdicts.take((b, slice(len(paths[b]))))
        rows += evaluation_rows(each, paths[b], own, list(map(layout.length_of, paths[b])))
    return Part(rows, []).encode(layout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathRows(RunWork):
    """A function from a batch to the rows of the same paths on its questions."""

    paths: Sequence[LayerPath]
    padded: np.ndarray  # [C, P], the same

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> Part:
        encoded, scorer = self.encode(worker, batch.questions), self.encoder.scorer
        size = None if scorer.decodes else WAVE * len(encoded)  # answers are kept one by one
        with self.bind(worker, encoded) as evaluate:
            evaluations = self.evaluations(
                evaluate, encoded, batch, worker.metrics, keep, call_size=size
            )
            verdicts = evaluations(np.tile(self.padded, (len(encoded), 1, 1)))
        assert self.layout is not None  # given paths are always those of a run
        lengths = list(map(self.layout.length_of, self.paths))
        rows = (
            evaluation_rows(q, self.paths, verdicts.take(b), lengths) for b, q in enumerate(encoded)
        )
        questions = [question_row(each, len(self.paths)) for each in encoded]
        return self.part(Part(list(itertools.chain(*rows)), questions))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Influence(Work):
    """A function from a batch to the influence [L] of each layer on its prompts.

    Or with `parts` that of their attention and MLP, [L, 2].
    """

    divisible = False  # it is a mean
    parts: bool = False

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> np.ndarray:
        prompts = prompts_of(self.encode(worker, batch.questions))
        return block_influence(worker.model, prompts, parts=self.parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmed(Work):
    """A function from a batch to whether a path of each question is right in float32 too."""

    paths: Sequence[LayerPath | None]  # of all questions
    completions: Sequence[Completion | None]

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> list[bool | None]:
        encoded = self.encode(worker, batch.questions)
        paths, completions = (
            [each[i] for i in batch.indices.tolist()] for each in (self.paths, self.completions)
        )
        workload = self.workload_of(worker, encoded)
        return self.encoder.scorer.confirm(worker, encoded, workload, paths, completions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchRows(RunWork):
    """A function from a batch to the rows of its searches.

    For a run, each shortest correct path is run once more in float32; without one, the result has
    the outcomes themselves.
    """

    settings: Settings
    again: Sequence[WordedScorer] = ()  # other wordings, in which the best paths are asked again

    @property
    def scorers(self) -> Sequence[Scorer]:
        """The scorers of the questions in each wording."""
        every = [self.encoder.scorer, *(worded.scorer for worded in self.again)]
        return list(dict.fromkeys(every))

    @property
    def steps(self) -> int:
        """The steps of a question, with one for each wording that is asked afterwards."""
        return self.settings.steps + len(self.again)

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> Part:
        encoded = self.encode(worker, batch.questions)
        scorer, layers = self.encoder.scorer, worker.config.num_layers
        workload = self.workload_of(worker, encoded)
        outcomes = self.search(worker, encoded, workload, batch, keep)
        if self.layout is not None:
            held = scorer.confirm(worker, encoded, workload, *paths_to_confirm(outcomes))
            outcomes = with_confirmed(outcomes, held)
        if self.again:
            paths = paths_to_ask(outcomes, self.settings.positions(layers))
            verdicts = [self.ask_again(worker, batch, keep, worded, paths) for worded in self.again]
            orders = [[w.order(each) for each in batch.questions] for w in self.again]
            outcomes = with_again(outcomes, verdicts, orders)
        if self.layout is None:
            return Part([], [], list(outcomes))
        return self.part(search_part(encoded, outcomes))

    def search(
        self,
        worker: Worker,
        encoded: Sequence[Encoded],
        workload: Workload,
        batch: Batch,
        keep: Keep,
    ) -> list[Outcome]:
        """Search the questions of a batch."""
        scorer = self.encoder.scorer
        with scorer.evaluator(worker, encoded, workload) as evaluate:
            evaluations = self.evaluations(evaluate, encoded, batch, worker.metrics, keep)
            layers = worker.config.num_layers
            return search_batch(evaluations, layers, self.settings, on_steps=count_on(worker))

    def ask_again(
        self,
        worker: Worker,
        batch: Batch,
        keep: Keep,
        worded: WordedScorer,
        paths: np.ndarray,
    ) -> Verdicts:
        """Evaluate paths [B, C, P] of the questions of a batch in another wording."""
        scorer, questions = worded.scorer, list(map(worded.ask, batch.questions))
        encoded = worded.encoder(questions, worker.model.checkpoint)
        # few states, in the buffer of the search where prompts are as long
        workload = self.workload._replace(evaluations=0)
        with scorer.evaluator(worker, encoded, workload) as evaluate:
            evaluations = self.evaluations(evaluate, encoded, batch, worker.metrics, keep)
            verdicts = evaluations(paths)
        worker.metrics.add(steps=len(encoded))
        return verdicts


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceSearchRows(SearchRows):
    """The same, of searches that run whole on the devices of a worker."""

    def search(
        self,
        worker: Worker,
        encoded: Sequence[Encoded],
        workload: Workload,
        batch: Batch,
        keep: Keep,
    ) -> list[Outcome]:
        layers = worker.config.num_layers
        device = DeviceBatch(worker, self.encoder.scorer, encoded, self.settings.leaves)
        evaluations = self.evaluations(device, encoded, batch, worker.metrics, keep)
        start = device.start(evaluations, self.settings, layers)
        return search_batch(evaluations, layers, self.settings, count_on(worker), start)


def search_work(asked: QuestionSet, settings: Settings, on_device: bool) -> type[SearchRows]:
    """Return the work of a search; InputError where it cannot run on the device as asked."""
    if not on_device:
        return SearchRows
    check_on_device(asked.scorer, settings.preset)
    return DeviceSearchRows


def count_on(worker: Worker) -> Callable[[int], None]:
    """Return a function that adds steps to the metrics of a worker."""

    def count(steps: int) -> None:
        worker.metrics.add(steps=steps)

    return count
