"""Converting models. The package is also the function: `cola_jax.convert(source, destination)`."""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_jax.convert.conversion import convert

__all__ = ["convert"]


class ConvertPackage(ModuleType):
    """Lets `cola_jax.convert` be called without hiding the modules in it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """Converts a model; see `cola_jax.convert.conversion.convert`.

        Returns:
          The metadata written to `cola.json`.
        """
        return self.convert(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        """Imports `convert` when it is first used."""
        if name != "convert":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from cola_jax.convert.conversion import convert

        return convert


sys.modules[__name__].__class__ = ConvertPackage
