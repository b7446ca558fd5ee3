"""`Outcome`: all that a search found out about one question."""

import dataclasses
import functools

import numpy as np

from cola_jax.edits import format_edit
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search.tree import ROOT


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The E evaluations of one question in order; the first is the identity path, the baseline."""

    encoded: Encoded
    paths: list[tuple[int, ...]]
    verdicts: Verdicts  # fields [E]
    wave: np.ndarray  # [E], the step in which it was evaluated, 0 for the baseline
    parent: np.ndarray  # [E], the evaluation whose path was edited, -1 for the baseline
    edits: np.ndarray  # [E, 4], kind, start, k, amount; zeros for the baseline
    confirmed: bool | None = None  # the shortest correct path is right in float32; None without one

    @property
    def evaluations(self) -> int:
        """The number of (question, path) pairs run through the model."""
        return len(self.paths)

    @property
    def baseline(self) -> bool | None:
        """Whether the pretrained model is right, None where the grader failed."""
        return bool(self.verdicts.verdict[ROOT]) if self.verdicts.graded[ROOT] else None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """The layers of every path, [E]."""
        return np.array([len(path) for path in self.paths])

    def shortest(self, verdict: bool) -> int | None:
        """Returns the shortest evaluation with a verdict, of equals that of the largest margin.

        What the grader failed on has none.
        """
        candidates = np.flatnonzero((self.verdicts.verdict == verdict) & self.verdicts.graded)
        if not len(candidates):
            return None
        order = np.lexsort((-self.verdicts.margin[candidates], self.lengths[candidates]))
        return int(candidates[order[0]])

    @property
    def shortest_correct(self) -> int | None:
        """The evaluation of the shortest correct path, None where no path is right."""
        return self.shortest(True)

    @property
    def front(self) -> list[int]:
        """The Pareto front of (verdict, length): no other path is as right and as short."""
        right, wrong = self.shortest(True), self.shortest(False)
        if right is None or wrong is None:
            return [i for i in (right, wrong) if i is not None]
        return [right, wrong] if self.lengths[wrong] < self.lengths[right] else [right]

    def describe_edit(self, i: int) -> str:
        """Writes the edit that made a path from its parent's."""
        return format_edit(self.edits[i])
