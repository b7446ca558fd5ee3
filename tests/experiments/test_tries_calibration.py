"""Trying claims again: what the simulation calls a wrong verdict."""

import numpy as np
import pytest

from experiments import tries_calibration
from experiments.drawn_trials import DrawnTrials
from experiments.tries_calibration import TRUTHS, dropped, grown, row, some_wrong, take

NO_EFFECT = TRUTHS[0]


def effects(*means: float) -> DrawnTrials:
    """Make a trial of 200 questions in 8 prompts, a claim for each mean."""
    value = np.array([means])
    squares = (np.full_like(value, size) for size in (0.15, 0.2, 0.12))
    return DrawnTrials(value, *squares, (200, 8))


def test_a_verdict_of_the_second_trial_is_wrong_where_tries_are_not_counted():
    first = effects(0.035, *[0.0] * 5)
    alone = effects(0.035)
    assert not NO_EFFECT.now(first, 0).any()
    assert NO_EFFECT.now(alone, 0).all()
    assert not some_wrong([first, alone], NO_EFFECT, same=True).any()
    assert some_wrong([alone], NO_EFFECT, same=True).all()


def test_take_keeps_the_chosen_claims():
    trials = take(effects(0.1, 0.2, 0.3), np.array([[2, 0]]))
    assert trials.value.tolist() == [[0.3, 0.1]]
    assert trials.residual.shape == (1, 2)


@pytest.mark.parametrize("make", [grown, dropped])
def test_a_row_has_the_shares_of_wrong_verdicts(make, monkeypatch):
    monkeypatch.setattr(tries_calibration, "CHUNK", 10)
    cells = row("a", make, NO_EFFECT, 0.05, 20)
    assert cells[:3] == ["a", NO_EFFECT.name, "5"]
    shares = [float(cell) for cell in cells[3:]]
    assert len(shares) == len(tries_calibration.HEAD) - 3
    before, now, refused, counted = shares[:4]
    assert refused <= counted <= now <= before <= 100
