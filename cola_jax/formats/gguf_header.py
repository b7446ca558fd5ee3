"""Read the header of a GGUF file, checking every length in it against the file before using it.

The format is that of ggml's docs/gguf.md.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import is_file

VERSIONS = (2, 3)
SCALARS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"},
    **{10: "Q", 11: "q", 12: "d"},
}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4
SMALLEST_FIELD, SMALLEST_TENSOR = 13, 32  # bytes: a name's length, types, and a value or a shape


class Tensor(NamedTuple):
    """The place, type and shape of a tensor."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # the outermost axis first
    start: int  # in the file
    nbytes: int


class Header(NamedTuple):
    """The metadata and the tensors, by name."""

    fields: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(file: Path) -> Header:
    """Read the metadata, and where the tensors are.

    Raises InputError for whatever the rest of the header or the file contradicts.
    """
    if not is_file(file):
        raise InputError(f"{file} does not exist: give a .gguf file.")
    with (
        reading(file, "It is damaged or truncated: download it again."),
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return HeaderReader(data).read()


class HeaderReader:
    """Read a header from its first byte to its last; `at` is the next byte.

    struct checks the length of whatever it unpacks before it allocates anything.
    """

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def read(self) -> Header:
        """Read the whole header."""
        magic = self.data[:4]
        if magic != b"GGUF":
            raise InputError(f"it is not a GGUF file: it begins with {shown(magic)}.")
        self.at = 4
        version = self.number("I")
        if version not in VERSIONS:
            raise InputError(f"it has GGUF version {version}; {VERSIONS} can be read.")
        tensor_count, field_count = self.numbers("Q", 2)
        self.require(tensor_count * SMALLEST_TENSOR + field_count * SMALLEST_FIELD)
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = self.name(fields)
            with reading(f"the value of {shown(key)}"):
                fields[key] = self.value()
        tensors: dict[str, Tensor] = {}
        for _ in range(tensor_count):
            name = self.name(tensors)
            with reading(f"tensor {shown(name)}"):
                tensors[name] = self.tensor()
        return Header(fields, self.place(tensors, fields.get("general.alignment", 32)))

    def require(self, nbytes: int) -> None:
        """Raise InputError unless so many bytes remain."""
        if nbytes > (left := len(self.data) - self.at):
            raise InputError(f"{nbytes:,} bytes belong at byte {self.at:,}, but {left:,} remain.")

    def numbers(self, code: str, count: int) -> list[Any]:
        """Read numbers of a struct format."""
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return list(values)

    def number(self, code: str) -> Any:
        """Read one number of a struct format."""
        return self.numbers(code, 1)[0]

    def text(self) -> str:
        """Read a string."""
        return self.numbers("s", self.number("Q"))[0].decode()

    def name(self, taken: dict[str, Any]) -> str:
        """Read the name of a key or tensor, which must be new."""
        name = self.text()
        if not name.isprintable() or name in taken:
            raise InputError(f"{shown(name)} is not a name, or a name that comes twice.")
        return name

    def value(self) -> Any:
        """Read the value of a key."""
        kind, count = self.number("I"), 1
        is_array = kind == ARRAY
        if is_array:
            kind, count = self.number("I"), self.number("Q")
        if kind == STRING:
            self.require(8 * count)
            values = [self.text() for _ in range(count)]
        elif kind in SCALARS:
            values = self.numbers(SCALARS[kind], count)
        else:
            raise InputError(f"a value or array of type {kind} is not in GGUF.")
        return values if is_array else values[0]

    def tensor(self) -> Tensor:
        """Read a tensor; it starts at its offset in the data until `place` is called."""
        dimensions = self.number("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise InputError(f"it has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}.")
        shape = self.numbers("Q", dimensions)
        kind, offset = GGMLQuantizationType(self.number("I")), self.number("Q")
        block, nbytes = GGML_QUANT_SIZES[kind]
        if shape[0] % block:
            raise InputError(
                f"it has rows of {shape[0]}, but {kind.name} stores blocks of {block}."
            )
        return Tensor(kind, tuple(reversed(shape)), offset, math.prod(shape) // block * nbytes)

    def place(self, tensors: dict[str, Tensor], alignment: Any) -> dict[str, Tensor]:
        """Place the tensors in the file; raise InputError where they do not fit or overlap."""
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise InputError(f"general.alignment must be a power of two, it is {shown(alignment)}.")
        data = end = -(-self.at // alignment) * alignment
        placed = {}
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
            start = data + tensor.start
            if start % alignment or start < end or start + tensor.nbytes > len(self.data):
                raise InputError(
                    f"tensor {shown(name)} is at {start:,}, which is not a multiple of "
                    f"{alignment}, in the tensor before it, or beyond the end of the file."
                )
            end = start + tensor.nbytes
            placed[name] = tensor._replace(start=start)
        return placed
