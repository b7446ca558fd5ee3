"""Files and folders that are prepared beside their destination, and appear there when complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cola_jax.errors import InputError


@contextlib.contextmanager
def partial_folder(destination: Path) -> Iterator[Path]:
    """Yields an empty hidden folder beside a destination, to be renamed to it when complete.

    What is left of it at the end is removed, with folders that were made for it; so is what a
    process that was killed has left.

    Raises ValueError while another process prepares the same destination, OSError where nothing can
    be made there.
    """
    with prepared(destination, folder=True) as partial:
        yield partial


@contextlib.contextmanager
def partial_file(destination: Path) -> Iterator[Path]:
    """The same for an empty file."""
    with prepared(destination, folder=False) as partial:
        yield partial


@contextlib.contextmanager
def prepared(destination: Path, folder: bool) -> Iterator[Path]:
    partial = destination.absolute().with_name(f".{destination.name}.partial")
    created = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        descriptor = claim(partial, folder, destination)
    except OSError as error:
        raise OSError(f"{destination} cannot be written ({error}): choose another.") from error
    try:
        yield partial
    finally:
        if is_at(descriptor, partial):  # another process may prepare the same by now
            remove(partial)
        os.close(descriptor)
        for parent in created:
            with contextlib.suppress(OSError):  # not empty if it was completed
                parent.rmdir()


def claim(partial: Path, folder: bool, destination: Path) -> int:
    """Makes a path and locks it, after removing what nobody holds; returns its descriptor."""
    while True:
        try:
            partial.mkdir() if folder else partial.touch(exist_ok=False)
            made = True
        except FileExistsError:
            made = False
        with contextlib.suppress(FileNotFoundError):  # the one that held it has ended
            descriptor = os.open(partial, os.O_RDONLY)
            if not lock(descriptor):
                os.close(descriptor)
                raise InputError(
                    f"{destination} is being written by another process: wait for it, or choose "
                    "another destination."
                )
            if made and is_at(descriptor, partial):
                return descriptor
            remove(partial)
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Locks an open file or folder until this process closes it or ends; False where another does.

    Where a system has no such locks, every process is let through.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a descriptor is that of what now lies at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
