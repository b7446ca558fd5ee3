"""Read the header of a GGUF file, checking every claim in it against the file before using it.

The format is that of ggml's docs/gguf.md. A header claims counts, lengths and offsets: none is used
before it is known to fit, so a damaged file costs no more than a sound one.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from cola_jax.errors import InputError, shown

VERSIONS = (2, 3)
SCALARS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"},
    **{10: "Q", 11: "q", 12: "d"},
}
BOOL, STRING, ARRAY = 7, 8, 9
TYPES = {kind.value: kind for kind in GGMLQuantizationType}
# several times what the largest models have, and few enough to be read in a second
MOST_KEYS, MOST_TENSORS, MOST_STRINGS = 2**14, 2**17, 2**21
LONGEST_NAME, LONGEST_HEADER = 2**10, 2**27  # bytes
DIMENSIONS = 4


class Tensor(NamedTuple):
    """Where a tensor lies in the file, and what it is."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # the outermost axis first
    start: int  # in the file
    nbytes: int


class Header(NamedTuple):
    """The metadata that was asked for, and all tensors."""

    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(file: Path, wanted: tuple[str, ...]) -> Header:
    """Read the metadata whose keys begin with one of `wanted`, and where the tensors are.

    Raises InputError for whatever the rest of the header or the file contradicts.
    """
    if not file.is_file():
        what = "is a directory, pipe or device, not a file" if file.exists() else "does not exist"
        raise InputError(f"{file} {what}: give a .gguf file.")
    size = file.stat().st_size
    if not size:
        raise InputError(f"{file} is empty: download it again.")
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return HeaderReader(file, data).read(wanted)


