"""The verdict of a trial on each claim and task: one of five outcomes, and its tests."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from cola_jax.deploy.settings import Measure, Outcome
from cola_jax.deploy.verify.power import Components
from cola_jax.runs.estimates import (
    APART,
    CHANGE,
    DETECTABLE,
    LIKELIHOOD,
    LOSS,
    QUESTION_SD,
    RESIDUAL_SD,
    Estimate,
)
from cola_jax.runs.prompt_results import by_prompt
from cola_jax.scoring.statistics import ALPHA, Crossed, holm

CHANGES = {"accuracy": CHANGE, "likelihood": LIKELIHOOD}  # by the primary measure
UNITS = {"accuracy": "points", "likelihood": "nats/100 more"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of one claim on one task; p-values are Holm-corrected over the trial's `tests`.

    `noninferior_p` is NaN for a path that has no fewer layers than the model; `margin` is a share.
    """

    outcome: Outcome
    effect: Crossed
    p: float
    noninferior_p: float
    margin: float
    tests: int

    def estimates(self, group: str, measure: Measure) -> Iterator[Estimate]:
        """Yield the effect with its outcome, and what the trial could have shown."""
        effect = self.effect
        unit = UNITS[measure]
        apart = APART[unit]
        yield Estimate.of(
            CHANGES[measure], effect, unit, group=group, corrected=self.p, note=self.outcome
        )
        yield from by_prompt(group, effect, unit)
        if effect.prompts > 1:
            components = Components.of(effect)
            yield Estimate(QUESTION_SD, group, components.question_sd, apart)
            yield Estimate(RESIDUAL_SD, group, components.residual_sd, apart)
        if not math.isnan(self.noninferior_p):
            p = effect.noninferior_p(self.margin)
            corrected = self.noninferior_p
            yield Estimate(LOSS, group, self.margin, apart, p=p, corrected=corrected)
        least = effect.detectable(alpha=ALPHA / self.tests)
        yield Estimate(DETECTABLE, group, least, apart)


def decide(effects: Sequence[Crossed], shorter: Sequence[bool], margin: float) -> list[Verdict]:
    """Decide all claims and tasks of a trial, each an effect and whether its path has fewer layers.

    Corrects by Holm over all of them, and separately the tests of non-inferiority at `margin` (a
    share above 0) over those with fewer layers. Whether an effect depends on the prompt is not
    corrected: it limits the claim.
    """
    ps = holm([effect.p for effect in effects])
    noninferior = holm(
        [
            effect.noninferior_p(margin) if fewer else math.nan
            for effect, fewer in zip(effects, shorter, strict=True)
        ]
    )
    return [
        Verdict(outcome_of(effect, p, as_good), effect, p, as_good, margin, len(ps))
        for effect, p, as_good in zip(effects, ps, noninferior, strict=True)
    ]


def outcome_of(effect: Crossed, p: float, noninferior_p: float) -> Outcome:
    """Choose the first outcome that holds, by corrected p-values."""
    if p <= ALPHA:
        return "better" if effect.value > 0 else "worse"
    if noninferior_p <= ALPHA:
        return "as good on fewer layers"
    return "depends on the prompt" if effect.interaction_p <= ALPHA else "nothing shown"
