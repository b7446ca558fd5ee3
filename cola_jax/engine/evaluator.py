"""`EngineEvaluator`: a function from paths of questions to verdicts, in batches on an engine."""

import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Collection
from typing import Any

import numpy as np

from cola_jax.engine.engine import Engine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.engine.work import Batch, Failed, Keep, Work
from cola_jax.errors import Unfinished, shorten
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker
from cola_jax.metrics import Metrics
from cola_jax.path import STOP
from cola_jax.scoring.scorer import Evaluate
from cola_jax.scoring.verdicts import Verdicts

OPEN = 4  # batches that share a worker where they stay open
WAVE = 16  # paths of a question for which an open batch keeps states


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathVerdicts(Work):
    """A function from a batch to the verdicts [B, C] of paths [n, C, P] of all questions."""

    paths: np.ndarray
    opened: str | None = None  # the evaluator whose batches stay open; None to close each

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> Verdicts:
        if self.opened is not None and worker.memory.sharing >= OPEN:
            return self.open(worker).evaluate(self, worker, batch)
        with self.bind(worker, self.encode(worker, batch.questions)) as evaluate:
            return evaluate(self.paths[batch.indices])

    def open(self, worker: Worker) -> "OpenBatches":
        """Return the batches that are open on a worker, after closing those of another work."""
        with OPENING:
            if worker.opened is None or worker.opened.key != self.opened:
                worker.close()
                worker.opened = OpenBatches(self.opened)
            return worker.opened


OPENING = threading.Lock()


class OpenBatches:
    """The batches of an evaluator that keep their buffers, and with them states, on a worker."""

    def __init__(self, key: str | None):
        self.key = key
        self.lock = threading.Lock()
        # by the questions of a batch
        self.bound: dict[frozenset[int], tuple[contextlib.ExitStack, Evaluate]] = {}

    def evaluate(self, work: PathVerdicts, worker: Worker, batch: Batch) -> Verdicts:
        """Evaluate a batch, which stays bound for the next call unless it fails."""
        key = frozenset(batch.indices.tolist())
        stack = contextlib.ExitStack()
        if key not in self.bound:
            self.close(key)
            encoded = work.encode(worker, batch.questions)
            evaluate = stack.enter_context(work.bind(worker, encoded))
            with self.lock:
                self.bound[key] = stack, evaluate
        stack, evaluate = self.bound[key]
        try:
            return evaluate(work.paths[batch.indices])
        except BaseException:
            with self.lock:
                self.bound.pop(key, None)
            stack.close()
            raise

    def close(self, questions: Collection[int] | None = None) -> None:
        """Give the buffers back of the batches with any of some questions, by default of all.

        They are halves of a batch that has failed, once it is bound anew.
        """
        with self.lock:
            for key in list(self.bound):
                if questions is None or not key.isdisjoint(questions):
                    self.bound.pop(key)[0].close()


class EngineEvaluator:
    """A function from paths [B, C, P] of questions to Verdicts with fields [B, C].

    Few batches, on a single worker, keep their buffers from call to call, and with them the states
    of paths that begin alike; of more questions, each call starts afresh.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelHandle,
        asked: QuestionSet,
        metrics: Metrics | None = None,
        *,
        keep_open: bool = True,
    ):
        """Take the questions, and whether few batches keep their buffers between calls."""
        self.engine = engine
        self.model = model
        self.asked = asked
        self.metrics = metrics or Metrics()
        self.capacity = engine.capacity(model, len(asked))
        threads = self.capacity.memory.limits.threads
        few = len(asked) <= OPEN * self.capacity.questions
        self.keeps_open = keep_open and few and self.capacity.parts == threads
        self.opened = Workload(0, 0)  # that batches were opened for
        self.key: str | None = None
        self.options = max(len(question.options) for question in asked.questions)

    def __call__(self, paths: np.ndarray) -> Verdicts:
        """Evaluate paths [B, C, P], padded with STOP.

        Raises Unfinished where the engine sets questions aside.
        """
        out = Verdicts.empty(paths.shape[:2], self.options)
        workload = Workload(*paths.shape[1:], same=bool((paths == paths[:1]).all()))
        left = np.flatnonzero((paths[:, :, 0] != STOP).any(axis=1)).tolist()
        if not left:
            return out
        if self.keeps_open:
            left = range(len(paths))
            workload = self.widest(workload)
        work = PathVerdicts(
            model=self.model,
            encoder=self.asked.encoder,
            workload=workload,
            prefixes=self.asked.prefixes,
            sharing=OPEN if self.keeps_open else None,
            paths=paths,
            opened=self.key,
        )
        batches = self.asked.batches(left, self.capacity)
        for batch, result, _ in self.engine.map(work, batches, self.metrics):
            out.put((batch.indices,), succeeded(batch, result))
        return out

    def widest(self, workload: Workload) -> Workload:
        """Return the workload of open batches, which open anew where their paths are too short."""
        if workload.positions > self.opened.positions:
            self.key = uuid.uuid4().hex
            self.opened = Workload(max(workload.wave, WAVE), workload.positions)
        return self.opened


def succeeded(batch: Batch, result: Any) -> Any:
    """Return the result of a batch; Unfinished where its questions were set aside."""
    if isinstance(result, Failed):
        raise Unfinished(
            f"question {shorten([each.id for each in batch.questions])} failed {result.attempts} "
            f"times ({result.reason}): leave it out, or give workers more memory."
        )
    return result
