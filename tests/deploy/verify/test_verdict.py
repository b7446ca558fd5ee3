import math

import numpy as np
import pytest

from cola_jax.deploy.verify.verdict import decide
from cola_jax.runs.estimates import sentences_of
from cola_jax.scoring.statistics import Crossed


def changed(n: int, *by_prompt: int) -> Crossed:
    """Change the first questions of n with each prompt: so many gained, or lost if below 0."""
    values = np.zeros((n, len(by_prompt)))
    for k, count in enumerate(by_prompt):
        values[: abs(count), k] = np.sign(count)
    return Crossed.of(values)


@pytest.mark.parametrize(
    ("effect", "shorter", "outcome", "sentence"),
    [
        (
            changed(200, 20, 20, 20, 20), False, "better",
            "0-28 is better: +10.0 points (95 % interval +5.8 to +14.2, p <0.001).",
        ),
        (
            changed(200, 40, 20, 30, 16), True, "better",
            "0-28 is better: +13.2 points (95 % interval +5.4 to +21.1, p 0.005); the size depends "
            "on the prompt, +8.0 to +20.0 over 4 prompts (interaction p <0.001).",
        ),
        (
            changed(400, -6, -6, -6), True, "worse",
            "0-28 is worse: −1.5 points (95 % interval −2.7 to −0.3, p 0.014); the loss lies "
            "within the margin of 3.0 points.",
        ),
        (
            changed(400, 2, 2, 2), True, "as good on fewer layers",
            "0-28 is as good on fewer layers: +0.5 points (95 % interval −0.2 to +1.2, p 0.158); a "
            "loss of 3.0 points is excluded (p <0.001).",
        ),
        (
            changed(160, 0, -10, -1, -20), True, "depends on the prompt",
            "The effect of 0-28 depends on the prompt: −4.8 points (95 % interval −13.7 to +4.1, "
            "p 0.195); −12.5 to +0.0 over 4 prompts (interaction p <0.001).",
        ),
        (
            changed(100, 2), False, "nothing shown",
            "Nothing shown for 0-28, for this prompt alone: +2.0 points (95 % interval −0.8 to "
            "+4.8, p 0.158); a difference of 4.0 points would have been shown four times in five.",
        ),
    ],
)  # fmt: skip
def test_decide_says_each_outcome(effect, shorter, outcome, sentence):
    (verdict,) = decide([effect], [shorter], 0.03)
    assert verdict.outcome == outcome
    assert sentences_of(verdict.estimates("0-28", "accuracy")) == [sentence]


def test_decide_corrects_over_all_claims_and_tasks():
    effect = changed(100, 6)  # p 0.013
    assert [v.outcome for v in decide([effect] * 3, [False] * 3, 0.03)] == ["better"] * 3
    many = decide([effect] * 5, [False] * 5, 0.03)
    assert {v.outcome for v in many} == {"nothing shown"}
    assert many[0].p == pytest.approx(5 * effect.p)
    # the size that would have been shown is that of the corrected test
    (sentence,) = sentences_of(many[0].estimates("0-28", "likelihood"))
    assert f"{100 * effect.detectable(alpha=0.01):.1f} hundredths of a nat" in sentence


def test_decide_corrects_noninferiority_over_shorter_paths_only():
    zeros = changed(130, 0, 0, 0)  # p 0.025 at 3 points
    one, other = decide([zeros, zeros], [True, False], 0.03)
    assert (one.outcome, other.outcome) == ("as good on fewer layers", "nothing shown")
    assert one.noninferior_p == pytest.approx(zeros.noninferior_p(0.03))
    assert math.isnan(other.noninferior_p)
    assert {v.outcome for v in decide([zeros] * 3, [True] * 3, 0.03)} == {"nothing shown"}
