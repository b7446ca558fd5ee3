"""`Times`: how long batches take, which tells how long another one may take."""

import collections
import statistics
from collections.abc import Sequence

KEPT = 256  # batches, the last ones
FEWEST = 3  # batches that tell a median
MULTIPLE = 8  # of the median, after which a batch is late
PATIENCE = 60.0  # seconds that any batch may take
FIRST_PATIENCE = 1800.0  # the same of the first batch of a worker, which compiles


class Times:
    """The seconds of the last batches of a kind of work."""

    def __init__(self, patience: float = PATIENCE, first_patience: float = FIRST_PATIENCE):
        self.patience, self.first_patience = patience, first_patience
        self.first: collections.deque[float] = collections.deque(maxlen=KEPT)
        self.later: collections.deque[float] = collections.deque(maxlen=KEPT)  # per question

    def add(self, seconds: float, questions: int, *, first: bool) -> None:
        """Add a batch, which was or was not the first of its worker."""
        if first:
            self.first.append(seconds)
        else:
            self.later.append(seconds / questions)

    def medians(self) -> tuple[float | None, float | None]:
        """Return the median seconds of first batches, and of a question in later ones, if known."""
        return median(self.first), median(self.later)

    def limit(
        self,
        questions: int,
        *,
        first: bool,
        medians: tuple[float | None, float | None] | None = None,
    ) -> float:
        """Return the seconds that a batch may take; `medians` where they have just been made."""
        first_batch, question = medians or self.medians()
        if not first and question is not None:
            return max(self.patience, MULTIPLE * question * questions)
        if first_batch is None:
            return self.first_patience
        # others may have found in their caches what this one compiles
        return max(self.first_patience / 3, MULTIPLE * first_batch)


def median(seconds: Sequence[float]) -> float | None:
    """Return the median of some times, None of too few."""
    return statistics.median(seconds) if len(seconds) >= FEWEST else None
