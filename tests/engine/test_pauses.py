"""Pauses of machines that fail."""

from cola_jax.engine.pauses import LONGEST, Pauses


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_with_failures_and_end_with_a_success():
    clock = Clock()
    pauses = Pauses(clock)
    lengths = []
    for _ in range(11):
        pauses.fail("a")
        pauses.fail("a")  # of the same cause
        lengths.append(pauses.remaining("a"))
        clock.now += lengths[-1]
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST, LONGEST]
    assert pauses.failures("a") == 11
    assert not pauses.remaining("b")
    pauses.succeed("a")
    assert (pauses.remaining("a"), pauses.failures("a")) == (0, 0)
