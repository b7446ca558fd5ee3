"""Foreign formats of models, in and out: Hugging Face, GGUF, and files of other projects.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)
