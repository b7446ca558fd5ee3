"""The verdict of a trial on each claim and task, and the one error budget of all its tests.

report/statistics.md says what is estimated, what is judged, and how the tests share the budget.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from cola_jax.deploy.settings import Measure, Outcome
from cola_jax.deploy.verify.power import Components
from cola_jax.runs.estimates import (
    ABOVE_BREAK_EVEN,
    APART,
    CHANGE,
    DETECTABLE,
    LIKELIHOOD,
    LOSS,
    PROMPT_SD,
    QUESTION_SD,
    RESIDUAL_SD,
    Estimate,
)
from cola_jax.scoring.statistics import ALPHA, DRAWN_PROMPTS, Crossed, holm

# by the primary measure
CHANGES = {"accuracy": CHANGE, "likelihood": LIKELIHOOD, "agreement": ABOVE_BREAK_EVEN}
UNITS = {"accuracy": "points", "likelihood": "nats/100 more", "agreement": "points"}


@dataclasses.dataclass(frozen=True)
class Judged:
    """A claim on a task, as it is judged: its effect, and what the trial could have shown."""

    effect: Crossed
    shorter: bool  # whether the path has fewer layers than the model
    blind: str = ""  # why the trial could not have shown a loss; "" where it could
    tries: float = 0  # earlier trials of the claim, as many as of this size they count as

    @property
    def tests(self) -> int:
        """The tests of the trial that are about it: effect, loss, dependence on the prompt."""
        return number_of_tests(self.effect.prompts, shorter=self.shorter)

    def p_values(self, margin: float) -> tuple[float, ...]:
        """Return the p-values of effect, loss and dependence, NaN for tests that are not made.

        Each counts for all tries of the claim. That of a loss is 1 where none could be shown, which
        is a result of the trial, and so must not change the number of its tests.
        """
        loss = math.nan
        if self.shorter:
            loss = 1.0 if self.blind else self.effect.noninferior_p(margin)
        is_drawn = self.effect.prompts >= DRAWN_PROMPTS
        depends = self.effect.interaction_p if is_drawn else math.nan
        every = self.effect.p, loss, depends
        return tuple(p if math.isnan(p) else min(1.0, p * (1 + self.tries)) for p in every)


def number_of_tests(prompts: int, *, shorter: bool) -> int:
    """Return the number of tests about one claim on one task in a number of prompts."""
    return 1 + shorter + (prompts >= DRAWN_PROMPTS)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of one claim on one task; p-values are corrected over the trial's `tests`.

    `noninferior_p` is NaN for a path that has no fewer layers than the model, `interaction_p` for
    fewer than three prompts; `margin` is a share.
    """

    outcome: Outcome
    judged: Judged
    p: float
    noninferior_p: float
    interaction_p: float
    margin: float
    tests: int

    @property
    def effect(self) -> Crossed:
        """The difference to the identity path."""
        return self.judged.effect

    @property
    def alpha(self) -> float:
        """The share of the error budget that each test of the claim has, and its intervals."""
        return ALPHA / (self.tests * (1 + self.judged.tries))

    def estimates(self, group: str, measure: Measure) -> Iterator[Estimate]:
        """Yield the effect with its outcome, and what the trial could have shown.

        The interval of the effect is simultaneous: with 95 % probability, those of all claims cover
        what they estimate. There is none where no difference was seen at all, and a pilot has no
        p-values.
        """
        effect = self.effect
        unit = UNITS[measure]
        apart = APART[unit]
        low, high = (math.nan, math.nan) if effect.is_zero else effect.interval_at(self.alpha)
        is_pilot = self.outcome == "pilot"
        yield Estimate(
            CHANGES[measure],
            group,
            effect.value,
            unit,
            low,
            high,
            p=math.nan if is_pilot else effect.p,
            corrected=math.nan if is_pilot else self.p,
            n=effect.n,
            note=self.outcome,
        )
        for number, each in enumerate(effect.by_prompt, start=1):
            yield Estimate(f"prompt {number}", group, each.value, unit)
        if effect.prompts > 1:
            components = Components.of(effect)
            yield Estimate(
                PROMPT_SD,
                group,
                components.prompt_sd,
                apart,
                p=math.nan if is_pilot or math.isnan(self.interaction_p) else effect.interaction_p,
                corrected=math.nan if is_pilot else self.interaction_p,
            )
            yield Estimate(QUESTION_SD, group, components.question_sd, apart)
            yield Estimate(RESIDUAL_SD, group, components.residual_sd, apart)
        if self.judged.shorter and not is_pilot:
            blind = self.judged.blind
            p = math.nan if blind else effect.noninferior_p(self.margin)
            corrected = math.nan if blind else self.noninferior_p
            yield Estimate(
                LOSS, group, self.margin, apart, p=p, corrected=corrected, note=self.judged.blind
            )
        yield Estimate(DETECTABLE, group, effect.detectable(alpha=self.alpha), apart)


def decide(every: Sequence[Judged], margin: float, *, pilot: bool = False) -> list[Verdict]:
    """Decide all claims and tasks of a trial.

    All tests share one budget: Holm's method over the effects, the losses of `margin` (a share
    above 0) of paths with fewer layers, and dependence on the prompt. A pilot decides nothing.
    """
    p_values = [p for judged in every for p in judged.p_values(margin)]
    corrected = iter(holm(p_values))
    tests = sum(judged.tests for judged in every)
    verdicts = []
    for judged in every:
        p, loss, depends = next(corrected), next(corrected), next(corrected)
        outcome = "pilot" if pilot else outcome_of(judged.effect, p, loss, depends)
        verdicts.append(Verdict(outcome, judged, p, loss, depends, margin, tests))
    return verdicts


def outcome_of(effect: Crossed, p: float, loss: float, depends: float) -> Outcome:
    """Choose the first outcome that holds, by corrected p-values."""
    if p <= ALPHA:
        return "better" if effect.value > 0 else "worse"
    if loss <= ALPHA:
        return "as good on fewer layers"
    return "depends on the prompt" if depends <= ALPHA else "nothing shown"
