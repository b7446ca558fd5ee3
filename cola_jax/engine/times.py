"""`Times`: how long batches take, which tells how long another one may take."""

import collections
import statistics

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

    def medians(self) -> tuple[float, float | None]:
        """Return the median seconds of first batches, and of a question in later ones, if known."""
        first = statistics.median(self.first) if self.first else 0.0
        return first, statistics.median(self.later) if len(self.later) >= FEWEST else None

    def limit(
        self, questions: int, *, first: bool, medians: tuple[float, float | None] | None = None
    ) -> float:
        """Return the seconds that a batch may take; `medians` where they have just been made."""
        first_batch, question = medians or self.medians()
        if first or question is None:
            return max(self.first_patience, MULTIPLE * first_batch)
        return max(self.patience, MULTIPLE * question * questions)
