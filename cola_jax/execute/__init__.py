"""Executing paths: `scan` is the reference that defines what a path means."""

from cola_jax.execute.scan import run_path, run_paths

__all__ = ["run_path", "run_paths"]
