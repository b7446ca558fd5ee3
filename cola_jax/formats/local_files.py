"""Local files of a model: a pipe or device in place of one is refused, as is JSON of any size."""

from pathlib import Path
from typing import Any

from cola_jax.errors import InputError
from cola_jax.json_text import parse_object

LARGEST = 10 * 2**20  # bytes of JSON; the largest index of a model has four million


def is_there(file: Path) -> bool:
    """Returns whether a file exists.

    Raises ValueError for a directory, pipe or device: a pipe would be waited for, and a device
    never ends.
    """
    if file.is_file():
        return True
    if file.exists():
        raise InputError(
            f"{file} is a directory, pipe or device, not a file: remove it, or download the model "
            "again."
        )
    return False


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object; raises ValueError if the file is missing or holds anything else."""
    if not is_there(file):
        raise InputError(f"{file.parent} has no {file.name}: it is not a Hugging Face model.")
    if (size := file.stat().st_size) > LARGEST:
        raise InputError(
            f"{file} has {size:,} bytes, and {LARGEST:,} are the most that such a file has: "
            "download it again."
        )
    return parse_object(file.read_bytes(), str(file))
