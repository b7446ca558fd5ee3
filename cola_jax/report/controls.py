"""What searches reach beyond their control searches, once and in all variants of a question."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.scoring.preference import Excess, Kept, Net, Preference, Targets
from cola_jax.scoring.statistics import Share

COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["variant_answers", "best", "robust", "again", "controls"]
ONCE, AGAIN, ROBUST = "once", "asked again", "robust"


class Reached(NamedTuple):
    """The result of one search; lengths are None where it found no such path."""

    best: int | None  # positions of the shortest path to its target
    held: bool | None  # whether that path gives the target in all variants, None if not asked again
    robust: int | None  # positions of the shortest path that gives the target in all variants

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Reached":
        """Read the search for gold from a question's row, or a control search."""
        held = [all(path["holds"]) for path in row["again"] or () if path["path"] == row["best"]]
        best, robust = (None if row[n] is None else len(row[n]) for n in ("best", "robust"))
        return cls(best, held[0] if held else None, robust)


HITS: dict[str, Callable[[Reached], bool | None]] = {
    ONCE: lambda search: search.best is not None,
    AGAIN: lambda search: search.held,
    ROBUST: lambda search: search.robust is not None,
}


class Case(NamedTuple):
    """A searched question whose baseline is graded."""

    id: str
    gold: int
    answers: list[int]  # the model's, as first asked and in each other variant
    scores: np.ndarray  # [1 + V, J], its scores of the options, likewise
    searches: dict[int, Reached]  # by target

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Case":
        """Read a question's row."""
        searches = {search["target"]: Reached.of(search) for search in row["controls"] or ()}
        answers = [row["baseline_answer"], *(row["variant_answers"] or ())]
        options = len(row["options"] or ())
        scores = np.full((len(answers), options), np.nan)  # of an older run, or a user's metric
        if [len(stored) for stored in row["baseline_scores"] or ()] == [options] * len(answers):
            scores = np.array(row["baseline_scores"], float)
        gold = 0 if row["gold"] is None else row["gold"]
        return cls(row["question"], gold, answers, scores, {gold: Reached.of(row)} | searches)

    @property
    def before(self) -> str:
        """Whether the model is `right` or `wrong` in all variants, or `mixed`."""
        right = [answer == self.gold for answer in self.answers]
        return "right" if all(right) else "mixed" if any(right) else "wrong"

    @property
    def own(self) -> Reached | None:
        """The search for the answer that the model gives in all variants, if it is the same."""
        return self.searches.get(self.answers[0]) if len(set(self.answers)) == 1 else None

    @property
    def controls(self) -> list[Reached]:
        """The searches for wrong answers that the model gives in no variant."""
        given = {self.gold, *self.answers}
        return [search for target, search in self.searches.items() if target not in given]

    def first(self) -> "Case":
        """Drop the other variants."""
        return self._replace(answers=self.answers[:1], scores=self.scores[:1])

    def targets(self) -> list[int]:
        """List the options in order, gold first."""
        return [self.gold, *(j for j in range(self.scores.shape[1]) if j != self.gold)]


def targets_of(
    cases: Iterable[Case], hit: Callable[[Reached], bool | None], *, weighted: bool
) -> tuple[list[str], Targets]:
    """Collect the targets of questions that are wrong in all variants and have a control.

    Returns:
      The ids of the questions, and what their searches reached. If `weighted`, questions whose
      scores are not finite are left out; otherwise scores are not used.
    """
    ids, hits, gaps = [], [], []
    for case in cases:
        if case.before != "wrong" or not case.controls:
            continue
        order = case.targets()
        score = case.scores.mean(axis=0)[order] if weighted else np.zeros(len(order))
        if not np.isfinite(score).all():
            continue
        missing = np.array([j in case.answers or j not in case.searches for j in order])
        ids.append(case.id)
        gaps.append(np.where(missing, np.nan, score.max() - score))
        hits.append([j in case.searches and bool(hit(case.searches[j])) for j in order])
    return ids, Targets(padded(hits, False), padded(gaps, np.nan), weighted)


