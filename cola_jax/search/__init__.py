"""Searching paths. The package is also the function: `cola_jax.search(evaluate, questions)`."""

import sys
from types import ModuleType
from typing import Any


class SearchPackage(ModuleType):
    """Lets `cola_jax.search` be called without hiding the modules in it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Searches paths for every question; see `cola_jax.search.loop.search`.

        Returns:
          What was found for each question, as Outcomes.
        """
        from cola_jax.search.loop import search

        return search(*arguments, **keywords)


sys.modules[__name__].__class__ = SearchPackage
