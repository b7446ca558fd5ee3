"""The tests of a report under a true null hypothesis, and the effects that a run could show.

Gold is drawn anew among the targets of each question, so the stored evaluations suffice.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cola_jax.report.tables import NO_VALUE, Row, Table, format_percent, format_points
from cola_jax.scoring.preference import Net, Preference, Targets, weights
from cola_jax.scoring.statistics import Mean, Share

DRAWS = 200  # of golds, for each rate
REJECTED = 0.05
POWER = 0.8  # at the smallest effect that a run could show
LARGEST = 6.0  # log-odds of reached targets beyond which no effect is tried
CAPTION = (
    "Gold is drawn anew among the answers that were searched for, so nothing is left to find. "
    "Effects are in points."
)


class Rate(NamedTuple):
    """The results of a test over many draws of gold."""

    net: Mean  # effect, -1 to 1
    rejected: Share  # of the draws: p of at most 5 %


class Null(NamedTuple):
    """Results under the null hypothesis in one way of counting, and the power of the test."""

    n: int  # questions
    at_random: Rate  # each target as likely
    preferred: Rate  # by the model's preference
    smallest: float  # effect that is shown in four draws of five; NaN where none is
    balance: Mean  # score of gold minus the mean of its controls', at the identity path

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a tree of numbers."""
        rates = {
            name: {"net": rate.net._asdict(), "rejected": rate.rejected.value}
            for name, rate in (("at_random", self.at_random), ("preferred", self.preferred))
        }
        return self._asdict() | rates | {"balance": self.balance._asdict()}


def null(targets: Targets, preference: Preference | None, draws: int = DRAWS) -> Null:
    """Draw gold anew, and repeat the test; the preference is the targets' own by default."""
    random = np.random.default_rng(0)
    weighted = weights(targets.gaps, (preference or targets.preference()).tau)

    def rate(weight: np.ndarray) -> Rate:
        """Test golds drawn by weights [n, J], as a report with this preference does."""
        golds = (draw_golds(weight, random) for _ in range(draws))
        nets = [Net.of(targets.relabel(gold), preference, quick=True) for gold in golds]
        values, rejected = [net.value for net in nets], [net.p <= REJECTED for net in nets]
        return Rate(Mean.of(np.array(values)), Share.of(np.array(rejected)))

    at_random, preferred = rate(weights(targets.gaps, 0.0)), rate(weighted)
    low, high, smallest = 0.0, LARGEST, math.nan
    for _ in range(6):  # bisect the log-odds of reached targets to be gold
        middle = (low + high) / 2
        raised = rate(weighted * np.exp(middle * targets.hits))
        if raised.rejected.value >= POWER:
            high, smallest = middle, raised.net.value  # as a report would print it
        else:
            low = middle
    controls = np.nanmean(targets.gaps[:, 1:], axis=1)
    balance = Mean.of(controls - targets.gaps[:, 0])
    return Null(len(targets.gaps), at_random, preferred, smallest, balance)


def draw_golds(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a target [n] of each question by weights [n, J]."""
    bounds = np.cumsum(weight, axis=1)
    return (random.random((len(weight), 1)) * bounds[:, -1:] > bounds).sum(axis=1)


def null_table(nulls: dict[str, Null], *, weighted: bool) -> Table:
    """Format the results under the null hypothesis, with a column for each way of counting."""
    lines: list[tuple[str, Callable[[Null], str]]] = [
        ("questions", lambda null: f"{null.n:,}"),
        ("gold at random: net effect", lambda null: format_points(null.at_random.net.value)),
        ("p of at most 0.05", lambda null: format_percent(null.at_random.rejected.value)),
        ("gold by preference: net effect", lambda null: format_points(null.preferred.net.value)),
        ("p of at most 0.05", lambda null: format_percent(null.preferred.rejected.value)),
        ("smallest effect shown 4 times in 5", lambda null: format_points(null.smallest)),
    ]
    if weighted:
        lines += [
            ("gold's score minus its controls'", lambda null: f"{null.balance.value:+.2f}"),
            ("95 % interval", lambda null: "{:+.2f} to {:+.2f}".format(*null.balance.interval)),
        ]
    rows = [
        Row(label, tuple(cell(null) if null.n else NO_VALUE for null in nulls.values()))
        for label, cell in lines
    ]
    return Table(rows, columns=("", *nulls))
