"""`Dispatch`: the states of the batches of a work, and the rule for those that fail.

A batch that fails, by the end of its worker, an exception or a deadline, is cut in two, and the
halves go to other workers where there are some. A single question that fails `ATTEMPTS` times is
set aside. The first result of a question counts. Nothing here knows what a worker is.
"""

import collections
import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator

from cola_jax.engine.work import Batch, Failed
from cola_jax.errors import InputError, first_line

ATTEMPTS = 3  # of a single question, before it is set aside
DEADLINE = 8  # times the median of the seconds of a question, after which a batch is late
PATIENCE = 60.0  # seconds after which a batch can be late
FIRST_PATIENCE = 1800.0  # the same of the first batch of a worker, which compiles
FEWEST = 3  # batches that tell the median
EXHAUSTED = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")  # in errors of accelerators


@dataclasses.dataclass(eq=False)
class Ticket:
    """A batch that a worker has in progress."""

    batch: Batch
    worker: Hashable
    machine: str
    began: float
    first: bool  # of its worker, which compiles
    attempts: int = 0  # earlier ones that failed, of a single question
    avoided: frozenset[str] = frozenset()  # machines on which it failed
    late: bool = False  # past its deadline, and handed out again


@dataclasses.dataclass(eq=False)
class Waiting:
    """A batch that waits for a worker."""

    batch: Batch
    attempts: int = 0
    avoided: frozenset[str] = frozenset()

    @property
    def fresh(self) -> bool:
        """Whether it has not failed yet; one that has runs alone on its worker."""
        return not self.avoided


class Dispatch:
    """The batches of a work: those that wait, run, are done, and are set aside."""

    def __init__(self, batches: Iterable[Batch], clock: Callable[[], float] = time.monotonic):
        self.fresh = iter(batches)
        self.queue: collections.deque[Waiting] = collections.deque()  # lost ones, before fresh ones
        self.retries: collections.deque[Waiting] = collections.deque()  # failed ones, after them
        self.running: dict[Ticket, None] = {}
        self.done: set[int] = set()  # questions with a result, or set aside
        self.clock = clock
        self.seconds: list[float] = []  # per question, of batches that are no worker's first
        self.first_seconds: list[float] = []  # of workers' first batches
        self.succeeded = 0
        self.raised: list[tuple[Batch, tuple[type, str]]] = []  # before the first success

    @property
    def waiting(self) -> bool:
        """Whether a batch waits for a worker."""
        self.fill()
        return bool(self.queue or self.retries)

    @property
    def finished(self) -> bool:
        """Whether every batch is done or set aside; late ones may still run."""
        return not self.waiting and all(self.is_done(ticket.batch) for ticket in self.running)

    def fill(self) -> None:
        """Take the next fresh batch, where none waits before it."""
        for queue in (self.queue, self.retries):
            while queue and self.is_done(queue[0].batch):
                queue.popleft()
        if not self.queue and (batch := next(self.fresh, None)) is not None:
            self.queue.append(Waiting(batch))

    def is_done(self, batch: Batch) -> bool:
        """Whether all questions of a batch have a result."""
        return self.done.issuperset(batch.indices.tolist())

    def hand_out(
        self, worker: Hashable, machine: str, *, idle: bool, first: bool, alone: bool = False
    ) -> Ticket | None:
        """Return the next batch for a worker, None where there is none for it.

        Args:
          idle: the worker runs nothing else, as a batch that failed before needs.
          first: the worker has finished no batch yet.
          alone: there is no other machine, on which a batch that failed here could run.
        """
        self.fill()
        chosen = None
        if self.queue and (self.queue[0].fresh or idle):
            chosen = self.queue.popleft()
        elif idle:
            fitting = [w for w in self.retries if alone or machine not in w.avoided]
            if fitting:
                chosen = fitting[0]
                self.retries.remove(chosen)
        if chosen is None:
            return None
        batch, attempts, avoided = chosen.batch, chosen.attempts, chosen.avoided
        ticket = Ticket(batch, worker, machine, self.clock(), first, attempts, avoided)
        self.running[ticket] = None
        return ticket

    def succeed(self, ticket: Ticket) -> bool:
        """Take the result of a batch; return whether it counts, as the first of its questions."""
        self.running.pop(ticket, None)
        took = self.clock() - ticket.began
        if ticket.first:
            self.first_seconds.append(took)
        else:
            self.seconds.append(took / len(ticket.batch.questions))
        indices = ticket.batch.indices.tolist()
        if not self.done.isdisjoint(indices):
            return False  # of a half that was faster; the other half still runs or waits
        self.done.update(indices)
        self.succeeded += 1
        return True

    def lose(self, ticket: Ticket) -> None:
        """Hand a batch out again as it is: its machine was lost, which says nothing of it."""
        self.running.pop(ticket, None)
        if not ticket.late:
            self.queue.appendleft(Waiting(ticket.batch, ticket.attempts, ticket.avoided))

    def fail(self, ticket: Ticket, error: BaseException) -> Iterator[tuple[Batch, Failed]]:
        """Hand out the halves of a batch that failed; yield a question that is set aside.

        Raises the error where it is an InputError, or a bug: one that two batches without a
        question in common raise before any has succeeded.
        """
        self.running.pop(ticket, None)
        if isinstance(error, InputError):
            raise error
        self.check_bug(ticket.batch, error)
        if not ticket.late:  # else it was handed out again before
            yield from self.again(ticket, first_line(error))

    def check_bug(self, batch: Batch, error: BaseException) -> None:
        """Raise an error that is a bug of the work, not of a question or machine."""
        if self.succeeded or is_exhausted(error) or not isinstance(error, Exception):
            return
        kind, questions = (type(error), str(error)), set(batch.indices.tolist())
        for other, before in self.raised:
            if before == kind and questions.isdisjoint(other.indices.tolist()):
                raise error
        self.raised.append((batch, kind))

    def again(self, ticket: Ticket, reason: str) -> Iterator[tuple[Batch, Failed]]:
        """Queue the halves of a batch, or a single question once more; yield what is set aside."""
        batch, avoided = ticket.batch, ticket.avoided | {ticket.machine}
        if len(batch.questions) > 1:
            for half in batch.halves():
                self.retries.append(Waiting(half, 0, avoided))
        elif ticket.attempts + 1 < ATTEMPTS:
            self.retries.append(Waiting(batch, ticket.attempts + 1, avoided))
        elif not self.is_done(batch):
            self.done.update(batch.indices.tolist())
            yield batch, Failed(reason, ATTEMPTS)

    def overdue(self) -> list[Ticket]:
        """Return batches that are past their deadline for the first time; they are not queued."""
        late = []
        for ticket in self.running:
            limit = self.limit(ticket)
            if not ticket.late and limit is not None and self.clock() - ticket.began > limit:
                late.append(ticket)
        return late

    def expire(self, ticket: Ticket) -> Iterator[tuple[Batch, Failed]]:
        """Hand out a batch again that is late, while its worker may still finish it."""
        ticket.late = True
        yield from self.again(ticket, f"no result within {self.clock() - ticket.began:.0f} s")

    def limit(self, ticket: Ticket) -> float | None:
        """Return the seconds that a batch may take, None while nothing tells."""
        if ticket.first:
            known = statistics.median(self.first_seconds) if self.first_seconds else 0.0
            return max(FIRST_PATIENCE, DEADLINE * known)
        if len(self.seconds) < FEWEST:
            return None
        return max(
            PATIENCE, DEADLINE * statistics.median(self.seconds) * len(ticket.batch.questions)
        )


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in EXHAUSTED)
