"""Uses of the paths that a search found, where the correct answer is not known.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
