"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop. Names are
listed in `__init__.pyi` and imported when they are first used.
"""

from cola_jax.lazy import attach

load_name, __dir__ = attach(__name__, __file__)


def __getattr__(name: str) -> object:
    """Import a name that is first used, and find the version, which takes as long as the rest."""
    if name == "__version__":
        from importlib.metadata import version

        return version("cola-jax")
    return load_name(name)
