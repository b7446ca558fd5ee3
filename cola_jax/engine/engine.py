"""`Engine`: runs work on batches, on this machine or on many."""

import dataclasses
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, Protocol

from cola_jax.engine.model import ModelHandle
from cola_jax.engine.work import Batch, Work
from cola_jax.execute.memory import Memory
from cola_jax.metrics import Metrics

Machine = str | None  # the name of the machine that did a batch; None for this one


class Capacity(NamedTuple):
    """The resources of an engine for a model."""

    memory: Memory  # of each worker
    parts: int  # batches that run at the same time
    questions: int  # of a batch, at most
    decoded: int  # of a batch whose answers are decoded


@dataclasses.dataclass(frozen=True)
class QuestionShare:
    """The questions of a run that this process has: every `count`-th one, from `index` on."""

    index: int = 0
    count: int = 1
    start: str = ""  # names the start that all of the processes make together

    def of(self, questions: Iterable[int]) -> list[int]:
        """Return the indices of questions that this process has."""
        return [i for i in questions if i % self.count == self.index]


class Engine(Protocol):
    """Devices, a model on them, and the work on batches of questions.

    One failure rule holds for every engine, see `Dispatch`.
    """

    share: QuestionShare
    """The questions of a run that this process has; all of them but for a distributed start."""

    @property
    def backend(self) -> str:
        """The backend of JAX on the workers, such as cpu, gpu or tpu."""
        ...

    def capacity(self, model: ModelHandle, questions: int) -> Capacity:
        """Return the capacity for a model and a number of questions, before its weights load."""
        ...

    def record(self, model: ModelHandle) -> dict[str, Any]:
        """Return the facts for the record of a start of a run with a model."""
        ...

    def free(self) -> None:
        """Free device memory of this process; the next work allocates it again."""
        ...

    def map(
        self, work: Work, batches: Iterable[Batch], metrics: Metrics | None = None
    ) -> Generator[tuple[Batch, Any, Machine], None, None]:
        """Do the work on batches, in any order.

        Yields parts of results that the work keeps, and at the end of a batch its result; or
        `Failed` for questions that are set aside.

        Raises InputError of the work, and its other errors where they are bugs.
        """
        ...
