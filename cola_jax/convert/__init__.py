"""Converts Hugging Face models and GGUF files into checkpoints; the package itself is callable.

`cola_jax.convert(source, destination)` calls `cola_jax.convert.conversion.convert`.
"""

import sys
from types import ModuleType
from typing import Any

from cola_jax.convert.conversion import convert

__all__ = ["convert"]


class Package(ModuleType):
    """A package that can be called, and whose modules can still be imported."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Calls `convert`."""
        return convert(*arguments, **options)


sys.modules[__name__].__class__ = Package
