"""`Effect`: what a way of using the model changes on held-out questions, paired with the model."""

import dataclasses
from typing import Any

import numpy as np

from cola_jax.report.statistics import Difference, Share
from cola_jax.report.table import format_interval, format_percent, format_points


@dataclasses.dataclass(frozen=True)
class Effect:
    """Accuracy before and after on the same questions."""

    before: Share
    after: Share
    difference: Difference

    @classmethod
    def of(cls, after: np.ndarray, before: np.ndarray) -> "Effect":
        """Compares right answers [n] with those of the pretrained model [n]."""
        return cls(Share.of(before), Share.of(after), Difference.of(after, before))

    def cells(self) -> list[str]:
        """Formats accuracy, and the difference in points with its interval."""
        return [
            format_percent(self.after.value),
            format_points(self.difference.value),
            format_interval(self.difference.interval, signed=True),
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns shares and their difference as numbers from 0 to 1."""
        low, high = self.difference.interval
        return {
            "before": self.before.value,
            "after": self.after.value,
            "difference": self.difference.value,
            "interval": [low, high],
            "p": self.difference.p,
            "n": self.before.n,
        }
