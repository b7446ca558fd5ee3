"""What a trial shows of each claim on each task: an outcome, and one sentence that says it."""

import dataclasses
import math
from collections.abc import Sequence

from cola_jax.deploy.settings import Outcome
from cola_jax.scoring.statistics import Crossed, holm

ALPHA = 0.05


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
    unit: str = "points"  # a hundredth of the measure

    def sentence(self, name: str, task: str) -> str:
        """Say the outcome of the claim `name` on `task`."""
        low, high = map(points, self.effect.interval)
        size = f"{points(self.effect.value)} {self.unit}"
        effect = f"{size} ({low} to {high}, {p_value(self.p)})"
        alone = ", for this prompt alone" if self.effect.prompts == 1 else ""
        start = {
            "better": f"{name} is better on {task}",
            "worse": f"{name} is worse on {task}",
            "as good on fewer layers": f"{name} is as good on {task} on fewer layers",
            "depends on the prompt": f"The effect of {name} on {task} depends on the prompt",
            "nothing shown": f"Nothing shown for {name} on {task}",
        }[self.outcome]
        return f"{start}{alone}: {effect}{self._loss()}{self._prompts()}{self._power()}."

    def _loss(self) -> str:
        """Compare a loss with the margin."""
        margin = f"{100 * self.margin:g} {self.unit}"
        if self.outcome == "as good on fewer layers":
            return f"; a loss of {margin} is excluded ({p_value(self.noninferior_p)})"
        if self.outcome == "worse" and self.noninferior_p <= ALPHA:
            return f"; the loss lies within the margin of {margin}"
        return ""

    def _prompts(self) -> str:
        """Say how far prompts differ, if they do."""
        if not self.effect.interaction_p <= ALPHA:
            return ""
        values = [estimate.value for estimate in self.effect.by_prompt]
        size = "" if self.outcome == "depends on the prompt" else "the size depends on the prompt, "
        spread = f"{points(min(values))} to {points(max(values))} over {len(values)} prompts"
        return f"; {size}{spread} (interaction {p_value(self.effect.interaction_p)})"

    def _power(self) -> str:
        """Say what the trial would have shown, if it shows nothing."""
        if self.outcome != "nothing shown":
            return ""
        size = 100 * self.effect.detectable(alpha=ALPHA / self.tests)
        return f"; a difference of {size:.1f} {self.unit} would have been shown four times in five"


def decide(
    effects: Sequence[Crossed], shorter: Sequence[bool], margin: float, unit: str = "points"
) -> list[Verdict]:
    """Decide all claims and tasks of a trial, each an effect and whether its path has fewer layers.

    Corrects by Holm over all of them, and separately the tests of non-inferiority at `margin` (a
    share above 0) over those with fewer layers. Whether an effect depends on the prompt is not
    corrected: it limits what is claimed.
    """
    ps = holm([effect.p for effect in effects])
    noninferior = holm(
        [
            effect.noninferior_p(margin) if fewer else math.nan
            for effect, fewer in zip(effects, shorter, strict=True)
        ]
    )
    return [
        Verdict(outcome_of(effect, p, as_good), effect, p, as_good, margin, len(ps), unit)
        for effect, p, as_good in zip(effects, ps, noninferior, strict=True)
    ]


def outcome_of(effect: Crossed, p: float, noninferior_p: float) -> Outcome:
    """Choose the first outcome that holds, by corrected p-values."""
    if p <= ALPHA:
        return "better" if effect.value > 0 else "worse"
    if noninferior_p <= ALPHA:
        return "as good on fewer layers"
    return "depends on the prompt" if effect.interaction_p <= ALPHA else "nothing shown"


def points(share: float) -> str:
    """Format a difference in hundredths, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Format a p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
