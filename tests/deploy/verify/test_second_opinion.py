"""A second implementation of verdicts, written from report/statistics.md, agrees with `decide`."""

import collections

import numpy as np
import pytest
from scipy import stats

from cola_jax.deploy.verify.verdict import Judged, decide
from cola_jax.scoring.statistics import Crossed

MARGIN = 0.03


def figures(d, verdicts, shorter, blind, tries):
    """Return the error, its degrees of freedom, and the p-values of effect, loss, dependence."""
    n, k = d.shape
    rows, columns = d.mean(1, keepdims=True) - d.mean(), d.mean(0) - d.mean()
    q = k * (rows**2).sum() / (n - 1)
    least = np.sqrt(2) / (n + 2) if verdicts else 0
    se, df, depends = np.sqrt(q / (n * k)), n - 1, np.nan
    if k >= 3:
        r = ((d - d.mean() - rows - columns) ** 2).sum() / (n - 1) / (k - 1)
        a = n * (columns**2).sum() / (k - 1)
        depends = stats.f.sf(a / r, k - 1, (n - 1) * (k - 1)) if r else 1.0
        v = q + max(a, r) - r
        se = np.sqrt(v / (n * k))
        spread = q**2 / (n - 1) + max(a, r) ** 2 / (k - 1) + r**2 / (n - 1) / (k - 1)
        df = stats.hmean([v**2 / spread, k - 1]) if v else n - 1
    if se < least:
        se, df = least, n - 1
    loss = np.nan
    if shorter:
        loss = stats.t.sf((d.mean() + MARGIN) / np.hypot(se, least), df)
        if verdicts:
            lost = np.ceil(max(0, -n * d.mean()) - 1e-9)
            loss = max(loss, stats.binom.cdf(lost, n, MARGIN))
        loss = 1.0 if blind else loss
    ps = np.array([2 * stats.t.sf(abs(d.mean()) / se, df), loss, depends])
    return se, df, np.minimum(1, ps * (1 + tries))


def opinion(trial):
    """Return the outcome, corrected p-values and interval of each claim."""
    every = [figures(*claim) for claim in trial]
    ps = np.concatenate([p for _, _, p in every])
    made = np.flatnonzero(~np.isnan(ps))
    order = made[np.argsort(ps[made], kind="stable")]
    steps = ps[order] * np.arange(len(order), 0, -1)
    ps[order] = np.minimum(1, np.maximum.accumulate(steps))
    for claim, (se, df, _), p in zip(trial, every, ps.reshape(-1, 3), strict=True):
        d, verdicts, _, _, tries = claim
        reach = se * stats.t.ppf(1 - 0.05 / len(made) / (1 + tries) / 2, df)
        interval = np.array([d.mean() - reach, d.mean() + reach])
        outcome = "better" if d.mean() > 0 else "worse"
        if not p[0] <= 0.05:
            outcome = "depends on the prompt" if p[2] <= 0.05 else "nothing shown"
            outcome = "as good on fewer layers" if p[1] <= 0.05 else outcome
        yield outcome, p, np.clip(interval, -1, 1) if verdicts else interval


def draw(random):
    """Draw claims: differences, of verdicts or not, shorter, blind, and earlier tries."""
    n, k = int(random.integers(20, 400)), int(random.integers(1, 9))
    verdicts = bool(random.integers(2))
    for _ in range(random.integers(1, 11)):
        d = random.normal(random.choice([0, 0, 0.2, -0.1]), 0.3, (n, 1))
        d = d + random.normal(0, random.choice([0, 0.15]), k) + random.normal(0, 0.3, (n, k))
        d = np.sign(d) * (abs(d) > random.choice([0.8, 1.5])) if verdicts else d / 10
        yield (
            d,
            verdicts,
            bool(random.integers(2)),
            random.random() < 0.3,
            float(random.choice([0, 1, 2.5], p=(0.8, 0.1, 0.1))),
        )


def test_an_independent_implementation_agrees_on_random_trials():
    random, outcomes = np.random.default_rng(0), collections.Counter()
    for _ in range(200):
        trial = list(draw(random))
        judged = [
            Judged(Crossed.of(d), shorter, "blind" if blind else "", tries)
            for d, _, shorter, blind, tries in trial
        ]
        for verdict, (outcome, p, interval) in zip(
            decide(judged, MARGIN), opinion(trial), strict=True
        ):
            outcomes[outcome] += 1
            assert verdict.outcome == outcome
            ps = verdict.p, verdict.noninferior_p, verdict.interaction_p
            assert ps == pytest.approx(p, rel=1e-9, abs=1e-12, nan_ok=True)
            assert verdict.effect.interval_at(verdict.alpha) == pytest.approx(interval, abs=1e-9)
    assert min(outcomes.values()) >= 10, outcomes
    assert len(outcomes) == 5
