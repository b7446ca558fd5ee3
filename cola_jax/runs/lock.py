"""The lock of a run directory, by which two commands do not fill it at the same time."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

from cola_jax.files import inside, store_of

LOCK = ".lock"


@contextlib.contextmanager
def locked(directory: "epath.Path", *, shared: bool) -> Iterator[None]:
    """Lock a run against processes that do not share it; InputError if another holds the lock.

    The processes of a distributed start share a run: each has questions of its own. Object storage
    has no lock.
    """
    busy = f"another process is filling {directory}: wait for it, or choose another directory."
    with store_of(directory).lock(inside(directory, LOCK), busy, shared=shared):
        yield
