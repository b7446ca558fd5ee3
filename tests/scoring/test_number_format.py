"""Numbers as text."""

import math

from cola_jax.scoring import number_format


def test_format_percent_points_and_intervals():
    shares = (0.0, 1 / 3, 0.0625, 1.0, 0.0004, 0.9996, math.nan)
    texts = ["0.0 %", "33.3 %", "6.2 %", "100.0 %", "<0.1 %", ">99.9 %", "–"]
    assert list(map(number_format.format_percent, shares)) == texts
    texts = [number_format.format_points(x) for x in (0.111, -0.25, 0.0, math.nan)]
    assert texts == ["+11.1", "−25.0", "+0.0", "–"]
    assert number_format.format_interval((0.117, 0.7693)) == "11.7 to 76.9"
    assert number_format.format_interval((-0.304, 0.486), signed=True) == "−30.4 to +48.6"
    assert number_format.format_interval((math.nan, math.nan)) == ""
