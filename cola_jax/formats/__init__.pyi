from .gguf import open_gguf, read_file
from .gguf_architectures import LARGEST
from .table import Row, stack

__all__ = [
    "LARGEST",
    "Row",
    "open_gguf",
    "read_file",
    "stack",
]
