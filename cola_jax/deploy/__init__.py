"""Uses of the paths that a search found, where the correct answer is not known.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)
