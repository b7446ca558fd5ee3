"""What searches for any answer give where there is nothing to find, and what a run could show.

Gold is drawn anew among the targets of each question, so the stored evaluations are all it takes.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.report.preference import Net, Preference, Targets, weights
from cola_jax.report.table import NO_VALUE, format_percent, format_points
from cola_jax.scoring.statistics import Mean, Share

DRAWS = 200  # of golds, for each rate
REJECTED = 0.05
SHOWN = 0.8  # how often an effect is to be shown
FARTHEST = 6.0  # log-odds of reached targets at which no effect is looked for any more


class Rate(NamedTuple):
    """The figures of golds that are drawn: nothing to find."""

    net: Mean  # effect, -1 to 1
    rejected: Share  # of the draws: p of at most 5 %


class Null(NamedTuple):
    """What nothing gives in one way of counting, and what it takes to show something."""

    n: int  # questions
    at_random: Rate  # each target as likely
    preferred: Rate  # by the model's preference
    smallest: float  # effect that would be shown four times in five; NaN where none would
    balance: Mean  # score of gold minus the mean of its controls', at the identity path

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as a tree of numbers."""
        return (
            self._asdict()
            | {
                name: {"net": one.net._asdict(), "rejected": one.rejected.value}
                for name, one in (("at_random", self.at_random), ("preferred", self.preferred))
            }
            | {"balance": self.balance._asdict()}
        )


def null(targets: Targets, preference: Preference | None, draws: int) -> Null:
    """Draws gold anew, and repeats the test; the preference is the targets' own by default."""
    random = np.random.default_rng(0)
    weighted = weights(targets.gaps, (preference or targets.preference()).tau)
    alike = weights(targets.gaps, 0.0)
    controls = np.nanmean(targets.gaps[:, 1:], axis=1)
    return Null(
        n=len(targets.gaps),
        at_random=rate(targets, alike, preference, draws, random),
        preferred=rate(targets, weighted, preference, draws, random),
        smallest=smallest(targets, weighted, preference, draws, random),
        balance=Mean.of(controls - targets.gaps[:, 0]),
    )


def rate(
    targets: Targets,
    weight: np.ndarray,
    preference: Preference | None,
    draws: int,
    random: np.random.Generator,
) -> Rate:
    """Tests golds drawn by weights [n, J], as a report with this preference does."""
    nets = [
        Net.of(targets.relabel(draw_golds(weight, random)), preference, quick=True)
        for _ in range(draws)
    ]
    return Rate(
        Mean.of(np.array([net.value for net in nets])),
        Share.of(np.array([net.p <= REJECTED for net in nets])),
    )


def draw_golds(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draws a target [n] of each question by weights [n, J]."""
    bounds = np.cumsum(weight, axis=1)
    return (random.random((len(weight), 1)) * bounds[:, -1:] > bounds).sum(axis=1)


def smallest(
    targets: Targets,
    weight: np.ndarray,
    preference: Preference | None,
    draws: int,
    random: np.random.Generator,
) -> float:
    """Finds the effect at which p is at most 5 % in four of five draws.

    The odds of targets that were reached to be gold are raised until it is.
    """
    low, high, effect = 0.0, FARTHEST, math.nan
    for _ in range(6):
        middle = (low + high) / 2
        raised = weight * np.exp(middle * targets.hits)
        found = rate(targets, raised, preference, draws, random)
        if found.rejected.value >= SHOWN:
            high, effect = middle, found.net.value  # as a report would print it
        else:
            low = middle
    return effect


def null_table(nulls: dict[str, Null], *, weighted: bool) -> Table:
    """Formats what nothing gives, with a column for each way of counting."""
    table = Table(
        box=SIMPLE_HEAD,
        caption="Gold is drawn anew among the answers that were searched for: what the tests say "
        "where there is nothing to find. Effects are in points.",
        caption_justify="left",
    )
    table.add_column("")
    for name in nulls:
        table.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[Null], str]]] = [
        ("questions", lambda one: f"{one.n:,}"),
        ("gold at random: net effect", lambda one: format_points(one.at_random.net.value)),
        ("p of at most 0.05", lambda one: format_percent(one.at_random.rejected.value)),
        ("gold by preference: net effect", lambda one: format_points(one.preferred.net.value)),
        ("p of at most 0.05", lambda one: format_percent(one.preferred.rejected.value)),
        ("smallest effect shown 4 times in 5", lambda one: format_points(one.smallest)),
    ]
    if weighted:
        rows += [
            ("gold's score minus its controls'", lambda one: f"{one.balance.value:+.2f}"),
            ("95 % interval", lambda one: "{:+.2f} to {:+.2f}".format(*one.balance.interval)),
        ]
    for label, cell in rows:
        table.add_row(label, *(cell(one) if one.n else NO_VALUE for one in nulls.values()))
    return table
