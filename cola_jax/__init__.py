"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop. Names are
listed in `__init__.pyi` and imported when they are first used.
"""

import importlib
from importlib.metadata import version

import lazy_loader

__version__ = version("cola-jax")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# These packages can be called: functions of their names would hide the modules in them. An import
# statement does not do, since lazy_loader keeps modules from taking the names that it lists.
convert, search = (importlib.import_module(f"cola_jax.{name}") for name in ("convert", "search"))
