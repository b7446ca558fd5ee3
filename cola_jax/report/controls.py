"""What searches find beyond their control searches, once and in all variants of their questions."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.report.columns import list_lengths
from cola_jax.report.kept import Kept
from cola_jax.report.preference import Excess, Net, Preference, Targets
from cola_jax.scoring.statistics import Share

COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["variant_answers", "best", "robust", "again", "controls"]
ONCE, AGAIN, ROBUST = "once", "asked again", "robust"


class Reached(NamedTuple):
    """What one search found; layers are None where it found no such path."""

    best: int | None  # layers of the shortest path to its target
    held: bool | None  # whether that path gives the target in all variants, None if not asked again
    robust: int | None  # layers of the shortest path that gives the target in all variants

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Reached":
        """Reads the search for gold of a question's row, or a control search."""
        held = [all(one["holds"]) for one in row["again"] or () if one["path"] == row["best"]]
        best, robust = (None if row[n] is None else len(row[n]) for n in ("best", "robust"))
        return cls(best, held[0] if held else None, robust)


class Case(NamedTuple):
    """A question that was searched, whose baseline is graded."""

    id: str
    gold: int
    answers: list[int]  # the model's, as first asked and in each other variant
    scores: np.ndarray  # [1 + V, J], its scores of the options, likewise
    searches: dict[int, Reached]  # by target

    @property
    def before(self) -> str:
        """Whether the model is `right` or `wrong` in all variants, or `mixed`."""
        right = [answer == self.gold for answer in self.answers]
        return "right" if all(right) else "mixed" if any(right) else "wrong"

    @property
    def own(self) -> Reached | None:
        """The search for the one answer that the model gives in all variants."""
        return self.searches.get(self.answers[0]) if len(set(self.answers)) == 1 else None

    @property
    def controls(self) -> list[Reached]:
        """The searches for wrong answers that the model gives in no variant."""
        given = {self.gold, *self.answers}
        return [one for target, one in self.searches.items() if target not in given]

    def first(self) -> "Case":
        """Leaves out the other variants."""
        return self._replace(answers=self.answers[:1], scores=self.scores[:1])

    def targets(self) -> list[int]:
        """Lists the options in order, gold first."""
        return [self.gold, *(j for j in range(self.scores.shape[1]) if j != self.gold)]


def read_asked(questions: pa.Table) -> list[Case]:
    """Reads the questions whose baseline is graded."""
    rows = questions.filter(pc.field("baseline").is_valid()).select(COLUMNS)
    return [asked(row) for batch in rows.to_batches() for row in batch.to_pylist()]


def asked(row: dict[str, Any]) -> Case:
    """Reads a question's row."""
    searches = {one["target"]: Reached.of(one) for one in row["controls"] or ()}
    answers = [row["baseline_answer"], *(row["variant_answers"] or ())]
    options = len(row["options"] or ())
    scores = np.full((len(answers), options), np.nan)  # of an older run, or a metric of one's own
    if [len(one) for one in row["baseline_scores"] or ()] == [options] * len(answers):
        scores = np.array(row["baseline_scores"], float)
    gold = 0 if row["gold"] is None else row["gold"]
    return Case(row["question"], gold, answers, scores, {gold: Reached.of(row)} | searches)


def targets_of(
    some: Iterable[Case], hit: Callable[[Reached], bool | None], *, weighted: bool
) -> tuple[list[str], Targets]:
    """Collects the targets of questions that are wrong in all variants and have a control.

    Returns:
      The ids of the questions, and what their searches reached. Without weights scores are not
      used, else a question whose scores are not finite is left out.
    """
    ids, hits, gaps = [], [], []
    for one in some:
        if one.before != "wrong" or not one.controls:
            continue
        order = one.targets()
        score = one.scores.mean(axis=0)[order] if weighted else np.zeros(len(order))
        if not np.isfinite(score).all():
            continue
        given = np.array([j in one.answers or j not in one.searches for j in order])
        ids.append(one.id)
        gaps.append(np.where(given, np.nan, score.max() - score))
        hits.append([j in one.searches and bool(hit(one.searches[j])) for j in order])
    return ids, Targets(padded(hits, False), padded(gaps, np.nan), weighted)


