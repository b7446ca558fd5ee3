"""`Buffers`: device buffers that are used again by later batches, while all fit a budget."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

KEPT = 0.75  # of the budget that buffers in use and spare ones may take together

Shape = tuple[int, ...]


class Buffers:
    """The buffers of a worker; its lock is held by who calls."""

    def __init__(self, budget: int):
        self.budget = budget
        self.spare: dict[tuple[Shape, str], list[jax.Array]] = {}
        self.taken = 0  # bytes of buffers in use

    def take(self, shape: Shape, dtype: Any, make: Callable[[], jax.Array]) -> jax.Array:
        """Take a spare buffer, or make one; others are freed first where not all would fit."""
        size = math.prod(shape) * jnp.dtype(dtype).itemsize
        same = self.spare.get((shape, str(dtype)))
        if same:
            buffer = same.pop()
        else:
            spare = sum(each.nbytes for buffers in self.spare.values() for each in buffers)
            if self.taken + spare + size > KEPT * self.budget:
                self.spare.clear()
            buffer = make()
        self.taken += size
        return buffer

    def give_back(self, buffers: tuple[jax.Array, ...]) -> None:
        """Keep buffers for later batches."""
        for buffer in buffers:
            self.spare.setdefault((buffer.shape, str(buffer.dtype)), []).append(buffer)
            self.taken -= buffer.nbytes

    def rows_of_spare(self, shape: Shape, dtype: Any) -> int:
        """Return the rows of the smallest spare buffer with at least those of a shape, or these.

        So a batch that needs few slots runs the programs that were compiled for more.
        """
        rows = [
            other[0]
            for (other, name), buffers in self.spare.items()
            if buffers and name == str(dtype) and other[1:] == shape[1:] and other[0] >= shape[0]
        ]
        return min(rows, default=shape[0])
