"""`Outcomes`: the results of the searches of several questions."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cola_jax.engine.engine import Engine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import count
from cola_jax.path import LayerPath, format_path
from cola_jax.runs.results import Results
from cola_jax.runs.search_results import search_estimates
from cola_jax.scoring.preference import Preference
from cola_jax.strategies.controls import columns
from cola_jax.strategies.outcome import ROOT, Outcome
from cola_jax.strategies.reached import Case, Reached, Ways, chance_of
from cola_jax.strategies.rules import Settings


class Searched(NamedTuple):
    """A model, the questions that it was asked, and how it was searched."""

    model: ModelHandle
    asked: QuestionSet
    engine: Engine
    recorded: dict[str, Any]  # settings of the other wordings and of a prior, for a run


class Outcomes(list[Outcome]):
    """The outcomes of several questions, in their order, and the settings of their search."""

    def __init__(
        self,
        outcomes: Iterable[Outcome],
        settings: Settings,
        searched: Searched | None = None,
    ):
        """Take outcomes, the settings of their search, and what was searched, where it is here."""
        super().__init__(outcomes)
        self.settings, self.searched = settings, searched

    def __reduce__(self) -> tuple:
        """Leave out the model."""
        return Outcomes, (list(self), self.settings)

    @property
    def evaluations(self) -> int:
        """The number of evaluations, those of control searches included and each once."""
        return sum(map(count_evaluations, self))

    def summary(self, preference: Preference | None = None) -> Results:
        """Compare the searches with their controls, and state in a sentence what they show.

        The preference is that of other searches with the model; by default fitted to these.
        """
        graded = [outcome for outcome in self if outcome.baseline is not None]
        ways = Ways.of(
            list(map(case_of, graded)),
            open=any(outcome.question.open for outcome in self),
        )
        num_layers = len(self[0].paths[ROOT]) if self else 0
        return Results(search_estimates(ways, num_layers, preference))

    def to_pandas(self) -> Any:
        """Make a DataFrame with a row for each question; needs pandas.

        The columns are question (its id), baseline (whether the pretrained model is right), best
        (the shortest correct path, or None), length (its layers), confirmed (right in float32 too),
        controls (searches for wrong answers other than the model's own), controls_reached (those
        of them that reached their answer), control_best (the shortest path that did, or None) and
        evaluations (those of control searches included).
        """
        import pandas

        rows = []
        for outcome in self:
            wrong = case_of(outcome).wrong_targets
            controls = [each for each in outcome.controls if each.target in wrong]
            reached = [control for control in controls if control.best is not None]
            shortest = min(reached, key=shortest_length, default=None)
            rows.append(
                {
                    "question": outcome.question.id,
                    "baseline": outcome.baseline,
                    "best": format_optional(outcome.best),
                    "length": shortest_length(outcome),
                    "confirmed": outcome.confirmed,
                    "controls": len(controls),
                    "controls_reached": len(reached),
                    "control_best": format_optional(shortest and shortest.best),
                    "evaluations": count_evaluations(outcome),
                }
            )
        whole = all(isinstance(row["length"], int | None) for row in rows)
        kind = "Int64" if whole else "Float64"  # of paths of parts
        return pandas.DataFrame(rows).astype({"length": kind} if rows else {})

    def __repr__(self) -> str:
        size = f"{count(len(self), 'question')}, {count(self.evaluations, 'evaluation')}"
        return f"Outcomes of {size}\n{self.summary()!r}"

    def _repr_html_(self) -> str:
        size = f"{count(len(self), 'question')}, {count(self.evaluations, 'evaluation')}"
        return f"<p>Outcomes of {size}</p>{self.summary()._repr_html_()}"


def count_evaluations(outcome: Outcome) -> int:
    """Count the evaluations of a question, each path and wording once.

    Those of its control searches are included.
    """
    searches = (outcome, *outcome.controls)
    paths = len({path for search in searches for path in search.paths})
    if outcome.again is None:
        return paths
    return paths + len(columns(outcome)) * len(outcome.again.plain)


def case_of(outcome: Outcome) -> Case:
    """Return what the searches of a question reached."""
    again, question = outcome.again, outcome.question
    plain, options = int(outcome.verdicts.answer[ROOT]), len(question.options)
    answers = [plain] if again is None else [plain, *again.plain]
    first = outcome.verdicts.take([ROOT])
    if question.open:
        scores = first.answer_logprobs[:, :options] if again is None else again.logprobs
    else:
        scores = first.scores[:, :options] if again is None else again.scores
    if scores.shape[1] != options:  # of a function that returns one score for each path
        scores = np.full((len(answers), options), np.nan)
    chance = math.nan
    if question.open or outcome.verdicts.log_likelihoods[ROOT]:
        chance = chance_of(np.asarray(scores[0], float), outcome.target, open=question.open)
    searches = {each.target: reached_by(each) for each in (outcome, *outcome.controls)}
    return Case(
        question.id,
        outcome.target,
        bool(outcome.baseline),
        answers,
        np.asarray(scores, float),
        searches,
        list(map(len, question.options)),
        outcome.evaluations,
        chance,
    )


def reached_by(outcome: Outcome) -> Reached:
    """Return the result of one search."""
    return Reached(shortest_length(outcome), outcome.held)


def shortest_length(outcome: Outcome) -> Any:
    """Return the length of the shortest correct path in layers, None where no path is right."""
    best = outcome.shortest_correct
    return None if best is None else outcome.lengths[best].item()


def format_optional(path: LayerPath | None) -> str | None:
    """Write a path, if there is one."""
    return None if path is None else format_path(path)
