"""Tasks: questions from the Hub, a file, memory or a generator, and how they are asked."""

from cola_jax.lazy import attach

__getattr__, __dir__ = attach(__name__, __file__)
