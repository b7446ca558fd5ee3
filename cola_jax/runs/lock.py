"""The lock of a run directory, by which two commands do not fill it at the same time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError
from cola_jax.files import inside, matching, remove_files
from cola_jax.storage import is_url

LOCK = ".lock"


@contextlib.contextmanager
def locked(directory: "epath.Path", *, shared: bool) -> Iterator[None]:
    """Keep other processes out of a run, but for those that share it; InputError where one is in.

    The processes of a distributed start share a run: each has questions of its own. The system
    drops the lock when its process ends, however it ends. Remote storage has no lock.
    """
    if is_url(directory):
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    file = os.open(inside(directory, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process is filling {directory}: wait for it, or choose another directory."
            ) from None
        remove_files(matching(directory, ".shard-*.lock"))  # of earlier versions
        yield
    finally:
        os.close(file)
