"""The picture of a row: its own content, or a file in the folder of the questions.

Whoever writes a file of questions does not choose which other files of a user are read, so a path
leads nowhere else: not by `..`, an absolute path, a link or a URL. A `Path`, which no file has, is
the user's own choice.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, shown
from cola_jax.files import exists, read_bytes
from cola_jax.formats.pictures import check_bytes, encode_picture
from cola_jax.storage import AnyPath, path_of


def read_picture(row: Mapping[str, Any], folder: AnyPath | None) -> Mapping[str, Any]:
    """Return a row with the content of its picture.

    `image` is a path in `folder`, the content, a dict of either, as data sets have it, an image of
    Pillow's, or a `Path` to any file. Without a folder it is no text of a path.
    """
    image = row.get("image")
    if image is None or isinstance(image, bytes):
        return row
    return {**row, "image": picture_content(image, folder)}


def picture_content(image: Any, folder: AnyPath | None) -> bytes | None:
    """Return the content of a picture; InputError for a path out of the folder."""
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None or isinstance(image, bytes):
        return image
    if hasattr(image, "convert") and hasattr(image, "format"):  # Pillow's
        return encode_picture(image)
    if isinstance(image, Path):
        return picture_file(image)
    if not isinstance(image, str):
        raise InputError(
            f"image must be the path of a picture, its content or Pillow's: {shown(image)}."
        )
    if folder is None:
        raise InputError(f"image must be the content of a picture, not a path: {shown(image)}.")
    return picture_file(place_below(folder, image))


def picture_file(place: AnyPath) -> bytes:
    """Return the content of a file; InputError where there is none, or a large one."""
    if not exists(place):
        raise InputError(f"the picture {place} is missing: paths start at the file's own folder.")
    if os.path.isfile(place):
        check_bytes(os.path.getsize(place))
    return read_bytes(place)


def place_below(folder: AnyPath, name: str) -> AnyPath:
    """Return the place of a file in a folder; InputError where it is outside, by links as well."""
    root = os.path.realpath(folder)
    place = Path(os.path.realpath(os.path.join(root, name)))
    if has_scheme(name) or not place.is_relative_to(root):
        raise InputError(
            f"the picture {shown(name)} is outside of the folder of the questions ({folder}): put "
            "it there, as a file, or give the content of the picture."
        )
    return path_of(folder) / place.relative_to(root)


def has_scheme(name: str) -> bool:
    """Return whether a name is a URL, of storage or not."""
    return ":" in name.partition("/")[0]
