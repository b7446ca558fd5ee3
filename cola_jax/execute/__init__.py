"""Execution of paths: `reference` defines the meaning of a path, `run_paths` is the fast one.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)
