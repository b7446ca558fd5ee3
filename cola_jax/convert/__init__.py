"""Foreign formats in: Hugging Face directories and Hub ids, and GGUF files."""

from cola_jax.convert.convert import convert

__all__ = ["convert"]
