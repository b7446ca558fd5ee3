"""Work on batches of questions: the function that workers run, and its inputs."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cola_jax.engine.model import ModelHandle
from cola_jax.execute.plan import FRESH, Batches, Workload
from cola_jax.execute.worker import Worker
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.scorer import Encoded, Evaluate, Scorer

NO_PATHS = Workload(0, 0)
Keep = Callable[[Any], None]  # takes a part of the result of a batch before its end


class Batch(NamedTuple):
    """Questions that are done together, and the rows that are known of them."""

    indices: np.ndarray  # [B], their places among all questions of the work
    questions: Sequence[Question]
    known: Mapping[str, Any] = {}  # rows of earlier starts, by the id of a question

    def halves(self) -> "tuple[Batch, Batch]":
        """Cut the batch in two."""
        middle = len(self.questions) // 2
        return self.take(slice(middle)), self.take(slice(middle, None))

    def take(self, part: slice) -> "Batch":
        """Return a part of the questions."""
        questions = self.questions[part]
        known = {q.id: self.known[q.id] for q in questions if q.id in self.known}
        return Batch(self.indices[part], questions, known)


class Failed(NamedTuple):
    """The result of questions that an engine has set aside."""

    reason: str
    attempts: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work(abc.ABC):
    """A function of each batch; it is sent to the workers."""

    divisible: ClassVar[bool] = True  # whether the halves of a batch give what the whole does
    model: ModelHandle
    encoder: Encoder
    workload: Workload = NO_PATHS  # of a batch, without its prefix
    prefixes: Sequence[Prompts] = ()  # rows [T], whose common prefixes are run once
    sharing: int | None = None  # batches that share the memory of a worker; by its backend if None

    @property
    def scorers(self) -> Sequence[Scorer]:
        """The scorers that are entered while the work is done."""
        return [self.encoder.scorer]

    @abc.abstractmethod
    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> Any:
        """Do the work on a batch; `keep` takes parts of the result that are complete before."""

    def encode(self, worker: Worker, questions: Sequence[Question]) -> list[Encoded]:
        """Make the prompts of questions."""
        return self.encoder(questions, worker.model.checkpoint)

    def bind(
        self, worker: Worker, encoded: Sequence[Encoded]
    ) -> contextlib.AbstractContextManager[Evaluate]:
        """Bind the scorer to encoded questions on a worker."""
        workload = self.workload_of(worker, encoded)
        return self.encoder.scorer.evaluator(worker, encoded, workload)

    def workload_of(self, worker: Worker, encoded: Sequence[Encoded]) -> Workload:
        """Return the workload of encoded questions, with the tokens that all of them share."""
        if not self.prefixes:
            return self.workload
        limits = worker.memory.limits
        fresh = 1 / limits.questions if self.workload.same else FRESH
        rows = [*self.prefixes, *(each.prompts for each in encoded)]
        plan = Batches.of(Prompts.stack(rows), fresh, len(self.prefixes), limits)
        return self.workload._replace(prefix=min(plan.prefixes))
