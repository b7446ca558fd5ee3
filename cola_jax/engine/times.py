"""`Times`: durations of the batches of a work, from which the time limit of others follows."""

import collections
import statistics
from collections.abc import Sequence
from typing import NamedTuple

KEPT = 256  # batches, the last ones
FEWEST = 3  # batches that tell a median
MULTIPLE = 8  # of the median, after which a batch is late
PATIENCE = 60.0  # seconds that any batch may take
FIRST_PATIENCE = 600.0  # the same of the first batch of a worker, which compiles
LONGEST = 3 * 3600.0  # the same while nothing tells how long batches take


class Medians(NamedTuple):
    """The median seconds of batches, None while too few tell."""

    first: float | None  # of the first batches of workers
    question: float | None  # of a question in later ones


class Times:
    """The seconds of the last batches of a work."""

    def __init__(self):
        self.first: collections.deque[float] = collections.deque(maxlen=KEPT)
        self.later: collections.deque[float] = collections.deque(maxlen=KEPT)  # per question

    def add(self, seconds: float, questions: int, *, first: bool) -> None:
        """Add a batch, which was or was not the first of its worker."""
        if first:
            self.first.append(seconds)
        else:
            self.later.append(seconds / questions)

    def medians(self) -> Medians:
        """Return the present medians."""
        return Medians(median(self.first), median(self.later))


def median(seconds: Sequence[float]) -> float | None:
    """Return the median of some times, None of too few."""
    return statistics.median(seconds) if len(seconds) >= FEWEST else None


def limit(medians: Medians, questions: int, *, first: bool) -> float:
    """Return the seconds that a batch may take.

    Others may have found in their caches what the first batch of a worker compiles.
    """
    if not first and medians.question is not None:
        return max(PATIENCE, MULTIPLE * medians.question * questions)
    if medians.first is not None:
        return max(FIRST_PATIENCE, MULTIPLE * medians.first)
    return LONGEST
