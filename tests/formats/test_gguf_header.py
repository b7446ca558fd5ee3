"""Damaged headers of GGUF files, each refused in one line before anything of them is used."""

import os
import struct

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from cola_jax.formats.gguf_header import ARRAY, STRING, read_header
from tests.formats.gguf_bytes import array, field, gguf, tensor, text
from tests.formats.gguf_writer import finish

UINT8, UINT32 = 0, 4

DATA = bytes(64)
DAMAGED = {
    "version": (gguf(version=7), "GGUF version 7; 2 and 3 can be read"),
    "swapped": (gguf(version=3 << 24), "big-endian"),
    "fields": (gguf(counts=(0, 2**62)), "claims 4,611,686,018,427,387,904 metadata keys"),
    "tensors": (gguf(counts=(2**40, 0)), "claims 1,099,511,627,776 tensors"),
    "fewer": (gguf(counts=(1, 0)), "1 tensors would take 24 bytes"),
    "name": (gguf([struct.pack("<Q", 2**63)], counts=(0, 1)), "metadata keys would take|the name"),
    "long": (gguf([field(b"a", STRING, struct.pack("<Q", 2**60))]), "value of 'a' would take"),
    "newline": (gguf([field(b"a\nb", UINT8, b"1")]), "is no name of a metadata key"),
    "utf-8": (gguf([field(b"a", STRING, text(b"\xff"))]), "'a' is not UTF-8 text"),
    "twice": (gguf([field(b"a", UINT8, b"1")] * 2), "has the metadata key 'a' twice"),
    "unknown": (gguf([field(b"a", 99, bytes(8))]), "has type 99, which GGUF does not have"),
    "nested": (gguf([field(b"a", ARRAY, array(ARRAY, 1, array(0, 1, b"1")))]), "array of arrays"),
    "items": (gguf([field(b"a", ARRAY, array(77, 1, bytes(8)))]), "is an array of type 77"),
    "array": (gguf([field(b"a", ARRAY, array(UINT8, 2**62))]), "would take 4,611,686"),
    "strings": (gguf([field(b"a", ARRAY, array(STRING, 2**62))]), "claims 4,611,686"),
    "some": (gguf([field(b"a", ARRAY, array(STRING, 99))]), "99 entries of the value of 'a' would"),
    "bool": (gguf([field(b"a", 7, b"\2")]), "neither true nor false"),
    "alignment": (
        gguf([field(b"general.alignment", UINT32, struct.pack("<I", 24))]),
        "must be a power of two, got 24",
    ),
    "rank": (gguf(tensors=[tensor(shape=())], data=DATA), "has 0 dimensions, not 1 to 4"),
    "ranks": (gguf(tensors=[text(b"x") + struct.pack("<I", 2**31) + bytes(32)]), "2147483648 dim"),
    "empty": (gguf(tensors=[tensor(shape=(8, 0))], data=DATA), r"'x' has shape \(0, 8\)"),
    "huge": (gguf(tensors=[tensor(shape=(2**40, 2**40))], data=DATA), "'x' has shape"),
    "type": (gguf(tensors=[tensor(kind=999)], data=DATA), "has type 999, which is unknown"),
    "block": (gguf(tensors=[tensor(kind=8)], data=DATA), "rows of 8, but Q8_0 stores blocks of 32"),
    "offset": (gguf(tensors=[tensor(offset=4)], data=DATA), "at 4, not at a multiple of 32"),
    "outside": (gguf(tensors=[tensor(offset=2**62)], data=DATA), "would end at byte"),
    "long tensor": (gguf(tensors=[tensor(shape=(17,))], data=DATA), "would end at byte"),
    "overlap": (
        gguf(tensors=[tensor(shape=(16,)), tensor(b"y", (8,), offset=32)], data=DATA),
        "tensor 'y' overlaps",
    ),
    "same tensor": (gguf(tensors=[tensor(), tensor(offset=32)], data=DATA), "tensor 'x' twice"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_read_header_refuses(tmp_path, name):
    content, message = DAMAGED[name]
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read_header(file, ("a",))
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_read_header_refuses_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a directory, pipe or device"):
        read_header(tmp_path, ())
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ValueError, match="is a directory, pipe or device"):
        read_header(tmp_path / "pipe.gguf", ())
    with pytest.raises(ValueError, match="does not exist"):
        read_header(tmp_path / "none.gguf", ())


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
    fields, tensors = read_header(file, ("general.arch", "tokenizer."))
    theirs = GGUFReader(file)
    wanted = {n: f for n, f in theirs.fields.items() if n.startswith(("general.arch", "tokenizer"))}
    assert fields == {name: one.contents() for name, one in wanted.items()}
    for one in theirs.tensors:
        kind, shape, start, nbytes = tensors[one.name]
        assert (kind, shape) == (one.tensor_type, tuple(reversed(one.shape.tolist())))
        assert (start, nbytes) == (one.data_offset, one.n_bytes)
