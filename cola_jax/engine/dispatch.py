"""`Dispatch`: the states of the batches of a work, and the rule for those that fail.

    batch -> waits -> in progress -> done
               ^           |
               |           +-- its machine is lost: waits again, as it is
               |           +-- fails: its halves wait, for another machine if there is one
               |           +-- late: the same, while the batch itself may still be done first
               +-----------+
                           +-- a single question that has failed `ATTEMPTS` times: set aside

A batch fails if its worker ends, if it raises an exception, or if it takes much longer than others.
The halves of a failed batch run alone on their worker, so that no other batch fails with them. This
module does not run or wait for workers: an engine reports their events.
"""

import collections
import dataclasses
import logging
import re
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from cola_jax.engine.pauses import Pauses
from cola_jax.engine.times import Medians, Times, limit
from cola_jax.engine.work import Batch, Failed
from cola_jax.errors import InputError, count, first_line

log = logging.getLogger(__name__)

ATTEMPTS = 3  # of a single question, before it is set aside
CHECKED = 1.0  # seconds between searches for late batches
GROWTH = 4  # of the time that a single question may take, each time that it failed
EXHAUSTED = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")  # in errors of accelerators

Aside = tuple[Batch, Failed]


@dataclasses.dataclass(eq=False)
class Ticket:
    """A batch or a part of one, which waits for a worker or is in progress on one."""

    batch: Batch
    unanswered: set[int]  # of the whole batch, shared by its parts
    avoided: frozenset[str | None] = frozenset()  # machines on which it failed
    failures: int = 0  # of a single question
    losses: int = 0  # of the machines that had it in progress
    # while it is in progress
    worker: Any = None
    machine: str | None = None
    first: bool = False  # of its worker, which compiles
    began: float = 0.0
    late: bool = False
    replaced: bool = False  # late, and handed out again

    @property
    def suspect(self) -> bool:
        """Whether it, or a batch that it is a part of, has failed."""
        return bool(self.avoided)

    @property
    def answered(self) -> bool:
        """Whether all of its questions have a result."""
        return self.unanswered.isdisjoint(self.batch.indices.tolist())

    def again(self, batch: Batch, failures: int = 0) -> "Ticket":
        """Return a ticket for this batch or a part of it, elsewhere if possible."""
        return Ticket(batch, self.unanswered, self.avoided | {self.machine}, failures)


@dataclasses.dataclass(eq=False)
class Place:
    """A worker that takes batches."""

    machine: str | None
    slots: int  # batches at once
    running: dict[Ticket, None] = dataclasses.field(default_factory=dict)  # in their order
    started: bool = False  # has done a batch

    @property
    def stuck(self) -> bool:
        """Whether it has a batch in progress that was handed out again, as it was late."""
        return any(ticket.replaced for ticket in self.running)


