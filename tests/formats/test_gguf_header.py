"""Damaged headers of GGUF files, each refused in one line before anything of them is used."""

import os
import struct

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from cola_jax.formats.gguf_header import ARRAY, STRING, read_header
from tests.formats.gguf_writer import finish

UINT8, UINT32, INT32, FLOAT32 = 0, 4, 5, 6


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + value


def tensor(shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    return text(b"x") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(fields=(), tensors=(), data=b"", version=3, counts=None) -> bytes:
    """Return a file; `counts` of tensors and fields may differ from the contents."""
    counts = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join((*fields, *tensors))
    return head + bytes(-len(head) % 32) + data


DATA = bytes(64)
SHORT = r"cannot be read \((unpack_from requires a buffer|total struct size|bad char)"
ALIGNMENT = r"general\.alignment must be a positive integer, got (-32|32\.0)"
DAMAGED = {
    "empty": (b"", "cannot mmap an empty file"),
    "magic": (b"GGML" + bytes(20), "not a GGUF file: it begins with"),
    "version": (gguf(version=7), r"GGUF version 7; \(2, 3\) can be read"),
    "fields": (gguf(counts=(0, 2**62)), SHORT),
    "tensors": (gguf(counts=(2**40, 0)), SHORT),
    "name": (gguf([struct.pack("<Q", 2**60)], counts=(0, 1), data=DATA), SHORT),
    "long": (gguf([field(b"a", STRING, struct.pack("<Q", 2**60))]), f"value of 'a' {SHORT}"),
    "utf-8": (gguf([field(b"a", STRING, text(b"\xff"))]), "'a' cannot be read .*utf-8"),
    "unknown": (gguf([field(b"a", 99, bytes(8))]), "'a': a value or array of type 99 is not"),
    "nested": (gguf([field(b"a", ARRAY, array(ARRAY, 1, array(0, 1, b"1")))]), "array of type 9"),
    "array": (gguf([field(b"a", ARRAY, array(UINT8, 2**40))]), f"value of 'a' {SHORT}"),
    "strings": (gguf([field(b"a", ARRAY, array(STRING, 2**62))]), f"value of 'a' {SHORT}"),
    "alignment": (gguf([field(b"general.alignment", UINT32, bytes(4))]), "by zero"),
    "negative": (gguf([field(b"general.alignment", INT32, struct.pack("<i", -32))]), ALIGNMENT),
    "float": (gguf([field(b"general.alignment", FLOAT32, struct.pack("<f", 32))]), ALIGNMENT),
    "rank": (gguf(tensors=[tensor(shape=())], data=DATA), "cannot be read .*index out of range"),
    "ranks": (gguf(tensors=[text(b"x") + struct.pack("<I", 2**31) + bytes(32)]), SHORT),
    "huge": (gguf(tensors=[tensor(shape=(2**40, 2**40))], data=DATA), "beyond the end"),
    "type": (gguf(tensors=[tensor(kind=999)], data=DATA), "tensor 'x' cannot be read .*999"),
    "block": (gguf(tensors=[tensor(kind=8)], data=DATA), "rows of 8, but Q8_0 has blocks of 32"),
    "outside": (gguf(tensors=[tensor(offset=2**62)], data=DATA), "beyond the end"),
    "long tensor": (gguf(tensors=[tensor(shape=(17,))], data=DATA), "beyond the end"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_read_header_refuses(tmp_path, name):
    content, message = DAMAGED[name]
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_header(file)
    assert str(raised.value).startswith(str(file))
    assert "damaged or truncated: download it again" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read_header_refuses_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    no_file = "is a directory, pipe or device"
    for name, message in ((".", no_file), ("pipe.gguf", no_file), ("none.gguf", "does not exist")):
        with pytest.raises(ValueError, match=message):
            read_header(tmp_path / name)


def test_read_header_reads_what_the_gguf_package_does(tmp_path):
    file = tmp_path / "a.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_custom_alignment(64)
    writer.add_token_list(["a", "é"])
    writer.add_token_scores([0.5, -1.0])
    writer.add_add_bos_token(True)
    writer.add_array("general.languages", ["en"])
    writer.add_tensor("x", np.ones((2, 3), np.float32))
    writer.add_tensor("y", np.ones(3, np.float16))
    finish(writer)
    fields, tensors = read_header(file)
    theirs = GGUFReader(file)
    stored = {n: f.contents() for n, f in theirs.fields.items() if not n.startswith("GGUF.")}
    assert fields == stored
    for info in theirs.tensors:
        kind, shape, start, nbytes = tensors[info.name]
        assert (kind, shape) == (info.tensor_type, tuple(reversed(info.shape.tolist())))
        assert (start, nbytes) == (info.data_offset, info.n_bytes)
