"""Timing programs against each other: in turns, as ratios, so that a noisy machine hurts all."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do some work; `work` is how much of it a call does."""

    name: str
    run: Callable[[], Any]
    work: float = 1.0


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds for a unit of work in each round."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def over(self, other: "Timing") -> dict[str, float]:
        """Returns how many times as long this takes: the median of the rounds, and their range."""
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def take_turns(contenders: Sequence[Contender], rounds: int) -> dict[str, Timing]:
    """Runs every contender once to warm up, then all of them in each round."""
    for contender in contenders:
        jax.block_until_ready(contender.run())
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            begun = time.perf_counter()
            jax.block_until_ready(contender.run())
            seconds[contender.name].append((time.perf_counter() - begun) / contender.work)
    return {name: Timing(name, values) for name, values in seconds.items()}


def matmul(dtype: str, size: int = 2048, times: int = 8) -> Contender:
    """Multiplies square matrices, which nothing does faster; its work is operations."""
    a = jnp.full((size, size), 1 / size, dtype)
    # products in a row, so that an accelerator's dispatch does not count
    run = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a, a))
    return Contender(f"matmul {size}", lambda: run(a), 2.0 * size**3 * times)
