"""Files of pictures: formats that are opened, sizes, and thumbnails."""

import io

import pytest

pytest.importorskip("PIL")

from PIL import EpsImagePlugin, Image

from cola_jax.errors import InputError
from cola_jax.formats.pictures import encode_picture, open_picture, thumbnail
from tests.pictures import picture

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\n%%EndComments\nshowpage\n%%EOF\n"


def test_open_picture_refuses_broken_and_large_ones(monkeypatch):
    content = picture(1)
    for broken in (b"", b"no picture"):
        with pytest.raises(InputError, match="the picture is broken or in another format: give a"):
            open_picture(broken)
    for broken in (content[:-40], content[:200] + b"x" * 9 + content[209:]):
        with pytest.raises(InputError, match=r"the picture is broken \(.*\): give a whole one"):
            open_picture(broken)
    monkeypatch.setattr("cola_jax.formats.pictures.MOST_PIXELS", 959)
    with pytest.raises(InputError, match="has 40 x 24 pixels, and may have 959"):
        open_picture(content)
    monkeypatch.setattr("cola_jax.formats.pictures.MOST_BYTES", 99)
    with pytest.raises(InputError, match=r"has [\d,]+ bytes, and may have 99"):
        open_picture(content)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_open_picture_opens_raster_formats(form):
    content = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(content, form)
    assert open_picture(content.getvalue()).size == (40, 24)


def test_open_picture_starts_no_program(monkeypatch):
    """Pillow would have Ghostscript run the program in an EPS."""
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program is started"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    assert Image.open(io.BytesIO(EPS)).format == "EPS"
    with pytest.raises(InputError, match="another format: give a PNG, JPEG, GIF, WEBP or BMP"):
        open_picture(EPS)
    with pytest.raises(InputError, match="pictures in the format EPS are not opened"):
        encode_picture(Image.open(io.BytesIO(EPS)))


def test_thumbnail_is_a_small_jpeg():
    for size, expected in (((10, 10), (10, 10)), ((640, 320), (320, 160))):
        with Image.open(io.BytesIO(thumbnail(picture(1, *size)))) as small:
            assert (small.format, small.size) == ("JPEG", expected)
