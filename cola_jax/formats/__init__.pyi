from .gguf import open_gguf, read_file
from .gguf_architectures import LARGEST
from .table import Row, is_left_out, stack

__all__ = [
    "LARGEST",
    "Row",
    "is_left_out",
    "open_gguf",
    "read_file",
    "stack",
]
