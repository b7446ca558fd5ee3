"""Arrays as numpy writes them, read so that a damaged file gives one clear error."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from etils import epath

from cola_jax.errors import InputError, first_line
from cola_jax.files import read_bytes

T = TypeVar("T")


def open_array(file: epath.Path, repair: str) -> np.ndarray:
    """Maps an array of a local file into memory; reads that of a remote one.

    Raises ValueError where the file is damaged, with what to do.
    """
    if "://" in os.fspath(file):
        return careful(
            file, repair, lambda: np.load(io.BytesIO(read_bytes(file)), allow_pickle=False)
        )
    # unlike np.load, it closes a file of another kind; it maps no objects either
    return careful(file, repair, lambda: np.lib.format.open_memmap(os.fspath(file), mode="r"))


def read_arrays(file: epath.Path, names: tuple[str, ...], repair: str) -> list[np.ndarray]:
    """Reads named arrays of numbers from an archive that is not compressed.

    Raises ValueError where the file is damaged, or lacks one of them, with what to do.
    """

    def read() -> list[np.ndarray]:
        content = io.BytesIO(read_bytes(file))
        with zipfile.ZipFile(content) as archive:
            if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                raise InputError("it is compressed, which no command writes")
        with np.load(content, allow_pickle=False) as arrays:
            found = [arrays[name] for name in names]
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in found):
            raise InputError("it has other values than finite numbers")
        return found

    return careful(file, repair, read)


def careful(file: epath.Path, repair: str, read: Callable[[], T]) -> T:
    """Calls a function that reads a file; raises ValueError for whatever it raises."""
    try:
        with warnings.catch_warnings(action="error"):  # of a header that numpy has to repair
            return read()
    except Exception as error:  # numpy and zipfile raise a dozen types
        raise InputError(f"{file} is damaged ({first_line(error)}): {repair}.") from error
