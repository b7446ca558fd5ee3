import numpy as np
import pytest

from cola_jax.deploy.verify.verdict import Judged, decide
from cola_jax.runs.estimates import CHOSEN_BY, TRIES, Estimate, sentences_of
from cola_jax.scoring.statistics import ALPHA, Crossed


def changed(n: int, *by_prompt: int) -> Crossed:
    """Change the first questions of n with each prompt: so many gained, or lost if below 0."""
    values = np.zeros((n, len(by_prompt)))
    for k, count in enumerate(by_prompt):
        values[: abs(count), k] = np.sign(count)
    return Crossed.of(values)


BLIND = "half of the random paths with its edits lose no more than the margin"


@pytest.mark.parametrize(
    ("judged", "outcome", "sentence"),
    [
        (
            Judged(changed(200, 20, 20, 20, 20), shorter=False), "better",
            "0-28 is better: +10.0 points (simultaneous 95 % interval +3.7 to +16.3, p 0.007).",
        ),
        (
            Judged(changed(200, 40, 20, 30, 16), shorter=True), "better",
            "0-28 is better: +13.2 points (simultaneous 95 % interval +0.4 to +26.1, p 0.015); the "
            "size depends on the prompt, +8.0 to +20.0 over 4 prompts (interaction p <0.001).",
        ),
        (
            Judged(changed(1000, *[-12] * 8), shorter=True), "worse",
            "0-28 is worse: −1.2 points (simultaneous 95 % interval −2.1 to −0.3, p 0.007); the "
            "loss lies within the margin of 3.0 points.",
        ),
        (
            Judged(changed(400, 2, 2, 2), shorter=True), "as good on fewer layers",
            "0-28 is as good on fewer layers: +0.5 points (simultaneous 95 % interval −0.9 to "
            "+1.9, p 0.460); a loss of 3.0 points is excluded (p 0.003).",
        ),
        (
            Judged(changed(400, 2, 2, 2), shorter=True, blind=BLIND), "nothing shown",
            "Nothing shown for 0-28: +0.5 points (simultaneous 95 % interval −0.9 to +1.9, "
            f"p 0.690); this trial could not have shown a loss: {BLIND}; a difference of 1.8 "
            "points would have been shown four times in five.",
        ),
        (
            Judged(changed(300, 0, 0, 0), shorter=True), "as good on fewer layers",
            "0-28 is as good on fewer layers: +0.0 points (no answer changed); a loss of 3.0 "
            "points is excluded (p <0.001).",
        ),
        (
            Judged(changed(160, 0, -10, -1, -20), shorter=True), "depends on the prompt",
            "The effect of 0-28 depends on the prompt: −4.8 points (simultaneous 95 % interval "
            "−18.7 to +9.0, p 0.403); −12.5 to +0.0 over 4 prompts (interaction p <0.001).",
        ),
        (
            Judged(changed(100, 2), shorter=False), "nothing shown",
            "Nothing shown for 0-28, in this prompt: +2.0 points (simultaneous 95 % interval −0.8 "
            "to +4.8, p 0.158); a difference of 4.0 points would have been shown four times in "
            "five.",
        ),
        (
            Judged(changed(100, 9, 9), shorter=False), "better",
            "0-28 is better, in these 2 prompts: +9.0 points (simultaneous 95 % interval +3.3 to "
            "+14.7, p 0.002).",
        ),
    ],
)  # fmt: skip
def test_decide_says_each_outcome(judged, outcome, sentence):
    (verdict,) = decide([judged], 0.03)
    assert verdict.outcome == outcome
    assert sentences_of(verdict.estimates("0-28", "accuracy")) == [sentence]


def test_all_tests_of_a_trial_share_one_budget():
    effect = changed(100, 6)  # p 0.013
    claims = [Judged(effect, shorter=False)]
    assert [v.outcome for v in decide(claims * 3, 0.03)] == ["better"] * 3
    many = decide(claims * 5, 0.03)
    assert {v.outcome for v in many} == {"nothing shown"}
    assert many[0].p == pytest.approx(5 * effect.p)
    # the size that would have been shown is that of the corrected test
    (sentence,) = sentences_of(many[0].estimates("0-28", "likelihood"))
    assert f"{100 * effect.detectable(alpha=0.01):.1f} hundredths of a nat" in sentence
    # a loss, and from three prompts on dependence on the prompt, are tests too
    shorter = changed(100, 6, 6, 6)
    every = [Judged(shorter, shorter=True), Judged(shorter, shorter=False)]
    assert {verdict.tests for verdict in decide(every, 0.03)} == {5}


def test_intervals_are_those_of_the_budget():
    """An interval that excludes 0 never stands beside `nothing shown`."""
    random = np.random.default_rng(0)
    for _ in range(50):
        values = np.sign(random.normal(0.1, 1, (6, 60, 4)).round())
        verdicts = decide([Judged(Crossed.of(each), shorter=False) for each in values], 0.03)
        for verdict in verdicts:
            change = next(verdict.estimates("0-28", "accuracy"))
            assert change.interval == verdict.effect.interval_at(ALPHA / 12)
            excludes = change.low > 0 or change.high < 0
            assert verdict.outcome in ("better", "worse") or not excludes


def test_a_pilot_gives_figures_without_a_verdict():
    (verdict,) = decide([Judged(changed(200, 20, 20, 20), shorter=True)], 0.03, pilot=True)
    estimates = [*verdict.estimates("0-28", "accuracy")]
    assert not any(each.p_text for each in estimates)
    (sentence,) = sentences_of(estimates)
    assert sentence.startswith("Pilot of 0-28, no verdict: +10.0 points")


def test_earlier_tries_count_in_the_budget_and_are_named():
    effect = changed(100, 6)  # p 0.013
    first, fourth = (Judged(effect, shorter=False, tries=tries) for tries in (0, 3))
    assert decide([first], 0.03)[0].outcome == "better"
    (verdict,) = decide([fourth], 0.03)
    assert verdict.outcome == "nothing shown"
    assert verdict.p == pytest.approx(4 * effect.p)
    origin = [
        Estimate(CHOSEN_BY, "0-28", 0, "count", note="100 questions of runs/scan"),
        Estimate(TRIES, "0-28", 3, "count", note="nothing shown on 2026-11-02"),
    ]
    (sentence,) = sentences_of([*verdict.estimates("0-28", "accuracy"), *origin])
    assert "; chosen on: 100 questions of runs/scan; 3 earlier tries: nothing shown" in sentence
