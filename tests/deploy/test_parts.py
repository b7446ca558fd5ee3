"""Training and validation parts."""

import pytest

from cola_jax.deploy.parts import training_and_validation


def test_parts_are_apart_and_whole() -> None:
    ids = [f"q{i}" for i in range(30)]
    train, rest = training_and_validation(ids, 1 / 3)
    assert len(rest) == 10
    assert sorted([*train, *rest]) == list(range(30))


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan"), 0.01])
def test_an_empty_part_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="leaves one part empty"):
        training_and_validation(["a", "b", "c"], share)
