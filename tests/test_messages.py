"""What messages take from errors, and the hints that they give."""

import pytest

from cola_jax.messages import count, did_you_mean, first_line, nearest


def test_first_line_has_no_stop_and_is_never_empty():
    assert first_line(ValueError("it failed.\nRequest ID: 1")) == "it failed"
    assert first_line(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("serch", "search"),
        ("--MAX_SKP", "max-skip"),
        ("max", "max-skip"),  # the shortest that begins so
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest(name, near):
    assert nearest(name, ["search", "max-skip-block", "max-skip"]) == near
    assert did_you_mean(name, ["search", "max-skip"]) == (
        f" (did you mean {near}?)" if near else ""
    )


def test_count():
    assert [count(n, "model") for n in (0, 1, 2000)] == ["0 models", "1 model", "2,000 models"]
