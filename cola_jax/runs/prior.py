"""`Prior`: edits of earlier searches that were right beyond their controls, for new questions."""

import dataclasses
import functools
import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import InputError, check_belongs, count, shorten
from cola_jax.path import edits_fit, identity, parse_edit
from cola_jax.question import digest
from cola_jax.runs.chosen_on import PRIOR_CHOSEN_ON, PRIOR_DIGEST, ChosenOn, question_key
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session, with_period
from cola_jax.storage import AnyPath
from cola_jax.strategies.outcome import ROOT
from cola_jax.strategies.rules import Rules, Settings
from cola_jax.strategies.tree import edits_of

EditTuple = tuple[int, ...]  # kind, first layer, k and amount, and the modifier where it has one
MOST = 16  # edits of a prior
QUESTIONS = ["question", "gold", "baseline", "baseline_answer", "controls"]  # columns that it reads
EVALUATIONS = ["question", "parent", "edit", "verdict", "answer"]


@dataclasses.dataclass(frozen=True)
class Prior:
    """Edits to try first, the best of earlier runs first, and what chose them.

    An edit counts where an earlier search tried it alone, as an edit of the identity path, on a
    question that the model gets wrong and that has control targets: wrong options other than the
    model's own answer. There it gains 1 if its answer is gold, and loses 1/n if that is one of the
    n control targets, which is what it would gain by chance were gold one of them. Each question
    counts an edit once. The sum is its excess, in questions; edits with none are left out.
    """

    edits: tuple[EditTuple, ...]
    excess: tuple[float, ...]  # of each
    chosen_on: ChosenOn

    @classmethod
    def read(
        cls, directories: Sequence[AnyPath], model: str, rules: Rules, num_layers: int
    ) -> "Prior":
        """Weigh the edits that rules allow in runs of the model of this digest.

        Raises InputError for runs that are no searches of this model, and where no edit has an
        excess.
        """
        runs = [Run(directory) for directory in directories]
        names = shorten([str(run.directory) for run in runs])
        for run in runs:
            facts = run.facts()
            if facts.command != "search":
                raise InputError(
                    f"{run.directory} was made by `cola {facts.command}`, but a prior is made of "
                    "searches: give runs of `cola search`."
                )
            theirs = {"model": facts.settings.get("model")}
            action = "make a prior of searches of the same model"
            check_belongs(str(run.directory), theirs, "this command", {"model": model}, action)
        excess = excess_of_edits(runs)
        allowed = set(allowed_edits(rules, num_layers))
        if not excess:
            raise InputError(
                f"{names} has no edit of a question that is done, that the model gets wrong and "
                "that has a control search, beside which a prior weighs edits: give larger "
                "searches, with --control all."
            )
        best = [edit for edit in excess if excess[edit] > 0 and edit in allowed]
        best.sort(key=lambda edit: (-excess[edit], edit))
        if not best:
            raise InputError(
                f"no edit of {names} that the rules allow made wrong answers right more often than "
                "it gave other wrong answers: search without a prior, or with larger earlier runs."
            )
        chosen_on = functools.reduce(operator.or_, (run.chosen_on() for run in runs))
        values = tuple(float(excess[edit]) for edit in best[:MOST])
        return cls(tuple(best[:MOST]), values, chosen_on)

    @property
    def digest(self) -> str:
        """The digest of the edits and of what chose them."""
        return digest([self.edits, self.chosen_on.to_json()])

    def recorded(self) -> dict[str, Any]:
        """Return the settings of a run beside the edits, which its search records."""
        return {PRIOR_DIGEST: self.digest, PRIOR_CHOSEN_ON: self.chosen_on.to_json()}

    def check_apart(self, asked: QuestionSet, names: str) -> None:
        """Raise InputError for questions that chose the edits, whatever their ids."""
        chosen = self.chosen_on.questions
        common = [each.id for each in asked.questions if question_key(each) in chosen]
        if common:
            raise InputError(
                f"{len(common)} of {count(len(asked), 'question')} are among those of {names}, "
                f"from which the prior is made ({shorten(common)}): what it finds there is known "
                "before. Search other questions (another --task-seed, split or file), or leave out "
                "--prior."
            )


def with_prior(
    session: Session, settings: Settings, directories: Sequence[AnyPath]
) -> tuple[Session, Settings]:
    """Return a session and the settings of a search that tries a prior of earlier runs first.

    Raises InputError as `Prior.read`, for questions shared with the runs, and for a strategy
    without a tree.
    """
    if not directories:
        return session, settings
    model = session.model
    rules = with_period(settings.preset, model.config)
    prior = Prior.read(directories, model.digest, rules, model.config.num_layers)
    settings = dataclasses.replace(settings, prior=prior.edits)
    prior.check_apart(session.asked, shorten(list(map(str, directories))))
    recorded = session.settings | prior.recorded()
    return dataclasses.replace(session, settings=recorded), settings


def excess_of_edits(runs: Sequence[Run]) -> dict[EditTuple, Fraction]:
    """Return the excess of every edit that searches tried on wrong questions; see `Prior`."""
    counted: set[tuple[str, EditTuple]] = set()  # questions by their keys, as seeds share them
    excess: dict[EditTuple, Fraction] = defaultdict(Fraction)
    for run in runs:
        keys = run.question_keys()
        targets = targets_of(run)
        for question, edit, answer in tried_edits(run):
            if question not in targets or (keys[question], edit) in counted:
                continue
            counted.add((keys[question], edit))
            gold, controls = targets[question]
            if answer == gold:
                excess[edit] += 1
            elif answer in controls:
                excess[edit] -= Fraction(1, len(controls))
            else:
                excess[edit] += 0
    return dict(excess)


def targets_of(run: Run) -> dict[str, tuple[int, list[int]]]:
    """Read gold and the control targets of the questions that the model gets wrong."""
    targets = {}
    for row in run.questions(QUESTIONS).to_pylist():
        own = row["baseline_answer"]
        controls = [each["target"] for each in row["controls"] or () if each["target"] != own]
        if row["baseline"] is False and controls:
            targets[row["question"]] = row["gold"], controls
    return targets


def tried_edits(run: Run) -> Iterator[tuple[str, EditTuple, int]]:
    """Yield a question, an edit of the identity path and the answer, of all graded evaluations."""
    for table in run.tables("evaluations", EVALUATIONS):
        for row in table.to_pylist():
            if row["parent"] == ROOT and row["edit"] and row["verdict"] is not None:
                yield row["question"], without_zero_mark(parse_edit(row["edit"])), row["answer"]


def allowed_edits(rules: Rules, num_layers: int) -> list[EditTuple]:
    """List the edits of the identity path that rules allow."""
    table = edits_of(rules, num_layers)
    fits = edits_fit(identity(num_layers), table, *rules.lengths(num_layers))
    columns = (column[fits].tolist() for column in table)
    return list(map(without_zero_mark, zip(*columns, strict=True)))


def without_zero_mark(edit: Sequence[int]) -> EditTuple:
    """Return an edit as runs record it: of whole layers without a modifier."""
    return tuple(edit if edit[-1] else edit[:-1])
