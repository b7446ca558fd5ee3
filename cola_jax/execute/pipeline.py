"""Keeping devices busy: several groups of questions in flight, each a generator of futures."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

import numpy as np

from cola_jax.execute.batch import Batch
from cola_jax.execute.worker import Lane
from cola_jax.prompts import Readings

Group = TypeVar("Group")
Result = TypeVar("Result")
Flight = Generator[Future[Any], Any, Result]  # yields what it waits for, is sent what that held


def interleave(
    lanes: Sequence[Lane],
    groups: Iterable[Group],
    fly: Callable[[Group, Lane], Flight[Result]],
    in_flight: int = 2,
) -> Iterator[tuple[Group, Result]]:
    """Yields each group with what its flight returns, in the order in which they end.

    `in_flight` groups at a time share a lane: while its devices work for one, the host plans,
    scores and selects for another.
    """
    waiting = iter(groups)
    flying: dict[Future[Any], tuple[Group, Lane, Flight[Result]]] = {}

    def launch(lane: Lane) -> Iterator[tuple[Group, Result]]:
        for group in waiting:
            flight = fly(group, lane)
            ended = advance(group, lane, flight, None)
            if not ended:
                return
            yield from ended

    def advance(
        group: Group, lane: Lane, flight: Flight[Result], value: Any
    ) -> list[tuple[Group, Result]]:
        try:
            flying[flight.send(value)] = (group, lane, flight)
        except StopIteration as end:
            return [(group, end.value)]
        return []

    for _ in range(in_flight):
        for lane in lanes:
            yield from launch(lane)
    while flying:
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in done:
            group, lane, flight = flying.pop(future)
            ended = advance(group, lane, flight, future.result())
            if ended:
                # the next group first: whoever takes the result may take its time
                following = list(launch(lane))
                yield from ended
                yield from following


def landed(
    submitted: tuple[Readings, list[Future[int]]],
    on_progress: Callable[[int], None] = lambda evaluations: None,
) -> Flight[Readings]:
    """Waits for what a batch was given, and tells of the evaluations as they are done."""
    readings, futures = submitted
    for future in futures:
        on_progress((yield future))
    return readings


def fly_once(
    batch: Batch, paths: np.ndarray, on_progress: Callable[[int], None]
) -> Flight[Readings]:
    """Runs one wave [B, C, P] on a batch that is for this wave alone."""
    readings = yield from landed(batch.submit(paths), on_progress)
    batch.close()
    return readings
