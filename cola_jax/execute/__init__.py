"""Execution of paths: `reference` defines the meaning of a path, `run_paths` is the fast one.

Modules are imported when a name of theirs is first used: importing JAX takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
