"""Read the header of a GGUF file, checking every length in it against the file before using it."""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from cola_jax.errors import InputError, reading, shown
from cola_jax.files import is_file

VERSIONS = (2, 3)
# of struct, by type
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
STRING = 8
ARRAY = 9


class Tensor(NamedTuple):
    """The type, shape and place of a tensor."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # the outermost axis first
    start: int  # in the data, or in the file
    nbytes: int


class HeaderReader:
    """Read the values of a header one after the other; `at` is the next byte.

    struct checks the length of whatever it unpacks before it allocates anything.
    """

    def __init__(self, data: mmap.mmap, at: int):
        self.data = data
        self.at = at

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        """Read numbers of a struct format."""
        values = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return values

    def text(self) -> str:
        """Read a string."""
        return self.numbers("s", *self.numbers("Q"))[0].decode()

    def value(self) -> Any:
        """Read the value of a key."""
        (kind,) = self.numbers("I")
        count = 1
        is_array = kind == ARRAY
        if is_array:
            (kind,) = self.numbers("I")
            (count,) = self.numbers("Q")
        if kind == STRING:
            values = [self.text() for _ in range(count)]
        elif kind in SCALARS:
            values = list(self.numbers(SCALARS[kind], count))
        else:
            raise InputError(f"a value or array of type {kind} is not in GGUF.")
        return values if is_array else values[0]

    def tensor(self) -> Tensor:
        """Read a tensor, which starts at an offset in the data."""
        shape = self.numbers("Q", *self.numbers("I"))
        kind = GGMLQuantizationType(*self.numbers("I"))
        (offset,) = self.numbers("Q")
        block, nbytes = GGML_QUANT_SIZES[kind]
        if shape[0] % block:
            raise InputError(f"it has rows of {shape[0]}, but {kind.name} has blocks of {block}.")
        return Tensor(kind, shape[::-1], offset, math.prod(shape) // block * nbytes)


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the metadata and the places of the tensors, each by name, as ggml's docs/gguf.md says.

    Every length is checked against the file before it is used: InputError where they disagree.
    """
    if not is_file(file):
        raise InputError(f"{file} does not exist: give a .gguf file.")
    with (
        reading(file, "It is damaged or truncated: download it again."),
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        if data[:4] != b"GGUF":
            raise InputError(f"it is not a GGUF file: it begins with {shown(data[:4])}.")
        header = HeaderReader(data, at=4)
        (version,) = header.numbers("I")
        tensor_count, field_count = header.numbers("Q", 2)
        if version not in VERSIONS:
            raise InputError(f"it has GGUF version {version}; {VERSIONS} can be read.")
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = header.text()
            with reading(f"the value of {shown(key)}"):
                fields[key] = header.value()
        tensors: dict[str, Tensor] = {}
        for _ in range(tensor_count):
            name = header.text()
            with reading(f"tensor {shown(name)}"):
                tensors[name] = header.tensor()
        alignment = fields.get("general.alignment", 32)
        start = -(-header.at // alignment) * alignment  # of the data
        if type(start) is not int or start < header.at:
            raise InputError(
                f"general.alignment must be a positive integer, got {shown(alignment)}."
            )
        for name, tensor in tensors.items():
            if start + tensor.start + tensor.nbytes > len(data):
                raise InputError(f"tensor {shown(name)} reaches beyond the end of the file.")
            tensors[name] = tensor._replace(start=start + tensor.start)
        return fields, tensors
