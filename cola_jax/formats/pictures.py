"""Files of pictures: one function opens them, in a few formats and limited sizes."""

import io
import warnings
from typing import Any

from cola_jax.errors import InputError, first_line

# Formats that Pillow decodes itself: for EPS it starts Ghostscript, and for others a viewer
RASTER = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
FORMATS = f"a {', '.join(RASTER[:-1])} or {RASTER[-1]}"
MOST_PIXELS = 50_000_000
MOST_BYTES = 50_000_000  # of a file
THUMBNAIL = 320  # pixels of its longer side


def open_picture(picture: bytes) -> Any:
    """Read a picture in RGB.

    Raises InputError where it is in another format than `RASTER`, broken, or too large.
    """
    check_bytes(len(picture))
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("pictures need Pillow: pip install 'cola-jax[vision]'.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(picture), formats=RASTER)
        width, height = image.size
        if width * height <= MOST_PIXELS:
            image.verify()
            whole = Image.open(io.BytesIO(picture), formats=RASTER)  # verified ones are used up
            return whole.convert("RGB")
    except Image.UnidentifiedImageError as error:  # its text has the address of the content
        raise InputError(f"the picture is broken or in another format: give {FORMATS}.") from error
    except Exception as error:  # Pillow raises many types
        raise InputError(
            f"the picture is broken ({first_line(error)}): give a whole one, {FORMATS}."
        ) from error
    raise InputError(
        f"the picture has {width:,} x {height:,} pixels, and may have {MOST_PIXELS:,}: scale it."
    )


def check_bytes(size: int) -> None:
    """Raise InputError for the size of a file that is too large for a picture."""
    if size > MOST_BYTES:
        raise InputError(f"the picture has {size:,} bytes, and may have {MOST_BYTES:,}: scale it.")


def encode_picture(image: Any) -> bytes:
    """Return a PNG of one of Pillow's images, such as `datasets` gives.

    An image of Pillow's reads its file when it is converted, so InputError for other formats.
    """
    if image.format not in (None, *RASTER):
        raise InputError(f"pictures in the format {image.format} are not opened: give {FORMATS}.")
    content = io.BytesIO()
    image.convert("RGB").save(content, "PNG")
    return content.getvalue()


def thumbnail(picture: bytes) -> bytes:
    """Return a small JPEG of a picture."""
    content = io.BytesIO()
    image = open_picture(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(content, "JPEG")
    return content.getvalue()
