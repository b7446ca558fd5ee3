"""`Outcome`: all that a search found out about one question; `History`: how it is recorded."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.path import STOP, format_edit, format_path, unpad_path
from cola_jax.question import Question
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.rules import Settings

ROOT = 0  # the evaluation of the identity path
NO_PARENT = -1


class Proposals(NamedTuple):
    """Paths that a strategy wants evaluated next, C for each of S searches."""

    paths: np.ndarray  # [S, C, P], STOP alone for none
    node: np.ndarray  # [S, C], the number of the evaluation within its search, -1 for none
    parent: np.ndarray  # [S, C], the evaluation whose path was edited, -1 for none
    edits: np.ndarray  # [S, C, 4], kind, start, k, amount

    @classmethod
    def root(cls, path: np.ndarray, searches: int) -> "Proposals":
        """Propose the identity path for every search."""
        return cls(
            paths=np.tile(path, (searches, 1, 1)),
            node=np.full((searches, 1), ROOT),
            parent=np.full((searches, 1), NO_PARENT),
            edits=np.zeros((searches, 1, 4), np.int32),
        )


class Again(NamedTuple):
    """The answers on paths of a search when the question was asked in V other variants."""

    nodes: list[int]  # the evaluations asked about, the baseline first
    holds: np.ndarray  # [n, V], whether each gives the target there too
    plain: list[int]  # [V], the pretrained model's answers there, as options of the question
    scores: np.ndarray  # [1 + V, J], its scores of the options, as first asked and there
    first: int | None = None  # its answer as first asked, where verdicts are of all variants


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The E evaluations of one search in order; the first is the identity path, the baseline.

    Right is a path that gives the target: gold, or in a control search a wrong option.
    """

    question: Question
    target: int
    paths: list[tuple[int, ...]]
    verdicts: Verdicts  # fields [E], of the target
    wave: np.ndarray  # [E], the wave in which it was evaluated, 0 for the baseline
    parent: np.ndarray  # [E], the evaluation whose path was edited, -1 for the baseline
    edits: np.ndarray  # [E, 4], kind, start, k, amount; zeros for the baseline
    reused: np.ndarray  # [E], whether another search of the question had evaluated the path
    confirmed: bool | None = None  # the shortest correct path is right in float32; None without one
    controls: tuple["Outcome", ...] = ()  # of the same question for wrong options
    again: Again | None = None  # None where no other variant was asked

    @property
    def evaluations(self) -> int:
        """The number of paths that the search has asked about."""
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
        """Find the shortest path that is right, or wrong; where the grader failed, it is neither.

        Returns:
          The index of the evaluation, of equally short ones that of the largest margin; None where
          no path has this verdict.
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
    def best(self) -> tuple[int, ...] | None:
        """The shortest correct path, None where no path is right."""
        return None if self.shortest_correct is None else self.paths[self.shortest_correct]

    @property
    def shortened(self) -> bool:
        """Whether the shortest correct path has fewer layers than the model."""
        return self.best is not None and len(self.best) < self.lengths[ROOT]

    @property
    def robust_baseline(self) -> bool | None:
        """Whether the pretrained model gives the target in all variants; None without others."""
        if self.again is None:
            return None
        return bool(self.verdicts.verdict[ROOT] and self.again.holds[0].all())

    @property
    def robust(self) -> int | None:
        """The shortest evaluation of those asked again that is right in all variants, or None."""
        if self.again is None:
            return None
        nodes = np.array(self.again.nodes)
        held = nodes[self.again.holds.all(axis=1) & self.verdicts.verdict[nodes]].tolist()
        return min(held, key=lambda i: self.lengths[i], default=None)

    @property
    def front(self) -> list[int]:
        """The Pareto front of (verdict, length): no other path is as right and as short."""
        right, wrong = self.shortest(True), self.shortest(False)
        if right is None or wrong is None:
            return [i for i in (right, wrong) if i is not None]
        return [right, wrong] if self.lengths[wrong] < self.lengths[right] else [right]

    def describe_edit(self, i: int) -> str | None:
        """Write the edit that made the path of evaluation i from its parent's.

        Returns:
          Text such as `skip 2 at 5`; None where there were none or several edits.
        """
        return format_edit(self.edits[i]) if self.edits[i, 2] else None


class Outcomes(list[Outcome]):
    """The outcomes of several questions, in their order, and the settings of their search."""

    def __init__(self, outcomes: Iterable[Outcome], settings: Settings):
        super().__init__(outcomes)
        self.settings = settings

    def to_pandas(self) -> Any:
        """Make a table of the outcomes; needs pandas.

        Returns:
          A DataFrame with a row for each question, and the columns question (its id), baseline
          (whether the pretrained model is right), best (the shortest correct path, None where there
          is none), length (its layers), evaluations and confirmed (right in float32 too).
        """
        import pandas

        paths = [outcome.best for outcome in self]
        return pandas.DataFrame(
            {
                "question": [outcome.question.id for outcome in self],
                "baseline": [outcome.baseline for outcome in self],
                "best": [None if path is None else format_path(path) for path in paths],
                "length": [None if path is None else len(path) for path in paths],
                "evaluations": [outcome.evaluations for outcome in self],
                "confirmed": [outcome.confirmed for outcome in self],
            }
        )


class History:
    """Everything evaluated so far in S searches, at most E evaluations each."""

    def __init__(
        self, questions: Sequence[Question], targets: Sequence[int], root: np.ndarray, size: int
    ):
        """Take the question and the target of each search, the identity path [P], and E."""
        self.questions, self.targets, self.root, self.waves = questions, targets, root, 0
        shape = (len(questions), size)
        self.verdicts = Verdicts.empty(shape, max(1, *(len(each.options) for each in questions)))
        self.paths = np.full((*shape, len(root)), STOP, np.int32)
        self.wave = np.zeros(shape, np.int32)
        self.parent = np.full(shape, NO_PARENT, np.int32)
        self.edits = np.zeros((*shape, 4), np.int32)
        self.reused = np.zeros(shape, bool)
        self.sizes = np.zeros(len(questions), int)  # evaluations of each search

    def record(self, proposals: Proposals, verdicts: Verdicts, reused: np.ndarray) -> None:
        """Record the verdicts of a wave [S, C], and which of them were known before."""
        index = np.nonzero(proposals.node >= 0)
        search, node = index[0], proposals.node[index]
        self.verdicts.put((search, node), verdicts.take(index))
        self.paths[search, node] = proposals.paths[index]
        self.wave[search, node] = self.waves
        self.parent[search, node] = proposals.parent[index]
        self.edits[search, node] = proposals.edits[index]
        self.reused[search, node] = reused[index]
        np.add.at(self.sizes, search, 1)
        self.waves += 1

    @property
    def improved(self) -> np.ndarray:
        """Searches [S] that reached their target where the model does not, or on fewer layers.

        Not those where the grader failed on the model's own answer, which may be either.
        """
        lengths, verdict = (self.paths != STOP).sum(axis=-1), self.verdicts.verdict
        better = ~verdict[:, [ROOT]] | (lengths < lengths[:, [ROOT]])
        known = self.verdicts.take((slice(None), ROOT)).graded
        return known & np.any(verdict & better, axis=1)

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of every search."""
        return [
            Outcome(
                question=question,
                target=self.targets[s],
                paths=[unpad_path(path) for path in self.paths[s, :size]],
                verdicts=self.verdicts.take((s, slice(size))),
                wave=self.wave[s, :size],
                parent=self.parent[s, :size],
                edits=self.edits[s, :size],
                reused=self.reused[s, :size],
            )
            for s, (question, size) in enumerate(zip(self.questions, self.sizes, strict=True))
        ]
