"""Storage behind URLs, which is reached through fsspec alone.

It has no folders, renames or locks; an object appears when it is complete, and can be created only
where there is none.
"""

import contextlib
import errno
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, first_line, shown

EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}  # and the packages that they install
AT_ONCE = 32  # small objects that are read at once, as each takes a round trip
TRANSFERS = 4  # large files at once, of each of which s3fs holds up to 500 MB
AnyPath = str | os.PathLike[str]
Result = TypeVar("Result")


def is_url(place: AnyPath) -> bool:
    """Return whether a place is a URL of storage, even one that went through `Path`."""
    return re.match(r"\w\w+:/", os.fspath(place)) is not None


def path_of(place: AnyPath) -> "epath.Path":
    """Return the path of a local place or a URL, even one that went through `Path`.

    InputError for a URL of other storage.
    """
    from etils import epath

    text = re.sub(r"^(\w\w+):/+", r"\1://", os.fspath(place))
    if is_url(text) and text.partition(":")[0] not in EXTRAS:
        raise InputError(f"{text} is in no storage that can be used: {', '.join(EXTRAS)}.")
    return epath.Path(text)


@contextlib.contextmanager
def file_system(url: AnyPath) -> "Iterator[tuple[Any, str]]":
    """Yield the fsspec file system of a URL, and the path of the URL in it.

    Errors of storage in the body become an InputError that names the bucket, but for
    FileNotFoundError and FileExistsError. InputError without the extra for the URL.
    """
    url = path_of(url)
    scheme, _, path = str(url).partition("://")
    extra, package = EXTRAS[scheme]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{url} needs a package: pip install 'cola-jax[{extra}]'.")
    import fsspec

    logging.getLogger(package).setLevel(logging.CRITICAL)  # gcsfs logs errors that it raises
    try:
        # other processes write to the same folders
        yield fsspec.filesystem(scheme, use_listings_cache=False), path
    except FileNotFoundError as error:
        missing = errno.ENOENT, os.strerror(errno.ENOENT), str(url)
        raise FileNotFoundError(*missing) from error
    except (FileExistsError, InputError):
        raise
    except (TypeError, AttributeError, LookupError):  # bugs
        raise
    except Exception as error:  # botocore, aiohttp and google-auth raise many types
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # of a download
            raise
        raise InputError(
            f"{bucket_of(url)} cannot be used ({first_line(error)}): check your credentials for "
            f"{scheme}://, your permissions on this bucket, and the connection."
        ) from error


def bucket_of(url: AnyPath) -> str:
    """Return the URL of the bucket of a URL."""
    return "/".join(os.fspath(url).split("/")[:3])


def for_each(
    function: "Callable[[epath.Path], Result]", files: "Sequence[epath.Path]"
) -> Iterator[Result]:
    """Yield the results of a function of each file, in order; several at once in storage."""
    if not files or not is_url(files[0]):
        yield from map(function, files)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(files), AT_ONCE):
            yield from pool.map(function, files[start : start + AT_ONCE])


def upload(place: Path, url: AnyPath) -> None:
    """Write a file, or a folder in place of what is below a URL.

    The files in the folder itself come last, as one of them marks it as complete.
    """
    with file_system(url) as (system, path):
        if place.is_file():
            system.put_file(str(place), path)
            return
        if system.exists(path):
            system.rm(path, recursive=True)
        below = [file for file in place.rglob("*") if file.is_file() and file.parent != place]
        for files in (below, [file for file in place.iterdir() if file.is_file()]):
            with ThreadPoolExecutor(TRANSFERS) as pool:
                names = [f"{path}/{file.relative_to(place).as_posix()}" for file in files]
                list(pool.map(system.put_file, map(str, files), names))


def download(url: AnyPath, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Read all files below a URL into a folder; reports the bytes read so far and the total."""
    with file_system(url) as (system, path), ThreadPoolExecutor(TRANSFERS) as pool:
        found = system.find(path, detail=True).items()
        sizes = {name: each["size"] for name, each in found if not name.endswith("/")}
        total, done = sum(sizes.values()), 0

        def read(name: str) -> int:
            file = folder / Path(name).relative_to(path)
            if ".." in file.parts:
                raise InputError(f"{url} has a file outside of its folder: {shown(name)}.")
            file.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(file))
            return sizes[name]

        for size in pool.map(read, sizes):
            done += size
            on_progress(done, total)
