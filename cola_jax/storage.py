"""Places that are read and written: storage such as gs://bucket/folder, and local folders."""

import fnmatch
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

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


def matching(folder: epath.Path, pattern: str) -> list[epath.Path]:
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
