"""Executing paths: `scan` defines what running a path means, `engine` does it fast."""

from cola_jax.execute.engine import Engine, run_paths
from cola_jax.execute.scan import run_one_by_one, run_path

__all__ = ["Engine", "run_one_by_one", "run_path", "run_paths"]
