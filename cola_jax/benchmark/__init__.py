"""`cola benchmark`: what the engine does on a machine, beside other ways to run the same paths."""

from cola_jax.benchmark.benchmark import benchmark
from cola_jax.benchmark.shapes import SHAPES

__all__ = ["SHAPES", "benchmark"]
