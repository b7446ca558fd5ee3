"""What messages take from errors."""

from cola_jax.messages import first_line


def test_first_line_has_no_stop_and_is_never_empty():
    assert first_line(ValueError("it failed.\nRequest ID: 1")) == "it failed"
    assert first_line(TimeoutError()) == "TimeoutError"
