"""Places that are read and written: storage such as gs://bucket/folder, and local files."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


def check_url(text: str) -> None:
    """Raises ValueError for a URL of storage that cannot be used here; other text is left alone."""
    scheme, found, _ = text.partition("://")
    if not found:
        return
    if scheme not in PACKAGES:
        known = ", ".join(f"{one}://" for one in PACKAGES)
        raise ValueError(f"{text} is in no storage that can be used: {known}, or a local path.")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise ValueError(f"{text} needs a package: pip install {PACKAGES[scheme]}.")


def read_text(file: str | os.PathLike[str]) -> str:
    """Reads a text file; ValueError where it cannot be read or is not text."""
    try:
        return Path(file).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}).") from None
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}.") from error


def check_links(folder: str | os.PathLike[str]) -> None:
    """Raises ValueError for symbolic links in a local folder that lead out of it.

    What is read or written below a folder that came from elsewhere then stays in it.
    """
    if "://" in os.fspath(folder) or not os.path.isdir(folder):
        return
    inside = os.path.realpath(folder)
    for link in links(inside):
        if not Path(os.path.realpath(link)).is_relative_to(inside):
            raise ValueError(
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
    """Writes a file so that it is either the old one or the whole new one, never half of it."""
    partial = file.parent / f".{file.name}.partial"
    partial.write_bytes(content)
    partial.replace(file)
