"""Searches that do not fit in memory are refused, with the largest value that does."""

import dataclasses
import re
from typing import Any

import pytest

from cola_jax.strategies.memory import check_memory
from cola_jax.strategies.rules import PRESETS, Settings

GB = 10**9


def settings(preset: str = "best", **changes: Any) -> Settings:
    rules = {name: value for name, value in changes.items() if name == "max_length"}
    rest = {name: value for name, value in changes.items() if name not in rules}
    made = dataclasses.replace(PRESETS[preset], **rules)
    return Settings(made, **({"simulations": 100, "leaves": 16, "seed": 0} | rest))


@pytest.mark.parametrize(
    ("preset", "name", "value", "others"),
    [
        ("best", "max_length", 1e5, {}),
        ("random", "max_length", 1e7, {}),
        ("best", "simulations", 10**9, {}),
        ("beam", "leaves", 10_000, {"max_length": 100.0}),
    ],
)
def test_what_does_not_fit_is_refused_with_the_largest_that_does(
    preset: str, name: str, value: float, others: dict[str, float]
) -> None:
    flag = "rules.max-length" if name == "max_length" else name
    with pytest.raises(ValueError, match=f"--{flag} .* give at most") as error:
        check_memory(settings(preset, **others, **{name: value}), 30, 32, GB)
    found = re.search(r"at most ([\d.,]+),", str(error.value))
    assert found is not None
    largest = type(value)(found[1].replace(",", ""))
    assert 0 < largest < value
    check_memory(settings(preset, **others, **{name: largest}), 30, 32, GB)
    with pytest.raises(ValueError, match="give at most"):
        check_memory(settings(preset, **others, **{name: type(value)(largest * 1.05)}), 30, 32, GB)


def test_trees_that_round_up_a_batch_count() -> None:
    long = settings("best", max_length=1000.0)  # eight edits at each of 5000 positions
    with pytest.raises(ValueError, match=r"8 searches together would take 19\.2GB"):
        check_memory(long, 5, 2, 6 * GB)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_on_a_laptop(preset: str) -> None:
    check_memory(settings(preset, simulations=500), 80, 64, 4 * GB)
