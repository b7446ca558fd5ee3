"""The limits of batches, from the times of others."""

from cola_jax.engine.times import FIRST_PATIENCE, LONGEST, PATIENCE, Times, limit


def test_no_batch_is_late_soon_while_nothing_tells_how_long_they_take():
    times = Times()
    assert limit(times.medians(), 64, first=True) == LONGEST
    assert limit(times.medians(), 64, first=False) == LONGEST


def test_limits_grow_with_the_median_and_the_questions():
    times = Times()
    for seconds in (400.0, 500.0, 9000.0):
        times.add(seconds, 64, first=True)
    assert limit(times.medians(), 64, first=True) == 8 * 500
    assert limit(times.medians(), 64, first=False) == 8 * 500  # no later one has ended
    for seconds in (60.0, 80.0, 9000.0):
        times.add(seconds, 20, first=False)
    assert limit(times.medians(), 10, first=False) == 8 * 40
    assert limit(times.medians(), 1, first=False) == PATIENCE


def test_a_first_batch_may_compile_where_others_found_programs():
    times = Times()
    for _ in range(3):
        times.add(1.0, 64, first=True)
    assert limit(times.medians(), 64, first=True) == FIRST_PATIENCE