class HeaderReader:
    """Read a header from its first byte to its last; `at` is the next byte."""

    def __init__(self, file: Path, data: mmap.mmap):
        self.file, self.data, self.at = file, data, 0
        self.strings = 0  # entries of arrays read so far

    def damaged(self, problem: str) -> InputError:
        """Return the error of a damaged file."""
        return InputError(
            f"{self.file} is damaged or truncated: {problem} (byte {self.at:,} of "
            f"{len(self.data):,}). Download it again."
        )

    def read(self, wanted: tuple[str, ...]) -> Header:
        """Read the whole header."""
        magic = bytes(self.data[:4])
        if magic != b"GGUF":
            raise InputError(f"{self.file} is not a GGUF file: it begins with {shown(magic)}.")
        self.at = 4
        version = self.number("I", "the version")
        if version not in VERSIONS:
            swapped = " (it may be a file for big-endian machines)" if not version & 0xFFFF else ""
            raise InputError(
                f"{self.file} has GGUF version {version}{swapped}; {VERSIONS[0]} and {VERSIONS[1]} "
                "can be read: convert it with a current llama.cpp, or download it again."
            )
        tensors = self.count("Q", "tensors", 24, MOST_TENSORS)
        keys = self.count("Q", "metadata keys", 13, MOST_KEYS)
        fields = self.read_fields(keys, (*wanted, "general.alignment"))
        infos = [self.read_tensor() for _ in range(tensors)]
        return Header(fields, self.place(infos, self.alignment(fields)))

    def need(self, nbytes: int, what: str) -> None:
        """Raise InputError unless so many bytes of a header remain."""
        if self.at + nbytes > len(self.data):
            left = len(self.data) - self.at
            raise self.damaged(f"{what} would take {nbytes:,} bytes, but {left:,} remain")
        if self.at + nbytes > LONGEST_HEADER:
            raise self.damaged(f"{what} would make the header exceed {LONGEST_HEADER:,} bytes")

    def number(self, kind: str, what: str) -> Any:
        """Read one number of a struct format."""
        layout = struct.Struct(f"<{kind}")
        self.need(layout.size, what)
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return value

    def count(self, kind: str, what: str, nbytes: int, most: int) -> int:
        """Read how many of something follow, each of which takes at least `nbytes`."""
        value = self.number(kind, f"the number of {what}")
        if value > most:
            raise self.damaged(
                f"it claims {value:,} {what}, and {most:,} are the most that a model has"
            )
        self.need(value * nbytes, f"{value:,} {what}")
        return value

    def raw(self, what: str) -> bytes:
        """Read the bytes of a string."""
        length = self.number("Q", f"the length of {what}")
        self.need(length, what)
        self.at += length
        return self.data[self.at - length : self.at]

    def text(self, what: str) -> str:
        """Read a string."""
        try:
            return self.raw(what).decode()
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8 text") from None

    def name(self, what: str, taken: Any) -> str:
        """Read the name of a key or tensor."""
        name = self.text(f"the name of a {what}")
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise self.damaged(f"{shown(name)} is no name of a {what}")
        if name in taken:
            raise self.damaged(f"it has the {what} {shown(name)} twice")
        return name

    def read_fields(self, count: int, wanted: tuple[str, ...]) -> dict[str, Any]:
        """Read the metadata; returns that which is wanted."""
        seen, fields = set(), {}
        for _ in range(count):
            key = self.name("metadata key", seen)
            seen.add(key)
            here = key.startswith(wanted)
            value = self.value(key, here)
            if here:
                fields[key] = value
        return fields

    def value(self, key: str, wanted: bool) -> Any:
        """Read the value of a key, None where it is not wanted."""
        kind, what = self.number("I", f"the type of {shown(key)}"), f"the value of {shown(key)}"
        if kind == STRING:
            return self.text(what) if wanted else self.raw(what)
        if kind in SCALARS:
            (found,) = self.scalars(kind, 1, what)
            return found
        if kind != ARRAY:
            raise self.damaged(f"{what} has type {kind}, which GGUF does not have")
        kind = self.number("I", f"the type of {shown(key)}")
        if kind == STRING:
            return list(self.read_strings(what, wanted))
        if kind not in SCALARS:
            nested = "arrays, which no key of a model has" if kind == ARRAY else f"type {kind}"
            raise self.damaged(f"{what} is an array of {nested}")
        length = self.number("Q", f"the length of {shown(key)}")
        if wanted:
            return self.scalars(kind, length, what)
        nbytes = struct.calcsize(f"<{SCALARS[kind]}") * length
        self.need(nbytes, what)
        self.at += nbytes
        return None

    def scalars(self, kind: int, length: int, what: str) -> list[Any]:
        """Read numbers or booleans."""
        dtype = np.dtype(f"<{np.dtype(SCALARS[kind]).str[1:]}")
        nbytes = dtype.itemsize * length
        self.need(nbytes, what)
        piece = self.data[self.at : self.at + nbytes]
        if kind == BOOL and piece.strip(b"\0\1"):
            raise self.damaged(f"{what} is neither true nor false")
        self.at += nbytes
        return np.frombuffer(piece, dtype).tolist()

    def read_strings(self, what: str, wanted: bool) -> Iterator[str]:
        """Yield the strings of an array, none where they are not wanted."""
        length = self.count("Q", f"entries of {what}", 8, MOST_STRINGS - self.strings)
        self.strings += length
        for _ in range(length):
            if wanted:
                yield self.text(what)
            else:
                self.raw(what)

    def read_tensor(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        """Read the name, type, shape and offset of a tensor."""
        name = self.name("tensor", ())
        what = f"tensor {shown(name)}"
        dimensions = self.number("I", f"the rank of {what}")
        if not 1 <= dimensions <= DIMENSIONS:
            raise self.damaged(f"{what} has {dimensions} dimensions, not 1 to {DIMENSIONS}")
        shape = [self.number("Q", f"the shape of {what}") for _ in range(dimensions)]
        kind, offset = self.number("I", f"the type of {what}"), self.number("Q", f"where {what} is")
        if kind not in TYPES:
            raise self.damaged(f"{what} has type {kind}, which is unknown")
        if not all(shape) or math.prod(shape) >= 2**63:
            raise self.damaged(f"{what} has shape {tuple(reversed(shape))}")
        block, _ = GGML_QUANT_SIZES[TYPES[kind]]
        if shape[0] % block:
            raise self.damaged(
                f"{what} has rows of {shape[0]}, but {TYPES[kind].name} stores blocks of {block}"
            )
        return name, TYPES[kind], tuple(reversed(shape)), offset

    def alignment(self, fields: dict[str, Any]) -> int:
        """Return what the offsets of tensors are multiples of."""
        value = fields.pop("general.alignment", 32)
        if type(value) is not int or value < 1 or value & (value - 1):
            raise self.damaged(f"general.alignment must be a power of two, got {shown(value)}")
        return value

    def place(
        self, infos: list[tuple[str, GGMLQuantizationType, tuple[int, ...], int]], alignment: int
    ) -> dict[str, Tensor]:
        """Place the tensors in the file; raise InputError where they do not fit or overlap."""
        data = -(-self.at // alignment) * alignment
        placed, end = {}, data
        for name, kind, shape, offset in sorted(infos, key=lambda info: info[3]):
            block, size = GGML_QUANT_SIZES[kind]
            tensor = Tensor(kind, shape, data + offset, math.prod(shape) // block * size)
            if name in placed:
                raise self.damaged(f"it has the tensor {shown(name)} twice")
            if offset % alignment:
                raise self.damaged(
                    f"tensor {shown(name)} is at {offset:,}, not at a multiple of {alignment}"
                )
            if tensor.start < end:
                raise self.damaged(f"tensor {shown(name)} overlaps the tensor before it")
            end = tensor.start + tensor.nbytes
            if end > len(self.data):
                raise self.damaged(f"tensor {shown(name)} would end at byte {end:,}")
            placed[name] = tensor
        return placed
