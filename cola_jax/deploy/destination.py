"""Destinations of exports: refused before any work, and complete or absent afterwards."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cola_jax import files
from cola_jax.errors import InputError
from cola_jax.files import check_apart, check_local, check_writable


def check_empty(destination: Path, *sources: Path) -> None:
    """Raise InputError for a destination that has contents, or that lies inside a source."""
    check_local(destination)
    place = real_path(destination)
    check_writable(place)
    for source in sources:
        check_apart(destination, source)
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"{destination} exists already: remove it, or choose another destination.")
    if any(place.iterdir()):
        raise InputError(
            f"{destination} exists already and is not empty: remove it, or choose another "
            "destination."
        )


@contextlib.contextmanager
def exporting(destination: Path, folder: bool = True) -> Iterator[Path]:
    """Yield an empty folder or file beside the destination, and move it there at the end.

    After an error, nothing is left of it.
    """
    with files.building(destination, folder=folder) as partial:
        yield partial
        check_empty(destination)  # another process may have been faster


def real_path(destination: Path) -> Path:
    """Return where a destination is, with links followed."""
    return Path(os.path.realpath(os.path.expanduser(destination)))


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
