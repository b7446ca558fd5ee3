import math

import numpy as np
import pytest

from cola_jax.scoring.statistics import Difference, Mean, Share, holm


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


def test_mean_interval_is_students():
    assert Mean.of(np.array([1.0, 2.0, 3.0])) == (2, pytest.approx((-0.484, 4.484), abs=1e-3))
    assert math.isnan(Mean.of(np.zeros(0)).value)
    assert math.isnan(Mean.of(np.ones(1)).interval[0])


def test_holm_corrects_for_the_p_values_there_are():
    assert holm([0.04, 0.01, math.nan, 0.03])[:2] == pytest.approx([0.06, 0.03])
    assert holm([0.04, 0.01, math.nan, 0.03])[3] == pytest.approx(0.06)
    assert math.isnan(holm([0.04, math.nan])[1])
    assert holm([0.9, 0.8]) == [1, 1]