def padded(rows: Sequence[Sequence[Any] | np.ndarray], fill: Any) -> np.ndarray:
    """Stack rows of different lengths."""
    out = np.full((len(rows), max(map(len, rows), default=1)), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


class Ways(NamedTuple):
    """The questions of a run, and the ways in which their results can be counted."""

    cases: list[Case]
    names: tuple[str, ...]  # of ONCE, AGAIN and ROBUST
    weighted: bool  # whether the model scores the options that are searched for

    @classmethod
    def of(cls, questions: pa.Table, *, open: bool, robust: bool) -> "Ways":
        """Read the questions of a run; `robust` where it searched in all variants at once."""
        rows = questions.filter(pc.field("baseline").is_valid()).select(COLUMNS)
        cases = [Case.of(row) for batch in rows.to_batches() for row in batch.to_pylist()]
        variants = any(len(case.answers) > 1 for case in cases)
        names = (ROBUST,) if robust else (ONCE, AGAIN, ROBUST) if variants else (ONCE,)
        return cls(cases, names, not open)

    def asked(self, name: str) -> list[Case]:
        """Return the questions with the variants that one way of counting regards."""
        return [case.first() for case in self.cases] if name == ONCE else self.cases

    def targets(self, name: str) -> tuple[list[str], Targets]:
        """Collect the targets and hits of the questions, counted in one of the ways."""
        return targets_of(self.asked(name), HITS[name], weighted=self.weighted)

    def kept(self, name: str, num_layers: int) -> Kept:
        """Compare the layers saved on right and on wrong answers that are kept."""
        rows = []
        for case in self.asked(name):
            if case.own is None or case.before == "mixed":
                continue
            score = np.sort(case.scores.mean(axis=0))
            length = case.own.best if name == ONCE else case.own.robust
            saved = max(0, num_layers - (length or num_layers))
            if len(score) > 1 and np.isfinite(score).all():
                rows.append((saved, case.before == "right", score[-1] - score[-2]))
        saved, right, margin = np.array(rows, float).reshape(-1, 3).T
        return Kept.of(saved, right > 0, margin)


def compare_controls(ways: Ways, num_layers: int, preference: Preference | None) -> dict[str, Any]:
    """Compute the fields of a summary that compare searches with their controls."""
    wrong = [case for case in ways.asked(ways.names[0]) if case.before == "wrong"]
    hits = [search.best is not None for case in wrong for search in case.controls]
    targets = {name: ways.targets(name)[1] for name in ways.names}
    fitted = {name: preference or reached.preference() for name, reached in targets.items()}
    nets = {name: Net.of(reached, fitted[name]) for name, reached in targets.items()}
    compared = nets[ways.names[0]].n
    again = None if ways.names == (ONCE,) else AskedAgain.of(ways, num_layers)
    fields = {
        "preference": fitted[ways.names[0]] if ways.weighted and compared else None,
        "unscored": sum(bool(case.controls) for case in wrong) - compared,
        "control": Share.of(np.array(hits, bool)),
        "without_control": sum(not case.controls for case in wrong),
        "nets": nets,
        "curves": {},
        "kept": {},
        "again": again,
    }
    if ways.weighted:
        fields["curves"] = {name: Excess.of(reached) for name, reached in targets.items()}
        fields["kept"] = {n: ways.kept(n, num_layers) for n in ways.names if n != AGAIN}
    if again and ONCE not in ways.names:
        fields["corrected"] = again.corrected  # right in all variants, of those right in none
    return fields


class AskedAgain(NamedTuple):
    """The answers of the best paths in the other variants of their questions.

    A robust path is right in all variants.
    """

    agreement: Share  # answers of the pretrained model in another variant: as in the first
    held: Share  # best paths of questions wrong in all variants: right in all
    held_control: Share  # best paths of their control searches that give the target in all
    before: Share  # right in all variants before
    corrected: Share  # wrong in all variants before: right in all on one path
    mixed: Share  # right in some variants before: right in all on one path
    shortened: Share  # right in all variants before: also on a shorter path

    @classmethod
    def of(cls, ways: Ways, num_layers: int) -> "AskedAgain":
        """Summarise the variants of the questions of a run."""
        groups: dict[str, list[Case]] = {"right": [], "wrong": [], "mixed": []}
        for case in ways.cases:
            groups[case.before].append(case)
        gold = {name: [case.searches[case.gold] for case in groups[name]] for name in groups}
        controls = [search for case in groups["wrong"] for search in case.controls]

        def held(searches: list[Reached]) -> Share:
            return share(search.held for search in searches if search.held is not None)

        agrees = (answer == c.answers[0] for c in ways.cases for answer in c.answers[1:])
        return cls(
            agreement=share(agrees),
            held=held(gold["wrong"]),
            held_control=held(controls),
            before=Share(len(groups["right"]), len(ways.cases)),
            corrected=share(search.robust is not None for search in gold["wrong"]),
            mixed=share(search.robust is not None for search in gold["mixed"]),
            shortened=share((s.robust or num_layers) < num_layers for s in gold["right"]),
        )


def share(values: Iterable[bool]) -> Share:
    """Count how many of some values are true."""
    return Share.of(np.array(list(values), bool))
