"""What searches reach, of gold and of wrong answers: counted once, and asked again."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from cola_jax.layer_costs import LayerCosts
from cola_jax.scoring.preference import Targets
from cola_jax.scoring.saved_layers import SavedLayers
from cola_jax.scoring.statistics import ALPHA, Share

ONCE = "once"
AGAIN = "asked again"


class Reached(NamedTuple):
    """The result of one search."""

    # the length in layers of the shortest path to its target, None where it found none
    best: float | None
    held: bool | None  # whether that path gives it in all wordings, None if not asked again

    @classmethod
    def of(cls, row: Mapping[str, Any], costs: LayerCosts | None = None) -> "Reached":
        """Read the search for gold from a question's row, or a control search.

        Costs tell the length of paths of parts.
        """
        held = [all(path["holds"]) for path in row["again"] or () if path["path"] == row["best"]]
        path = row["best"]
        best = None if path is None else len(path) if costs is None else costs.layers(path)
        return cls(best, held[0] if held else None)


HITS: dict[str, Callable[[Reached], bool | None]] = {
    ONCE: lambda search: search.best is not None,
    AGAIN: lambda search: search.held,
}


class Case(NamedTuple):
    """A searched question whose baseline is graded."""

    id: str
    gold: int
    baseline: bool  # whether the pretrained model is right
    answers: list[int]  # the model's, as first asked and in each other wording
    # [1 + W, J], its scores of the options, likewise, or its log-probabilities of whole answers to
    # an open question; NaN where unknown
    scores: np.ndarray
    searches: dict[int, Reached]  # by target
    lengths: list[int]  # [J], characters of the options
    evaluations: int  # of the search for gold
    chance: float  # that a sample of the model is gold as first asked; NaN where unknown

    @classmethod
    def of(
        cls,
        row: Mapping[str, Any],
        *,
        open: bool = False,
        log_likelihoods: bool = True,
        costs: LayerCosts | None = None,
    ) -> "Case":
        """Read a question's row, of an open question or not, and with which scores and costs."""
        searches = {each["target"]: Reached.of(each, costs) for each in row["controls"] or ()}
        answers = [row["baseline_answer"], *(row["again_answers"] or ())]
        lengths = list(map(len, row["options"] or ()))
        options = len(lengths)
        scores = np.full((len(answers), options), np.nan)  # of a user's metric
        stored = row["baseline_logprobs" if open else "baseline_scores"] or ()
        if [len(each) for each in stored] == [options] * len(answers):
            scores = np.array(stored, float)
        gold = 0 if row["gold"] is None else row["gold"]
        searches = {gold: Reached.of(row, costs)} | searches
        baseline = bool(row["baseline"])
        chance = chance_of(scores[0], gold, open=open) if log_likelihoods else math.nan
        return cls(
            row["question"],
            gold,
            baseline,
            answers,
            scores,
            searches,
            lengths,
            row["evaluations"],
            chance,
        )

    @property
    def before(self) -> str:
        """Whether the model is `right` or `wrong` in all wordings, or `mixed`."""
        right = [answer == self.gold for answer in self.answers]
        return "right" if all(right) else "mixed" if any(right) else "wrong"

    @property
    def own(self) -> Reached | None:
        """The search for the answer that the model gives in all wordings, if it is the same."""
        return self.searches.get(self.answers[0]) if len(set(self.answers)) == 1 else None

    @property
    def wrong_targets(self) -> list[int]:
        """The wrong answers that are searched for and that the model gives in no wording."""
        given = {self.gold, *self.answers}
        return [target for target in self.searches if target not in given]

    @property
    def controls(self) -> list[Reached]:
        """The searches for `wrong_targets`."""
        return [self.searches[target] for target in self.wrong_targets]

    def sampled(self, samples: int | None = None) -> float:
        """Return the chance that one of some samples of the model at temperature 1 is gold.

        By default there are as many as the search for gold has evaluated paths.
        """
        samples = self.evaluations if samples is None else samples
        return 1 - (1 - self.chance) ** samples

    def first(self) -> "Case":
        """Drop the other wordings."""
        return self._replace(answers=self.answers[:1], scores=self.scores[:1])


def chance_of(scores: np.ndarray, gold: int, *, open: bool) -> float:
    """Return the chance of gold at temperature 1, by log-probabilities [J] as first asked.

    Those of an open question are of the whole answers; an option is drawn among those offered.
    """
    if gold >= len(scores) or not np.isfinite(scores).all():
        return math.nan
    return float(np.exp(scores[gold]) if open else softmax(scores)[gold])


class Compared(NamedTuple):
    """The questions that are wrong in all wordings and have a control search."""

    cases: list[Case]
    targets: list[list[int]]  # of each: gold first, then its other answers
    gaps: np.ndarray  # [n, J], as `Targets` has them
    lengths: np.ndarray  # likewise
    weighted: bool

    @property
    def ids(self) -> list[str]:
        """The ids of the questions."""
        return [case.id for case in self.cases]

    def reached(self, hit: Callable[[Case, int], bool]) -> Targets:
        """Return the targets, with the hits of a function from a question and a target."""
        rows = [
            [target in case.searches and hit(case, target) for target in targets]
            for case, targets in zip(self.cases, self.targets, strict=True)
        ]
        return Targets(padded(rows, False), self.gaps, self.lengths, self.weighted)