class Dispatch:
    """The batches of a work and the workers that do them; for one thread."""

    def __init__(
        self,
        batches: Iterable[Batch],
        *,
        divisible: bool = True,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Take batches when workers do.

        Args:
          divisible: a batch that fails is cut in two; one that is not runs again as a whole, as a
            single question does.
          pauses: of the machines; the failures of this work are added.
        """
        self.batches = iter(batches)
        self.divisible = divisible
        self.times = Times()
        self.pauses = pauses or Pauses(clock)
        self.clock = clock
        self.joined: dict[Hashable, Place] = {}
        self.free: dict[Hashable, None] = {}  # workers that take one more, the next one first
        self.queue: collections.deque[Ticket] = collections.deque()
        self.retries: collections.deque[Ticket] = collections.deque()  # the last ones first
        self.running: dict[Ticket, None] = {}
        self.checked = clock()
        self.succeeded = 0  # batches
        self.set_aside = 0  # questions
        self.raised: list[tuple[str, frozenset[int]]] = []  # before the first success

    # Workers

    def join(self, worker: Hashable, machine: str | None = None, slots: int = 1) -> None:
        """Add a worker that takes some batches at once."""
        self.joined[worker] = Place(machine, slots)
        self.free[worker] = None

    def leave(self, worker: Hashable, *, failed: bool) -> None:
        """Remove a worker; its batches in progress end as the engine tells for each."""
        place = self.joined.pop(worker)
        self.free.pop(worker, None)
        if failed:
            self.pauses.fail(place.machine)

    def is_available(self, place: Place) -> bool:
        """Return whether batches can be expected from a worker."""
        return not place.stuck and not self.pauses.remaining(place.machine)

    # Batches

    @property
    def waiting(self) -> bool:
        """Whether a batch waits for a worker."""
        for tickets in (self.queue, self.retries):
            while tickets and tickets[0].answered:
                tickets.popleft()
        if not self.queue and (batch := next(self.batches, None)) is not None:
            self.queue.append(Ticket(batch, set(batch.indices.tolist())))
        return bool(self.queue or self.retries)

    @property
    def finished(self) -> bool:
        """Whether all questions are done or set aside, while late batches may be in progress."""
        return not self.waiting and all(ticket.answered for ticket in self.running)

    def hand_out(self) -> Ticket | None:
        """Return a batch for a worker to begin, None where none can."""
        if not self.waiting:
            return None
        for worker in self.free:
            place = self.joined[worker]
            ticket = self.choose(place)
            if ticket is not None:
                self.begin(ticket, worker, place)
                return ticket
        return None

    def choose(self, place: Place) -> Ticket | None:
        """Take the next batch for a worker from those that wait."""
        if place.stuck or any(ticket.suspect for ticket in place.running):
            return None
        machines = None  # of workers that can be expected to take batches
        if self.pauses.remaining(place.machine):
            machines = self.available_machines()
            if machines:  # another machine takes the batch
                return None
        # until something has succeeded, a failed batch comes first, as nothing else may be better
        if self.retries and not (self.queue and self.succeeded):
            machines = self.available_machines() if machines is None else machines
            for ticket in self.retries:
                elsewhere = machines - ticket.avoided
                if not ticket.answered and (place.machine not in ticket.avoided or not elsewhere):
                    if place.running:
                        return None  # until it can run alone
                    self.retries.remove(ticket)
                    return ticket
        return self.queue.popleft() if self.queue else None

    def available_machines(self) -> set[str | None]:
        """Return the machines of workers from which batches can be expected."""
        return {place.machine for place in self.joined.values() if self.is_available(place)}

    def begin(self, ticket: Ticket, worker: Hashable, place: Place) -> None:
        """Note that a worker begins a batch."""
        ticket.worker = worker
        ticket.machine = place.machine
        ticket.first = not place.started
        ticket.began = self.clock()
        self.running[ticket] = place.running[ticket] = None
        del self.free[worker]
        if len(place.running) < place.slots:
            self.free[worker] = None  # after the others

    def end(self, ticket: Ticket) -> None:
        """Note that a batch is no longer in progress."""
        del self.running[ticket]
        place = self.joined.get(ticket.worker)
        if place is not None and ticket in place.running:
            del place.running[ticket]
            self.free[ticket.worker] = None

    def succeed(self, ticket: Ticket) -> bool:
        """Note that a batch is done; return whether its result counts, as the first one.

        The result of a late batch does not count if one of its halves was faster.
        """
        self.end(ticket)
        self.pauses.succeed(ticket.machine)
        self.times.add(self.clock() - ticket.began, len(ticket.batch.questions), first=ticket.first)
        if place := self.joined.get(ticket.worker):
            place.started = True
        questions = set(ticket.batch.indices.tolist())
        if not questions <= ticket.unanswered:
            return False
        ticket.unanswered -= questions
        self.succeeded += 1
        return True

    def lose(self, ticket: Ticket) -> list[Aside]:
        """Hand out a batch again, undivided, since its machine was lost; return as `fail` does.

        A batch whose machines were lost `ATTEMPTS` times has failed.
        """
        self.end(ticket)
        if ticket.replaced:
            return []
        if ticket.losses + 1 >= ATTEMPTS:
            return self.split(ticket, "its machines were lost")
        ticket = dataclasses.replace(ticket, losses=ticket.losses + 1, late=False)
        (self.retries if ticket.suspect else self.queue).appendleft(ticket)
        return []

    def fail(self, ticket: Ticket, error: Exception) -> list[Aside]:
        """Hand out the halves of a batch that raised an error; return the question set aside.

        Raises the error where it is an InputError, or a bug: where nothing has succeeded, and two
        batches without a question in common have raised it.
        """
        self.end(ticket)
        if isinstance(error, InputError):
            raise error
        self.pauses.fail(ticket.machine)
        log.debug("a batch of questions has failed", exc_info=error)
        self.check_bug(ticket.batch, error)
        return [] if ticket.replaced else self.split(ticket, first_line(error))

    def crash(self, ticket: Ticket, reason: str) -> list[Aside]:
        """Hand out the halves of a batch whose worker has ended; return as `fail` does."""
        self.end(ticket)
        return [] if ticket.replaced else self.split(ticket, reason)

    def check_bug(self, batch: Batch, error: Exception) -> None:
        """Raise an error that seems to be of the work, not of a question or a machine."""
        if self.succeeded or is_exhausted(error):
            return
        # errors of different batches may differ in the numbers that they name
        text = re.sub(r"\d+", "0", f"{type(error)} {error}")
        questions = frozenset(batch.indices.tolist())
        if any(same == text and questions.isdisjoint(other) for same, other in self.raised):
            raise error
        self.raised.append((text, questions))

    def split(self, ticket: Ticket, reason: str) -> list[Aside]:
        """Queue the halves of a batch, or a single question again, or set the question aside."""
        if ticket.answered:  # by a late batch that it is a part of
            return []
        batch = ticket.batch
        what = f"{count(len(batch.questions), 'question')} on {ticket.machine or 'this machine'}"
        if self.divisible and len(batch.questions) > 1:
            log.warning("%s failed, and will run again in two halves: %s", what, reason)
            self.retries.extendleft(ticket.again(half) for half in reversed(batch.halves()))
            return []
        failures = ticket.failures + 1
        if failures < ATTEMPTS:
            log.warning("%s failed, and will run again: %s", what, reason)
            self.retries.appendleft(ticket.again(batch, failures))
            return []
        ticket.unanswered.difference_update(batch.indices.tolist())
        self.set_aside += 1
        if self.set_aside >= ATTEMPTS and not self.succeeded:
            raise InputError(
                f"nothing has succeeded, and {self.set_aside} questions have failed {failures} "
                f"times each when they were run alone ({reason}): give workers more memory, and "
                "see their logs."
            )
        return [(batch, Failed(reason, failures))]

    # Deadlines

    def overdue(self) -> list[Ticket]:
        """Return batches that have become late since the last call."""
        now = self.clock()
        if now < self.checked + CHECKED:
            return []
        self.checked = now
        medians = self.times.medians()
        overdue = []
        for ticket in self.running:
            if not ticket.late and now - ticket.began > self.limit(ticket, medians):
                ticket.late = True
                overdue.append(ticket)
        return overdue

    def limit(self, ticket: Ticket, medians: Medians) -> float:
        """Return the seconds that a batch in progress may take."""
        seconds = limit(medians, len(ticket.batch.questions), first=ticket.first)
        return seconds * GROWTH**ticket.failures

    def expire(self, ticket: Ticket) -> list[Aside]:
        """Hand out the halves of a late batch, as if it had failed; return as `fail` does.

        It is still in progress, and counts if it is done before its halves are. Its worker gets
        no other batch until it has ended.
        """
        ticket.replaced = True
        return self.split(ticket, f"no result within {self.clock() - ticket.began:.0f} s")

    def hung(self) -> list[Any]:
        """Return workers whose batches have taken twice the time after which they were late."""
        now = self.clock()
        medians = self.times.medians()
        replaced = [ticket for ticket in self.running if ticket.replaced]
        hung = [t.worker for t in replaced if now - t.began > 2 * self.limit(t, medians)]
        return [worker for worker in dict.fromkeys(hung) if worker in self.joined]


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory does not suffice."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in EXHAUSTED)
