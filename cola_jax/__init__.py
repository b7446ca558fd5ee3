"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop. Names are
listed in `__init__.pyi` and imported when they are first used.
"""

import importlib

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# these packages can be called; the functions of the stub would hide the modules in them
convert, search = (importlib.import_module(f"cola_jax.{name}") for name in ("convert", "search"))
