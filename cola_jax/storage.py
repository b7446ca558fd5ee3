"""Places that are read and written: storage such as gs://bucket/folder, and local files."""

import contextlib
import fnmatch
import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, printed

LARGEST_TEXT = 2**30  # bytes
PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


def check_url(text: str) -> None:
    """Raises ValueError for a URL of storage that cannot be used here; other text is left alone."""
    scheme, found, _ = text.partition("://")
    if not found:
        return
    if scheme not in PACKAGES:
        known = ", ".join(f"{one}://" for one in PACKAGES)
        raise InputError(f"{text} is in no storage that can be used: {known}, or a local path.")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise InputError(f"{text} needs a package: pip install {PACKAGES[scheme]}.")


def read_text(file: str | os.PathLike[str]) -> str:
    """Reads a text file; ValueError where it cannot be read, is not text, or has gigabytes."""
    try:
        if (size := os.path.getsize(file)) > LARGEST_TEXT:
            raise InputError(
                f"{file} has {size:,} bytes, and at most {LARGEST_TEXT:,} are read: give another."
            )
        return Path(file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error}).") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error


def check_place(text: str) -> None:
    """Raises ValueError for text that can name nothing to read or to write here.

    That is a name that is too long, a loop of links, and what is neither a file nor a directory: a
    pipe is waited for, and a device never ends. What is missing is left to whoever needs it.
    """
    check_url(text)
    if "://" in text:
        return
    try:
        mode = os.stat(os.path.expanduser(text)).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(
            f"{printed(text)} cannot be used ({error.strerror}): give another."
        ) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{text} is a pipe or device: give a file or a directory.")


def check_writable(file: str | os.PathLike[str]) -> None:
    """Raises OSError where nothing can be written, before the work that it is to hold."""
    text = os.fspath(file)
    check_place(text)
    if "://" in text:
        return
    place = Path(os.path.abspath(text))
    if place.is_symlink() and not place.exists():
        raise OSError(f"{text} cannot be written: it is a link to nothing. Give another.")
    above = next(one for one in (place.parent, *place.parents) if os.path.lexists(one))
    if not above.is_dir():
        raise OSError(f"{text} cannot be written: {above} is not a directory. Give another.")
    there = place if place.exists() else above
    if not os.access(there, os.W_OK):
        raise OSError(f"{text} cannot be written: {there} is read-only for you. Give another.")


def check_file(file: str | os.PathLike[str]) -> None:
    """Raises OSError where a file cannot be written, ValueError for a directory."""
    check_writable(file)
    if os.path.isdir(file):
        raise InputError(f"{file} is a directory: give a file.")


def check_apart(destination: str | os.PathLike[str], source: str | os.PathLike[str]) -> None:
    """Raises ValueError where a destination is its source, inside of it or around it."""
    place, other = (Path(os.path.realpath(os.path.expanduser(x))) for x in (destination, source))
    if place.is_relative_to(other) or other.is_relative_to(place):
        where = "inside" if place.is_relative_to(other) else "around"
        raise InputError(
            f"{destination} is {where} the source {source}: choose a destination elsewhere."
        )


def matching(folder: "epath.Path", pattern: str) -> "list[epath.Path]":
    """Lists the files of a folder, in order, whose names match; none where there is no folder.

    epath's `glob` takes the folder's name for a part of the pattern, so that it finds nothing in
    one named run[1]. Hidden files are those of patterns that begin with a dot.
    """
    if not folder.exists():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if fnmatch.fnmatch(file.name, pattern)
        and file.name.startswith(".") == pattern.startswith(".")
    )


def check_links(folder: str | os.PathLike[str]) -> None:
    """Raises ValueError for symbolic links in a local folder that lead out of it.

    What is read or written below a folder that came from elsewhere then stays in it.
    """
    if "://" in os.fspath(folder) or not os.path.isdir(folder):
        return
    inside = os.path.realpath(folder)
    for link in links(inside):
        if not Path(os.path.realpath(link)).is_relative_to(inside):
            raise InputError(
                f"{link} is a symbolic link out of {folder}, which is not followed: replace it by "
                "what it leads to."
            )


def links(folder: str) -> Iterator[str]:
    """Yields the symbolic links below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir(follow_symlinks=False):
                yield from links(entry.path)


def write_whole(file: "epath.Path", content: bytes) -> None:
    """Writes a file so that it is either the old one or the whole new one, never half of it.

    ValueError for a directory, pipe or device in its place, which would be replaced. OSError where
    it cannot be written; nothing is left then.
    """
    if os.path.exists(file) and not os.path.isfile(file):  # epath takes a pipe for a file
        raise InputError(f"{file} is a directory, pipe or device, not a file: give another place.")
    partial = file.parent / f".{file.name}.partial"
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if error.filename is not None:
            error.filename = str(file)
        raise
