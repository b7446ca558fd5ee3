"""The states of batches, on a cluster of fake workers with a fake clock."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cola_jax.engine.dispatch import ATTEMPTS, Dispatch, Ticket
from cola_jax.engine.times import LONGEST, PATIENCE
from cola_jax.engine.work import Batch, Failed
from cola_jax.errors import InputError
from tests.engine.conftest import batches

SECONDS = 2.0  # of a batch of the fake cluster
HANGS = float("inf")


def begin(dispatch: Dispatch) -> Ticket:
    """Hand out a batch, where there is one."""
    ticket = dispatch.hand_out()
    assert ticket is not None
    return ticket


def indices(ticket: Ticket) -> list[int]:
    return ticket.batch.indices.tolist()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeCluster:
    """Workers of a dispatch, which end, raise or hang at some questions."""

    def __init__(
        self,
        work: Iterable[Batch],
        machines: Iterable[str] = ("a", "b"),
        slots: int = 2,
        *,
        kills: Iterable[int] = (),
        raises: Iterable[int] = (),
        hangs: Iterable[int] = (),
        error: Callable[[Ticket], Exception] = lambda ticket: RuntimeError("no kernel"),
        broken: str | None = None,  # a machine that raises at every question
    ):
        self.clock, self.slots, self.names = Clock(), slots, itertools.count()
        self.dispatch = Dispatch(work, clock=self.clock)
        self.kills, self.raises, self.hangs = set(kills), set(raises), set(hangs)
        self.error, self.broken = error, broken
        self.running: dict[Ticket, float] = {}  # when each ends
        self.done: list[int] = []
        self.aside: dict[int, Failed] = {}
        self.replaced = 0  # workers
        for machine in machines:
            self.start(machine)

    def start(self, machine: str) -> None:
        self.dispatch.join(f"worker {next(self.names)}", machine, self.slots)

    def take(self, aside: Any) -> None:
        for batch, failed in aside:
            assert batch.indices.tolist() == [i for i in batch.indices if i not in self.aside]
            self.aside |= dict.fromkeys(batch.indices.tolist(), failed)

    def stop(self, worker: Any) -> None:
        """End a worker with all that it runs, and start another in its place."""
        machine = self.dispatch.joined[worker].machine
        assert machine is not None
        self.dispatch.leave(worker, failed=True)
        for ticket in [ticket for ticket in self.running if ticket.worker == worker]:
            del self.running[ticket]
            self.take(self.dispatch.crash(ticket, "the worker has ended"))
        self.replaced += 1
        self.start(machine)

    def step(self) -> None:
        """Hand out what can be, let time pass, and end the batches that are ready."""
        while ticket := self.dispatch.hand_out():
            company = [t for t in self.running if t.worker == ticket.worker]
            assert len(company) < self.slots
            assert not company or not any(t.suspect for t in [ticket, *company])
            hang = self.hangs.intersection(indices(ticket))
            self.running[ticket] = HANGS if hang else self.clock.now + SECONDS
        self.clock.now += 300.0 if all(end == HANGS for end in self.running.values()) else 1.0
        for ticket, end in list(self.running.items()):
            if ticket not in self.running or end > self.clock.now:
                continue
            questions = set(indices(ticket))
            if questions & self.kills:
                self.stop(ticket.worker)
                continue
            del self.running[ticket]
            if questions & self.raises or ticket.machine == self.broken:
                self.take(self.dispatch.fail(ticket, self.error(ticket)))
            elif self.dispatch.succeed(ticket):
                self.done += sorted(questions)
        for ticket in self.dispatch.overdue():
            self.take(self.dispatch.expire(ticket))
        for worker in self.dispatch.hung():
            self.stop(worker)

    def run(self) -> None:
        while not self.dispatch.finished:
            self.step()
            assert self.clock.now < 1e7, "no end"


def test_every_question_is_done_once():
    cluster = FakeCluster(batches(10, 4))
    cluster.run()
    assert sorted(cluster.done) == list(range(10))
    assert cluster.dispatch.hand_out() is None
    assert not cluster.dispatch.waiting


def test_batches_are_taken_when_workers_do():
    taken = []
    dispatch = Dispatch(taken.append(i) or each for i, each in enumerate(batches(12, 2)))
    for worker in range(2):
        dispatch.join(worker)
    while dispatch.hand_out():
        pass
    assert len(taken) <= 3


def test_workers_take_turns_and_no_more_than_their_slots():
    dispatch = Dispatch(batches(12, 1))
    for worker in range(2):
        dispatch.join(worker, slots=2)
    handed = [dispatch.hand_out() for _ in range(5)]
    assert [ticket and ticket.worker for ticket in handed] == [0, 1, 0, 1, None]


@pytest.mark.parametrize("size", [1, 4, 32])
@pytest.mark.parametrize("machines", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize("kind", ["kills", "raises", "hangs"])
def test_a_poisoned_question_is_set_aside_alone(size, machines, kind):
    poison: Any = {kind: [21]}
    cluster = FakeCluster(batches(64, size), machines, **poison)
    cluster.run()
    assert sorted(cluster.done) == [i for i in range(64) if i != 21]
    assert list(cluster.aside) == [21]
    assert cluster.aside[21].attempts == ATTEMPTS


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.sampled_from([1, 3, 8, 32]),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4),
    st.integers(1, 3),
    st.dictionaries(st.integers(1, 39), st.sampled_from(["kills", "raises", "hangs"]), max_size=6),
)
def test_all_but_poisoned_questions_are_done(questions, size, machines, slots, poison):
    poison = {index: kind for index, kind in poison.items() if index < questions}
    sets: Any = {
        kind: [i for i in poison if poison[i] == kind] for kind in ("kills", "raises", "hangs")
    }
    work = batches(questions, size)
    # two questions that fail alike before any has succeeded are taken for a bug
    cluster = FakeCluster(
        work, machines, slots, error=lambda t: RuntimeError("abcdefgh"[len(indices(t)) % 8]), **sets
    )
    cluster.dispatch.succeeded = 1
    cluster.run()
    assert sorted(cluster.done) == [i for i in range(questions) if i not in poison]
    assert sorted(cluster.aside) == sorted(poison)


def test_a_failed_batch_goes_to_another_machine_in_halves():
    dispatch = Dispatch(batches(4, 4))
    dispatch.join("first", "a")
    ticket = begin(dispatch)
    dispatch.join("second", "b")
    assert dispatch.fail(ticket, RuntimeError("no kernel")) == []
    half = begin(dispatch)
    assert (half.worker, indices(half)) == ("second", [0, 1])
    assert dispatch.hand_out() is None  # the other half waits for the other machine
    dispatch.leave("second", failed=True)
    other = begin(dispatch)
    assert (other.worker, indices(other)) == ("first", [2, 3])


def test_the_batch_of_a_lost_machine_runs_again_as_it_is():
    dispatch = Dispatch(batches(8, 4))
    dispatch.join("first", "a")
    dispatch.join("second", "b", slots=2)
    ticket = begin(dispatch)
    dispatch.leave("first", failed=False)
    assert dispatch.lose(ticket) == []
    assert indices(begin(dispatch)) == [0, 1, 2, 3]
    assert indices(begin(dispatch)) == [4, 5, 6, 7]  # in company, as nothing failed


def test_a_batch_whose_machines_are_lost_again_and_again_has_failed():
    dispatch = Dispatch(batches(2, 2))
    for number in range(ATTEMPTS):
        dispatch.join(number, str(number))
        ticket = begin(dispatch)
        assert len(indices(ticket)) == 2
        dispatch.leave(number, failed=False)
        dispatch.lose(ticket)
    dispatch.join("last", "z")
    assert indices(begin(dispatch)) == [0]


def started(clock: Clock, questions: int = 24) -> Dispatch:
    """A dispatch whose two workers have done batches of a second for each question."""
    dispatch = Dispatch(batches(questions, 2), clock=clock)
    dispatch.join("first", "a")
    dispatch.join("second", "b")
    for _ in range(4):
        tickets = [begin(dispatch), begin(dispatch)]
        clock.now += 2.0
        assert all(dispatch.succeed(ticket) for ticket in tickets)
    return dispatch


def test_a_late_batch_is_handed_out_again_and_the_first_result_counts():
    clock = Clock()
    dispatch = started(clock, 18)
    late = begin(dispatch)
    clock.now += PATIENCE + 1
    assert dispatch.overdue() == [late]
    clock.now += 2
    assert dispatch.overdue() == []
    dispatch.expire(late)
    half = begin(dispatch)
    assert half.worker != late.worker
    assert dispatch.hand_out() is None  # nothing more for a worker that may hang
    assert dispatch.succeed(late)  # a straggler after all
    assert dispatch.finished
    assert not dispatch.succeed(half)


def test_a_late_result_is_dropped_where_a_half_was_faster():
    clock = Clock()
    dispatch = started(clock, 18)
    late = begin(dispatch)
    clock.now += PATIENCE + 1
    for ticket in dispatch.overdue():
        dispatch.expire(ticket)
    first = begin(dispatch)
    assert dispatch.succeed(first)
    assert not dispatch.succeed(late)
    assert not dispatch.finished
    second = begin(dispatch)
    assert indices(second) == [17]
    assert dispatch.succeed(second)
    assert dispatch.finished


def test_a_worker_that_stays_late_hangs():
    clock = Clock()
    dispatch = started(clock)
    late = begin(dispatch)
    clock.now += PATIENCE + 1
    for ticket in dispatch.overdue():
        dispatch.expire(ticket)
    assert dispatch.hung() == []
    clock.now += PATIENCE
    assert dispatch.hung() == [late.worker]


def test_the_first_batch_of_a_worker_may_compile():
    clock = Clock()
    dispatch = started(clock)
    dispatch.join("third", "c")
    tickets = [dispatch.hand_out() for _ in range(3)]
    clock.now += PATIENCE + 1
    assert dispatch.overdue() == tickets[:2]
    clock.now += LONGEST
    assert dispatch.overdue() == tickets[2:]


def test_a_question_that_failed_may_take_longer():
    clock = Clock()
    dispatch = started(clock, 17)
    for patience in (PATIENCE, 4 * PATIENCE, 16 * PATIENCE):
        ticket = begin(dispatch)
        assert indices(ticket) == [16]
        clock.now += patience - 1
        assert dispatch.overdue() == []
        clock.now += 2
        assert dispatch.overdue() == [ticket]
        aside = dispatch.expire(ticket)
        assert dispatch.crash(ticket, "killed, as it hung") == []
    assert [(batch.indices.tolist(), failed.attempts) for batch, failed in aside] == [([16], 3)]
    assert dispatch.finished


def test_a_bug_ends_the_work():
    def error(ticket):
        return IndexError(f"index {indices(ticket)[0]} is out of range")

    cluster = FakeCluster(batches(64, 8), raises=range(64), error=error)
    with pytest.raises(IndexError):
        cluster.run()
    assert cluster.clock.now < 10 * SECONDS


def test_memory_that_does_not_suffice_is_no_bug():
    def error(ticket):
        return RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    class Small(FakeCluster):
        def step(self):
            self.raises = {i for t in self.running for i in indices(t) if len(indices(t)) > 2}
            super().step()

    cluster = Small(batches(64, 8), error=error)
    cluster.run()
    assert sorted(cluster.done) == list(range(64))


def test_an_error_after_a_success_is_no_bug():
    cluster = FakeCluster(batches(32, 4), raises=range(16, 32))
    cluster.run()
    assert sorted(cluster.done) == list(range(16))
    assert sorted(cluster.aside) == list(range(16, 32))


def test_errors_of_the_input_are_raised():
    dispatch = Dispatch(batches(4, 4))
    dispatch.join("worker")
    ticket = begin(dispatch)
    with pytest.raises(InputError, match="this picture is empty"):
        dispatch.fail(ticket, InputError("this picture is empty"))


def test_work_of_which_nothing_succeeds_ends():
    cluster = FakeCluster(batches(1000, 8), kills=range(1000))
    with pytest.raises(InputError, match="nothing has succeeded"):
        cluster.run()
    assert cluster.replaced < 50


def test_a_broken_machine_gets_less_and_less():
    cluster = FakeCluster(batches(400, 2), ("a", "b", "c"), broken="c")
    cluster.dispatch.succeeded = 1
    cluster.run()
    assert sorted(cluster.done) == list(range(400))
    assert not cluster.aside
    failures = cluster.dispatch.pauses.failures("c")
    assert 3 <= failures < 12


def test_an_exception_does_not_pause_the_only_machine():
    dispatch = Dispatch(batches(4, 4), clock=Clock())
    dispatch.join("worker", "a")
    ticket = begin(dispatch)
    dispatch.fail(ticket, RuntimeError("no kernel"))
    assert indices(begin(dispatch)) == [0, 1]
