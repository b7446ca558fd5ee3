"""Searches that do not fit in memory are refused, with the flag to lower."""

import dataclasses
from typing import Any

import pytest

from cola_jax.strategies.memory import check_memory
from cola_jax.strategies.rules import PRESETS, Settings

GB = 10**9


def settings(preset: str = "best", max_length: float = 2.0, **changes: Any) -> Settings:
    rules = dataclasses.replace(PRESETS[preset], max_length=max_length)
    return Settings(rules, **({"simulations": 100, "leaves": 16, "seed": 0} | changes))


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("best", {"max_length": 1e5}, "--rules.max-length 100000 makes 32 searches"),
        ("random", {"max_length": 1e7}, "--rules.max-length 1e.07 makes"),
        ("best", {"simulations": 10**9}, "--simulations 1,000,000,000 makes"),
        ("beam", {"leaves": 10_000, "max_length": 100.0}, "--leaves 10,000 makes"),
    ],
)
def test_check_memory_names_the_flag(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_memory(settings(preset, **changes), 30, 32, GB)


def test_check_memory_counts_trees_that_round_up_a_batch() -> None:
    long = settings("best", max_length=1000.0)  # eight edits at each of 5000 positions
    with pytest.raises(ValueError, match=r"8 searches together take 19\.2GB"):
        check_memory(long, 5, 2, 6 * GB)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_on_a_laptop(preset: str) -> None:
    check_memory(settings(preset, simulations=500), 80, 64, 4 * GB)
