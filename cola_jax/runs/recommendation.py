"""`Recommendation`: whether to use what a command chose, by questions that chose nothing.

The best of many paths on the questions that chose it is often no better than the model on others.
So the model as it is, the identity path, is recommended unless a candidate is shown to be better
on held-out questions. All candidates that are measured there share one error budget, with whatever
was measured on the same questions before.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cola_jax.question import Question, digest, distinct
from cola_jax.runs.chosen_on import question_key
from cola_jax.runs.estimates import (
    CANDIDATES,
    CHANGE,
    CHOSEN,
    LIMIT,
    MODEL,
    RECOMMENDED,
    TRIES,
    Estimate,
    sentences_of,
)
from cola_jax.runs.prompt_results import by_prompt, correct_estimate, difference_of
from cola_jax.runs.tries import Try, earlier_on, record
from cola_jax.scoring.statistics import ALPHA

if TYPE_CHECKING:
    from cola_jax.runs.session import Session


@dataclasses.dataclass(frozen=True, eq=False)
class Recommendation:
    """Candidates and the model, by right answers [n, K] to n held-out questions in K prompts."""

    right: Mapping[str, np.ndarray]  # by group
    plain: np.ndarray  # of the model
    found: str  # group that was chosen on other questions, which may be MODEL
    earlier: Sequence[Try] = ()  # results on some of the same questions
    limit: str = ""  # of what was searched, where that leaves the model out

    @property
    def candidates(self) -> list[str]:
        """The groups that are compared with the model."""
        return [group for group in self.right if group != MODEL]

    @property
    def tests(self) -> int:
        """The number of tests that share the error budget.

        An earlier result counts for as many candidates as it had, and at least as many as there are
        here: to leave out those that were looked at before must not make p-values smaller.
        """
        here = len(self.candidates)
        # of a trial, each claim is a result of its own
        looked = [each.tests if each.event == "measured" else 1 for each in self.earlier]
        return here + sum(max(here, tests) for tests in looked)

    @functools.cached_property
    def changes(self) -> dict[str, Estimate]:
        """The differences of candidates from the model, with simultaneous intervals."""
        return {group: self.change(group) for group in self.candidates}

    def change(self, group: str) -> Estimate:
        """Return the difference of a candidate; without an interval where no answer changed."""
        effect = difference_of(self.right[group], self.plain)
        low, high = effect.interval_at(ALPHA / self.tests)
        if not (self.right[group] != self.plain).any():
            low, high = math.nan, math.nan
        corrected = min(1.0, effect.p * self.tests)
        return Estimate.of(CHANGE, effect, group=group, low=low, high=high, corrected=corrected)

    @functools.cached_property
    def recommended(self) -> str:
        """The group to use: of the candidates that are better the surest, or else the model.

        Where the model is left out, that is the one that was chosen on other questions.
        """
        better = [each for each in self.changes.values() if each.is_shown and each.value > 0]
        if better:
            return max(better, key=lambda each: each.low).group
        return self.found if self.limit else MODEL

    def of_group(self, group: str) -> list[Estimate]:
        """Return the accuracy of a candidate or of the model, and its difference from the model."""
        note = CHOSEN if group == self.found else ""
        if group == MODEL:
            return [correct_estimate(self.plain, group, note)]
        answers = self.right[group]
        each = by_prompt(group, difference_of(answers, self.plain))
        return [correct_estimate(answers, group, note), self.changes[group], *each]

    def estimates(self) -> list[Estimate]:
        """Return what is recommended, and what the intervals are corrected for."""
        estimates = [Estimate(RECOMMENDED, note=self.recommended)]
        if self.limit:
            estimates.append(Estimate(LIMIT, note=self.limit))
        estimates.append(Estimate.count(CANDIDATES, len(self.candidates)))
        if self.earlier:
            listed = [f"{each.date[:10]} {each.claim}: {each.outcome}" for each in self.earlier]
            note = "; ".join(listed)
            estimates.append(Estimate.count(TRIES, len(self.earlier), note=note))
        return estimates

    @property
    def sentence(self) -> str:
        """What is recommended, and why."""
        groups = [each for group in (MODEL, *self.candidates) for each in self.of_group(group)]
        (sentence,) = sentences_of([*groups, *self.estimates()])
        return sentence


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is measured on held-out questions, and how: a line in the ledger of tries."""

    model: str  # digest
    source: str  # name of the model
    task: str
    protocol: str  # digest of all that decides the result
    questions: tuple[str, ...]  # keys
    prompts: int

    @classmethod
    def of(
        cls,
        session: "Session",
        prompts: Sequence["Session"],
        held_out: Sequence[Question],
        *by: Any,
    ) -> "Measurement":
        """Describe a measurement in the prompts of sessions; `by` are the settings of a command."""
        settings = [each.settings for each in (session, *prompts)]
        keys = [question_key(held_out[place]) for place in distinct(held_out)]
        return cls(
            model=session.model.digest,
            source=str(session.model.identity.name),
            task=str(session.environment.get("task", "")),
            protocol=digest(session.model.digest, settings, keys, *by),
            questions=tuple(keys),
            prompts=len(prompts),
        )

    def earlier(self) -> list[Try]:
        """Return the results on some of these questions that are older than this measurement.

        Of another measurement that is the one of what was found there.
        """
        tries = earlier_on(self.model, self.questions, self.protocol)
        found: dict[tuple[str, ...], Try] = {}
        for each in tries:
            claim = () if each.event == "measured" else (each.claim, each.task)
            if each.outcome:
                found.setdefault((each.protocol, *claim), each)
        return [*found.values()]

    def record(
        self, claim: str, recommendation: Recommendation, beside: Sequence[str] = ()
    ) -> None:
        """Add the measurement of what was found to the ledger, with the outcome.

        `beside` are the other paths that were measured there. They were seen too, so that no trial
        judges the best of them on the same questions as if it alone had been tried.
        """
        outcomes = {claim: ledger_outcome(recommendation)}
        outcomes |= {path: f"measured beside {claim}" for path in beside if path != claim}
        fields = dataclasses.asdict(self) | {"tests": max(1, len(recommendation.candidates))}
        record(
            Try.now("measured", claim=each, outcome=outcome, **fields)
            for each, outcome in outcomes.items()
        )


def ledger_outcome(recommendation: Recommendation) -> str:
    """Name what is recommended, for the ledger, with the difference of what was found."""
    change = recommendation.changes.get(recommendation.found)
    size = "" if change is None else f", found {change.size_text}"
    return f"recommended {recommendation.recommended}{size}"
