"""Executing paths: `scan` defines what running a path means, `engine` does it fast."""

from cola_jax.execute.engine import Engine, run_paths
from cola_jax.execute.generate import Generated, generate
from cola_jax.execute.scan import run_one_by_one, run_path
from cola_jax.execute.stop import Stop

__all__ = [
    "Engine",
    "Generated",
    "Stop",
    "generate",
    "run_one_by_one",
    "run_path",
    "run_paths",
]
