"""cola-jax: Chain-of-Layers in JAX.

Searches, for each input of a pretrained LLM, which of its layers to run, skip or loop. Names are
listed in `__init__.pyi` and imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# this package can be called, where a function of its name would hide the modules in it
import cola_jax.search  # noqa: E402, F401
