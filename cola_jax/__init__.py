"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop. Names are
listed in `__init__.pyi` and imported when they are first used.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("cola-jax")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
