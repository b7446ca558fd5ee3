"""What searches reach beyond their control searches, in a run and between two runs.

Counted once, and in all variants of a question where other variants were asked.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.errors import InputError, shown
from cola_jax.runs.run import Run
from cola_jax.runs.stored import asked_by_run, check_comparable
from cola_jax.scoring.preference import Kept, Net, Preference, Targets
from cola_jax.scoring.statistics import Difference, Share, holm, number_or_none

COLUMNS = ["question", "options", "gold", "baseline", "baseline_answer", "baseline_scores"]
COLUMNS += ["variant_answers", "best", "robust", "again", "controls"]
ONCE, AGAIN, ROBUST = "once", "asked again", "robust"
MAX_RUNS = 6  # as many as have a colour of their own


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
        scores = np.full((len(answers), options), np.nan)  # of a user's metric
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


class Ways(NamedTuple):
    """The questions of a run, and the ways in which their results can be counted."""

    cases: list[Case]
    names: tuple[str, ...]  # of ONCE, AGAIN and ROBUST
    weighted: bool  # whether the model scores the options that are searched for

    @classmethod
    def of(cls, run: Run, questions: pa.Table | None = None) -> "Ways":
        """Read the searches of a run, from its questions if they are at hand."""
        manifest = run.manifest()
        table = run.questions(COLUMNS) if questions is None else questions
        rows = table.filter(pc.field("baseline").is_valid()).select(COLUMNS)
        cases = [Case.of(row) for batch in rows.to_batches() for row in batch.to_pylist()]
        variants = any(len(case.answers) > 1 for case in cases)
        names = (ONCE, AGAIN, ROBUST) if variants else (ONCE,)
        if manifest["settings"].get("robust"):  # which searches in all variants at once
            names = (ROBUST,)
        return cls(cases, names, not scorer_flag(manifest, "open"))

    def asked(self, name: str) -> list[Case]:
        """Return the questions with the variants that one way of counting regards."""
        return [case.first() for case in self.cases] if name == ONCE else self.cases

    def targets(self, name: str) -> tuple[list[str], Targets]:
        """Collect the targets of questions that are wrong in all variants and have a control.

        Returns the ids of the questions, and what their searches reached, counted in one of the
        ways. Weighted targets need finite scores; questions without are left out.
        """
        ids, hits, gaps = [], [], []
        for case in self.asked(name):
            order = [case.gold, *(j for j in range(case.scores.shape[1]) if j != case.gold)]
            score = case.scores.mean(axis=0)[order] if self.weighted else np.zeros(len(order))
            if case.before != "wrong" or not case.controls or not np.isfinite(score).all():
                continue
            missing = np.array([j in case.answers or j not in case.searches for j in order])
            ids.append(case.id)
            gaps.append(np.where(missing, np.nan, score.max() - score))
            hits.append([j in case.searches and bool(HITS[name](case.searches[j])) for j in order])
        return ids, Targets(padded(hits, False), padded(gaps, np.nan), self.weighted)

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

    def solved(self, num_layers: int) -> dict[str, tuple[bool, bool]]:
        """Return for each graded question: correct on some path, and on a shorter path."""
        best = {case.id: case.searches[case.gold].best for case in self.cases}
        return {id: (n is not None, n is not None and n < num_layers) for id, n in best.items()}


def scorer_flag(manifest: Mapping[str, Any], name: str) -> bool:
    """Return a flag of the scorer (`open`, `decodes`), False where it was not recorded."""
    return bool((manifest["starts"][-1].get("scorer") or {}).get(name))


def padded(rows: Sequence[Sequence[Any] | np.ndarray], fill: Any) -> np.ndarray:
    """Stack rows of different lengths."""
    out = np.full((len(rows), max(map(len, rows), default=1)), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def compare_controls(ways: Ways, num_layers: int, preference: Preference | None) -> dict[str, Any]:
    """Compute the fields of a summary that compare searches with their controls."""
    wrong = [case for case in ways.asked(ways.names[0]) if case.before == "wrong"]
    hits = [search.best is not None for case in wrong for search in case.controls]
    targets = {name: ways.targets(name)[1] for name in ways.names}
    fitted = {name: preference or reached.preference() for name, reached in targets.items()}
    nets = {name: Net.of(reached, fitted[name]) for name, reached in targets.items()}
    compared = nets[ways.names[0]].n
    again = None if ways.names == (ONCE,) else AskedAgain.of(ways, num_layers)
    kept = [name for name in ways.names if name != AGAIN and ways.weighted]
    fields = {
        "preference": fitted[ways.names[0]] if ways.weighted and compared else None,
        "unscored": sum(bool(case.controls) for case in wrong) - compared,
        "control": share(hits),
        "without_control": sum(not case.controls for case in wrong),
        "nets": nets,
        "kept": {name: ways.kept(name, num_layers) for name in kept},
        "again": again,
    }
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
            corrected=share(search.robust is not None for search in gold["wrong"]),
            mixed=share(search.robust is not None for search in gold["mixed"]),
            shortened=share((s.robust or num_layers) < num_layers for s in gold["right"]),
        )


def share(values: Iterable[bool | None]) -> Share:
    """Count how many values are true, of those that are not None."""
    return Share.of(np.array([value for value in values if value is not None], bool))


class Change(NamedTuple):
    """How much more a run reaches than the first one, paired over the questions of both."""

    after: Difference  # correct on some path
    shortened: Difference  # correct on a path shorter than the model
    nets: dict[str, Net]  # W→C beyond control, by the ways of counting of both runs
    p: dict[str, float]  # of them, corrected for their number and that of the runs compared

    def to_json(self) -> dict[str, Any]:
        """Return the net differences as a tree of numbers."""
        nets = {name: net._asdict() | {"p_holm": self.p[name]} for name, net in self.nets.items()}
        return number_or_none(nets)


def compare_runs(
    runs: Sequence[Run], num_layers: int, preference: Preference | None = None
) -> list[Change]:
    """Compare each run but the first with the first, on the questions that both have done.

    The preference is of another run of the model; by default fitted to each comparison.
    """
    first, *others = map(Ways.of, runs)
    nets = [
        {
            name: net_change(first.targets(name), other.targets(name), preference)
            for name in first.names
            if name in other.names
        }
        for other in others
    ]
    p = iter(holm([math.nan if net.undecided else net.p for each in nets for net in each.values()]))
    reached, changes = first.solved(num_layers), []
    for other, net in zip(others, nets, strict=True):
        results = other.solved(num_layers)
        common = [id for id in reached if id in results]
        pairs = np.array([[reached[id], results[id]] for id in common], bool).reshape(-1, 2, 2)
        after, shortened = (Difference.of(pairs[:, 1, k], pairs[:, 0, k]) for k in (0, 1))
        changes.append(Change(after, shortened, net, {name: next(p) for name in net}))
    return changes


def net_change(
    first: tuple[list[str], Targets],
    other: tuple[list[str], Targets],
    preference: Preference | None = None,
) -> Net:
    """Test how much more a run reaches beyond control than the first one."""
    place = {name: i for i, name in enumerate(first[0])}
    common = [(place[name], i) for i, name in enumerate(other[0]) if name in place]
    before, after = np.array(common, int).reshape(-1, 2).T
    mine, others = first[1].take(before), other[1].take(after)
    width = min(mine.gaps.shape[1], others.gaps.shape[1])  # the rest is of other questions
    hits, gaps = others.hits[:, :width], others.gaps[:, :width] + 0 * mine.gaps[:, :width]
    targets = Targets(hits, gaps, others.weighted)
    return Net.of(targets, preference, before=mine.hits[:, :width])


def check_search(run: Run) -> None:
    """Raise InputError for a run that is not a search."""
    command = run.settings().get("command")
    if command != "search":
        raise InputError(
            f"{run.directory} was made by {shown(command)}, not by a search: give a directory that "
            "`cola search` made."
        )


def check_runs(runs: Sequence[Run]) -> None:
    """Raise InputError unless the runs are comparable searches of one model."""
    if len(runs) > MAX_RUNS:
        raise InputError(f"a report compares at most {MAX_RUNS} runs, not {len(runs)}: give fewer.")
    for run in runs:
        check_search(run)
    every = [run.settings() for run in runs]
    # a run without variants is compared in the paths found once
    variants = [sorted(settings["variants"]) for settings in every if settings.get("variants")]
    robust = [bool(settings.get("robust")) for settings in every]
    for name, values in (("robust", robust), ("variants", variants)):
        others = [value for value in values if value != values[0]]
        if others:
            raise InputError(
                f"the runs differ in --{name}, {values[0]} and {others[0]}: give searches of the "
                "same kind."
            )
    for run in runs[1:]:
        check_comparable(asked_by_run(runs[0]), asked_by_run(run))
