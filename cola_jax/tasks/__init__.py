"""Tasks: questions from the Hub, a file, memory or a generator, and how they are asked."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
