"""`Outcome`: the results of the search of one question, and how waves of evaluations become one."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.errors import count, shown
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import Edit, LayerPath, format_edit, format_path
from cola_jax.question import Question
from cola_jax.scoring.verdicts import Verdicts

ROOT = 0  # the evaluation of the identity path
NO_PARENT = -1
NO_EDIT = (0, 0, 0, 0, 0)


class Leaf(NamedTuple):
    """A path to evaluate, and the path and the edit that it was made from.

    An edit is kind, start, k, amount and modifier (`path.Edit`), the last only above 0; zeros
    for none, or for several at once.
    """

    path: LayerPath
    parent: LayerPath | None = None
    edit: Sequence[int] = NO_EDIT


class Again(NamedTuple):
    """The answers on paths of a search when the question was asked in W other wordings."""

    nodes: list[int]  # the evaluations asked about, the baseline first
    holds: np.ndarray  # [n, W], whether each gives the target there too
    plain: list[int]  # [W], the pretrained model's answers there, as options of the question
    scores: np.ndarray  # [1 + W, J], its scores of the options, as first asked and there
    logprobs: np.ndarray  # [1 + W, J], its `answer_logprobs`, likewise


@dataclasses.dataclass(frozen=True, repr=False)
class Outcome:
    """The E evaluations of one search in order; the first is the identity path, the baseline.

    A path is right where it gives the target: gold, or in a control search a wrong option.
    """

    question: Question
    target: int
    paths: list[LayerPath]
    verdicts: Verdicts  # fields [E], of the target
    wave: np.ndarray  # [E], the wave in which it was evaluated, 0 for the baseline
    parent: np.ndarray  # [E], the evaluation whose path was edited, -1 for the baseline
    edits: np.ndarray  # [E, 5], kind, start, k, amount, modifier; zeros for the baseline
    reused: np.ndarray  # [E], whether another search of the question had evaluated the path
    confirmed: bool | None = None  # the shortest correct path is right in float32; None without one
    controls: tuple["Outcome", ...] = ()  # of the same question for wrong options
    again: Again | None = None  # None where no other wording was asked
    costs: LayerCosts | None = None  # by which parts of layers count; half a layer each where None

    def __repr__(self) -> str:
        before = {True: "right", False: "wrong", None: "ungraded"}[self.baseline]
        best = "none" if self.best is None else format_path(self.best)
        text = f"Outcome(question {shown(self.question.id)}, {before} before, "
        return f"{text}{count(self.evaluations, 'path')}, shortest correct one: {best})"

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
        """The length of every path in layers, [E]; whole numbers where all are of whole layers."""
        costs = self.costs or LayerCosts(len(self.paths[ROOT]))
        return np.array([costs.layers(path) for path in self.paths])

    def shortest(self, verdict: bool) -> int | None:
        """Find the shortest path that is right, or wrong; of equals that of the largest margin.

        Returns the evaluation, or None. A path on which the grader failed is neither.
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
    def best(self) -> LayerPath | None:
        """The shortest correct path, None where no path is right."""
        return None if self.shortest_correct is None else self.paths[self.shortest_correct]

    @property
    def held(self) -> bool | None:
        """Whether the best path is right in all other wordings, None if it was not asked again."""
        best = self.shortest_correct
        if self.again is None or best is None:
            return None
        return bool(self.again.holds[self.again.nodes.index(best)].all())

    @property
    def front(self) -> list[int]:
        """The Pareto front of (verdict, length): no other path is as right and as short."""
        right = self.shortest(True)
        wrong = self.shortest(False)
        if right is None or wrong is None:
            return [i for i in (right, wrong) if i is not None]
        return [right, wrong] if self.lengths[wrong] < self.lengths[right] else [right]

    def describe_edit(self, i: int) -> str | None:
        """Write the edit of evaluation i, such as `skip 2 at 5`; None for none or several."""
        return format_edit(self.edits[i]) if self.edits[i, 2] else None


class History:
    """The evaluations of one search so far, wave by wave."""

    def __init__(
        self, question: Question, target: int, index: int, costs: LayerCosts | None = None
    ):
        """Take the question, the option to reach, and the question's place in its batch.

        Costs tell the length of paths of parts, as of an `Outcome`.
        """
        self.question = question
        self.costs = costs
        self.target = target
        self.index = index
        self.leaves: list[Leaf] = []
        self.parents: list[int] = []
        self.numbers: dict[LayerPath | None, int] = {}  # of the evaluations, by path
        self.waves: list[int] = []
        self.verdicts: list[Verdicts] = []  # of each wave
        self.reused: list[np.ndarray] = []
        self.improved = False

    def record(
        self, wave: int, leaves: Sequence[Leaf], verdicts: Verdicts, reused: np.ndarray
    ) -> None:
        """Add C evaluations: their verdicts [C], and which were known before [C]."""
        for leaf in leaves:
            self.parents.append(self.numbers.get(leaf.parent, NO_PARENT))
            self.numbers[leaf.path] = len(self.leaves)
            self.leaves.append(leaf)
        self.waves += [wave] * len(leaves)
        self.verdicts.append(verdicts)
        self.reused.append(reused)
        # the target where the model does not give it, or on fewer layers; unless the grader failed
        # on the model's own answer, which may be either
        plain = self.verdicts[0]
        layers = len(self.leaves[ROOT].path)
        costs = self.costs or LayerCosts(layers)
        shorter = np.array([costs.layers(leaf.path) < layers for leaf in leaves], bool)
        better = verdicts.verdict & (shorter | ~plain.verdict[ROOT])
        self.improved |= bool(plain.graded[ROOT] and better.any())

    def outcome(self) -> Outcome:
        """Return the outcome of the search."""
        return Outcome(
            question=self.question,
            target=self.target,
            paths=[leaf.path for leaf in self.leaves],
            verdicts=Verdicts(*map(np.concatenate, zip(*self.verdicts, strict=True))),
            wave=np.array(self.waves, np.int32),
            parent=np.array(self.parents, np.int32),
            edits=np.array([Edit(*leaf.edit) for leaf in self.leaves], np.int32),
            reused=np.concatenate(self.reused),
            costs=self.costs,
        )
