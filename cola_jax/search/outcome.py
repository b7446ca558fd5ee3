"""`Outcome`: all that a search found out about one question; `History`: how it is recorded."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.edits import format_edit
from cola_jax.path import STOP
from cola_jax.question import Question
from cola_jax.scoring.verdicts import Verdicts

ROOT = 0  # the evaluation of the identity path
NO_PARENT = -1


class Proposals(NamedTuple):
    """Paths that a strategy wants evaluated next, C for each question."""

    paths: np.ndarray  # [B, C, P], STOP alone for none
    node: np.ndarray  # [B, C], the number of the evaluation within its question, -1 for none
    parent: np.ndarray  # [B, C], the evaluation whose path was edited, -1 for none
    edits: np.ndarray  # [B, C, 4], kind, start, k, amount

    @classmethod
    def root(cls, path: np.ndarray, questions: int) -> "Proposals":
        """Proposes the identity path for every question."""
        return cls(
            paths=np.tile(path, (questions, 1, 1)),
            node=np.full((questions, 1), ROOT),
            parent=np.full((questions, 1), NO_PARENT),
            edits=np.zeros((questions, 1, 4), np.int32),
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The E evaluations of one question in order; the first is the identity path, the baseline."""

    question: Question
    paths: list[tuple[int, ...]]
    verdicts: Verdicts  # fields [E]
    wave: np.ndarray  # [E], the wave in which it was evaluated, 0 for the baseline
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

        An answer on which the grader failed has no verdict.
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
    def shortened(self) -> bool:
        """Whether the shortest correct path has fewer layers than the model."""
        best = self.shortest_correct
        return best is not None and bool(self.lengths[best] < self.lengths[ROOT])

    @property
    def front(self) -> list[int]:
        """The Pareto front of (verdict, length): no other path is as right and as short."""
        right, wrong = self.shortest(True), self.shortest(False)
        if right is None or wrong is None:
            return [i for i in (right, wrong) if i is not None]
        return [right, wrong] if self.lengths[wrong] < self.lengths[right] else [right]

    @property
    def control(self) -> int | None:
        """The wrong option that the search is compared with, by a hash of the question's id.

        The control must start where a wrong question starts: with an option that the pretrained
        model does not choose. So neither gold nor the baseline's answer is picked; None where no
        other option is left.
        """
        question = self.question
        taken = {question.answer, int(self.verdicts.answer[ROOT])}
        others = [j for j in range(len(question.options)) if j not in taken]
        if not others:
            return None
        digest = hashlib.sha256(f"control {question.id}".encode()).digest()
        return others[int.from_bytes(digest[:8], "little") % len(others)]

    def describe_edit(self, i: int) -> str:
        """Writes the edit that made a path from its parent's."""
        return format_edit(self.edits[i])


class History:
    """Everything evaluated so far for a batch of questions, at most E evaluations each."""

    def __init__(self, questions: Sequence[Question], num_layers: int, evaluations: int):
        self.questions, self.num_layers = questions, num_layers
        shape = (len(questions), evaluations)
        most = max(1, *(len(question.options) for question in questions))
        self.verdicts = Verdicts.empty(shape, most)
        self.paths: list[list[tuple[int, ...]]] = [[] for _ in questions]
        self.lengths = np.full(shape, num_layers)
        self.wave, self.waves = np.zeros(shape, np.int32), 0
        self.parent = np.full(shape, NO_PARENT, np.int32)
        self.edits = np.zeros((*shape, 4), np.int32)

    def record(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Records the verdicts of a wave."""
        for b in range(len(self.questions)):
            present = np.flatnonzero(proposals.node[b] >= 0)
            nodes = proposals.node[b][present]
            rows = proposals.paths[b][present]
            self.paths[b] += [tuple(row[row != STOP].tolist()) for row in rows]
            self.verdicts.put((b, nodes), verdicts.take((b, present)))
            self.lengths[b, nodes] = (rows != STOP).sum(axis=-1)
            self.wave[b, nodes] = self.waves
            self.parent[b, nodes] = proposals.parent[b][present]
            self.edits[b, nodes] = proposals.edits[b][present]
        self.waves += 1

    @property
    def improved(self) -> np.ndarray:
        """Questions [B] answered rightly where the model is wrong, or on fewer layers.

        Not those where the grader failed on the model's own answer, which may be either.
        """
        shorter = self.lengths < self.num_layers
        verdict, root = self.verdicts.verdict, self.verdicts.verdict[:, [ROOT]]
        known = self.verdicts.graded[:, ROOT]
        return known & np.any(verdict & (~root | shorter), axis=1)

    def outcomes(self) -> list[Outcome]:
        """Collects what is known of every question."""
        outcomes = []
        for b, question in enumerate(self.questions):
            size = len(self.paths[b])
            outcomes.append(
                Outcome(
                    question=question,
                    paths=self.paths[b],
                    verdicts=self.verdicts.take((b, slice(size))),
                    wave=self.wave[b, :size],
                    parent=self.parent[b, :size],
                    edits=self.edits[b, :size],
                )
            )
        return outcomes
