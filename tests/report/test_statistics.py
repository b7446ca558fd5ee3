import itertools
import math

import numpy as np
import pytest

from cola_jax.report import statistics
from cola_jax.report.statistics import Difference, Net, Share, exchange_test


def test_net_does_not_depend_on_what_is_drawn_at_once(monkeypatch):
    gold, controls = np.arange(7) % 2, np.arange(7) / 3
    whole = Net.of(gold, controls)
    monkeypatch.setattr(statistics, "DRAWN", 7 * 4096)
    assert Net.of(gold, controls) == whole


def test_share_interval_is_wilson():
    # (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), p = 2/5, z = 1.95996
    assert Share(2, 5).interval == pytest.approx((0.117621, 0.769276), abs=1e-6)
    assert Share(0, 5).interval == pytest.approx((0, 0.434482), abs=1e-6)
    assert all(math.isnan(x) for x in (Share(0, 0).value, *Share(0, 0).interval))


def test_difference_interval_is_bonett_price():
    # 1/11 ± z sqrt((5/11 - 1/121) / 11)
    assert Difference(2, 1, 9).value == pytest.approx(1 / 9)
    assert Difference(2, 1, 9).interval == pytest.approx((-0.303872, 0.485690), abs=1e-5)
    assert all(math.isnan(x) for x in (Difference(0, 0, 0).value, *Difference(0, 0, 0).interval))


def test_difference_of_is_paired():
    first = np.array([True, True, False, False])
    second = np.array([True, False, True, False])
    assert Difference.of(first, second) == Difference(1, 1, 4)
    assert Difference.of(first, ~first) == Difference(2, 2, 4)


def test_net_compares_with_the_mean_of_a_questions_controls():
    gold, hits, targets = np.array([True, True, False]), np.array([1, 0, 2]), np.array([2, 2, 2])
    net = Net.of_hits(gold, hits, targets)
    assert net.value == pytest.approx((0.5 + 1.0 - 1.0) / 3)
    assert net.interval[0] < net.value < net.interval[1]
    assert net.n == 3
    nothing = Net.of(np.zeros(0), np.zeros(0))
    assert nothing.n == 0
    assert math.isnan(nothing.value)


def test_net_interval_covers_the_truth():
    """Of many runs with a known effect, about 95 % of the intervals hold it."""
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        gold = random.random(60) < 0.6
        controls = random.binomial(2, 0.4, 60) / 2
        low, high = Net.of(gold, controls).interval
        held += low <= 0.2 <= high
    assert 180 <= held <= 199


def test_exchange_test_is_exact():
    """Against all ways to call one of each question's targets gold."""
    gold, hits, targets = [True, True, False, True], [0, 1, 1, 3], [3, 2, 1, 3]
    reached = [
        [g] + [True] * h + [False] * (t - h) for g, h, t in zip(gold, hits, targets, strict=True)
    ]
    ways = list(itertools.product(*reached))
    expected = np.mean([sum(way) >= sum(gold) for way in ways])
    assert exchange_test(*map(np.array, (gold, hits, targets))) == pytest.approx(expected)
    assert exchange_test(np.zeros(2, bool), np.array([1, 1]), np.array([1, 1])) == 1
    both = np.array([True, True])  # a question on which both are reached tells nothing
    assert exchange_test(both, np.array([True, False]), np.ones(2)) == 0.5
    assert math.isnan(exchange_test(np.zeros(0), np.zeros(0), np.zeros(0)))