def padded(rows: Sequence[Sequence[Any] | np.ndarray], fill: Any) -> np.ndarray:
    """Stacks rows of different lengths."""
    out = np.full((len(rows), max(map(len, rows), default=1)), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


HITS: dict[str, Callable[[Reached], bool | None]] = {
    ONCE: lambda one: one.best is not None,
    AGAIN: lambda one: one.held,
    ROBUST: lambda one: one.robust is not None,
}


class Ways(NamedTuple):
    """The questions of a run, and the ways of counting what was found that it allows."""

    asked: list[Case]
    names: tuple[str, ...]
    weighted: bool  # whether the model scores the options that are searched for

    @classmethod
    def of(cls, questions: pa.Table, *, open: bool, robust: bool) -> "Ways":
        """Reads the questions of a run; `robust` where it searched in all variants at once."""
        every = read_asked(questions)
        variants = any(len(one.answers) > 1 for one in every)
        names = (ROBUST,) if robust else (ONCE, AGAIN, ROBUST) if variants else (ONCE,)
        return cls(every, names, not open)

    def targets(self, name: str) -> tuple[list[str], Targets]:
        """Collects what was reached, counted in one of the ways."""
        some = [one.first() for one in self.asked] if name == ONCE else self.asked
        return targets_of(some, HITS[name], weighted=self.weighted)

    def kept(self, name: str, num_layers: int) -> Kept:
        """Compares the layers saved on right and on wrong answers that are kept."""
        rows = []
        for one in self.asked:
            each = one.first() if name == ONCE else one
            if each.own is None or each.before == "mixed":
                continue
            score = np.sort(each.scores.mean(axis=0))
            length = each.own.best if name == ONCE else each.own.robust
            saved = max(0, num_layers - (length or num_layers))
            if len(score) > 1 and np.isfinite(score).all():
                rows.append((saved, each.before == "right", score[-1] - score[-2]))
        saved, right, margin = np.array(rows, float).reshape(-1, 3).T
        return Kept.of(saved, right > 0, margin)


def compare_controls(ways: Ways, num_layers: int, preference: Preference | None) -> dict[str, Any]:
    """Computes the fields of a summary that compare searches with their controls."""
    first = [one.first() for one in ways.asked] if ONCE in ways.names else ways.asked
    wrong = [one for one in first if one.before == "wrong"]
    hits = [one.best is not None for each in wrong for one in each.controls]
    targets = {name: ways.targets(name)[1] for name in ways.names}
    fitted = {name: preference or one.preference() for name, one in targets.items()}
    nets = {name: Net.of(one, fitted[name]) for name, one in targets.items()}
    curves = {name: Excess.of(one) for name, one in targets.items()} if ways.weighted else {}
    kept = {name: ways.kept(name, num_layers) for name in ways.names if name != AGAIN}
    compared = nets[ways.names[0]].n
    again = summarise_again(ways, num_layers) if set(ways.names) - {ONCE} else None
    return {
        "preference": fitted[ways.names[0]] if ways.weighted and compared else None,
        "unscored": sum(bool(one.controls) for one in wrong) - compared,
        # a search in all variants at once makes nothing right of what is right in some
        **({"corrected": again.corrected} if again and ONCE not in ways.names else {}),
        "control": Share.of(np.array(hits, bool)),
        "without_control": sum(not one.controls for one in wrong),
        "nets": nets,
        "curves": curves,
        "kept": kept if ways.weighted else {},
        "again": again,
    }


class AskedAgain(NamedTuple):
    """What the paths that searches found answered in the other variants of their questions.

    Robust is what is right in all variants.
    """

    agreement: Share  # answers of the pretrained model in another variant: as in the first
    held: Share  # best paths of questions wrong in all variants: right in all
    held_control: Share  # best paths of their control searches that give the target in all
    before: Share  # right in all variants before
    corrected: Share  # wrong in all variants before: right in all on one path
    mixed: Share  # right in some variants before: right in all on one path
    shortened: Share  # right in all variants before: also on fewer layers


def summarise_again(ways: Ways, num_layers: int) -> AskedAgain:
    """Summarises what was asked again."""
    groups: dict[str, list[Case]] = {"right": [], "wrong": [], "mixed": []}
    for one in ways.asked:
        groups[one.before].append(one)
    own = {name: [one.searches[one.gold] for one in some] for name, some in groups.items()}
    controls = [other for one in groups["wrong"] for other in one.controls]

    def held(some: Iterable[Reached]) -> Share:
        return Share.of(np.array([one.held for one in some if one.held is not None], bool))

    def robust(some: Iterable[Reached]) -> Share:
        return Share.of(np.array([one.robust is not None for one in some], bool))

    agrees = [other == one.answers[0] for one in ways.asked for other in one.answers[1:]]
    return AskedAgain(
        agreement=Share.of(np.array(agrees, bool)),
        held=held(own["wrong"]),
        held_control=held(controls),
        before=Share(len(groups["right"]), len(ways.asked)),
        corrected=robust(own["wrong"]),
        mixed=robust(own["mixed"]),
        shortened=Share.of(
            np.array([(one.robust or num_layers) < num_layers for one in own["right"]], bool)
        ),
    )


def control_evaluations(questions: pa.Table) -> int:
    """Counts the evaluations of control searches that no other search of a question had made."""
    _, searches = control_searches(questions)
    return int((searches["evaluations"].to_numpy() - searches["shared"].to_numpy()).sum())


def control_searches(questions: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Returns the control searches of all questions, and the question [S] of each.

    Those for the model's own answer are among them.
    """
    lists = questions["controls"].combine_chunks()
    question = np.repeat(np.arange(len(lists)), list_lengths(questions["controls"]))
    return question, pa.Table.from_struct_array(lists.flatten())
