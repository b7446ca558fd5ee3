"""Runs: their directories, what is asked and written, and comparisons of what is stored.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
