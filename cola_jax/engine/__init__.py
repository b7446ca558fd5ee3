"""Where batches of questions run: this process's devices, or machines of a Ray cluster.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)