class Ways(NamedTuple):
    """The questions of searches, and the ways in which their results can be counted."""

    cases: list[Case]
    names: tuple[str, ...]  # of ONCE and AGAIN
    weighted: bool  # whether the model's scores of what is searched for are known

    @classmethod
    def of(cls, cases: list[Case], *, open: bool, combined: bool = False) -> "Ways":
        """Take searched questions, open ones or not.

        Those of open questions lack scores where a scorer decodes, and in runs of earlier versions.
        `combined` searches, of such versions, looked for paths that are right in all wordings.
        """
        weighted = not open or any(np.isfinite(case.scores).all() for case in cases)
        if combined:
            return cls(cases, (AGAIN,), weighted)
        asked_again = any(len(case.answers) > 1 for case in cases)
        return cls(cases, (ONCE, AGAIN) if asked_again else (ONCE,), weighted)

    def asked(self, name: str) -> list[Case]:
        """Return the questions with the wordings that one way of counting regards."""
        return [case.first() for case in self.cases] if name == ONCE else self.cases

    def compared(self, name: str) -> Compared:
        """Collect the questions that are wrong in all wordings and have a control search.

        Weighted targets need finite scores; questions without are left out.
        """
        cases = []
        every = []
        gaps = []
        lengths = []
        for case in self.asked(name):
            order = [case.gold, *(j for j in range(case.scores.shape[1]) if j != case.gold)]
            score = case.scores.mean(axis=0)[order] if self.weighted else np.zeros(len(order))
            if case.before != "wrong" or not case.controls or not np.isfinite(score).all():
                continue
            missing = np.array([j in case.answers or j not in case.searches for j in order])
            cases.append(case)
            every.append(order)
            gaps.append(np.where(missing, np.nan, score.max() - score))
            lengths.append(np.array(case.lengths, float)[order])
        return Compared(cases, every, padded(gaps, np.nan), padded(lengths, 0.0), self.weighted)

    def targets(self, name: str) -> tuple[list[str], Targets]:
        """Return the ids of the questions `compared`, and what their searches reached."""
        compared = self.compared(name)
        hits = compared.reached(lambda case, target: bool(HITS[name](case.searches[target])))
        return compared.ids, hits

    def kept(self, name: str, num_layers: int, alpha: float = ALPHA) -> SavedLayers:
        """Compare the layers saved on right and on wrong answers that are kept.

        The interval misses the difference with the probability `alpha`.
        """
        rows = []
        for case in self.asked(name):
            if case.own is None or case.before == "mixed":
                continue
            score = np.sort(case.scores.mean(axis=0))
            saved = max(0, num_layers - (case.own.best or num_layers))
            if len(score) > 1 and np.isfinite(score).all():
                rows.append((saved, case.before == "right", score[-1] - score[-2]))
        saved, right, margin = np.array(rows, float).reshape(-1, 3).T
        return SavedLayers.of(saved, right > 0, margin, alpha)

    def solved(self, num_layers: int) -> dict[str, tuple[bool, bool]]:
        """Return for each graded question: correct on some path, and on a shorter path."""
        best = {case.id: case.searches[case.gold].best for case in self.cases}
        return {id: (n is not None, n is not None and n < num_layers) for id, n in best.items()}


def padded(rows: Sequence[Sequence[Any] | np.ndarray], fill: Any) -> np.ndarray:
    """Stack rows of different lengths."""
    out = np.full((len(rows), max(map(len, rows), default=1)), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


class AskedAgain(NamedTuple):
    """The answers on the identity path and on the best paths in other wordings."""

    agreement: Share  # answers of the pretrained model in another wording: as first asked
    held: Share  # best paths of questions wrong in all wordings: right in all
    held_control: Share  # best paths of their control searches: give the target in all
    before: Share  # right in all wordings before
    mixed: Share  # right in some wordings before: the best path right in all
    shortened: Share  # right in all wordings before: also on the best path, which is shorter

    @classmethod
    def of(cls, ways: Ways, num_layers: int) -> "AskedAgain":
        """Summarise the wordings of the questions of a run."""
        gold: dict[str, list[Reached]] = {"right": [], "wrong": [], "mixed": []}
        for case in ways.cases:
            gold[case.before].append(case.searches[case.gold])
        wrong = (case for case in ways.cases if case.before == "wrong")
        controls = [search for case in wrong for search in case.controls]
        return cls(
            agreement=share(answer == c.answers[0] for c in ways.cases for answer in c.answers[1:]),
            held=share(search.held for search in gold["wrong"]),
            held_control=share(search.held for search in controls),
            before=Share(len(gold["right"]), len(ways.cases)),
            mixed=share(bool(search.held) for search in gold["mixed"]),
            shortened=share(
                bool(search.held) and (search.best or num_layers) < num_layers
                for search in gold["right"]
            ),
        )


def share(values: Iterable[bool | None]) -> Share:
    """Count how many values are true, of those that are not None."""
    return Share.of(np.array([value for value in values if value is not None], bool))
