"""What a conversion reads from, whatever the format: `Source`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.convert.table import Row, Tensors


class Source(NamedTuple):
    """An opened foreign checkpoint: nothing but names and shapes has been read yet."""

    config: ModelConfig
    rows: tuple[Row, ...]
    tensors: Tensors
    dtype: np.dtype  # the dtype to convert to where none is asked for
    write_tokenizer: Callable[[Path], None]  # into an existing directory
    origin: dict[str, Any]  # where it came from, for the metadata
    stop_tokens: tuple[int, ...]  # that end a generation; none where only the tokenizer may know
