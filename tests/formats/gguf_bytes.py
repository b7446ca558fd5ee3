"""Write GGUF files by hand, field by field, so that any of them may be wrong."""

import struct
from typing import Any

from cola_jax.formats.gguf_header import SCALARS, STRING


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + value


def tensor(
    name: bytes = b"x", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0
) -> bytes:
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return text(name) + numbers


def gguf(
    fields: Any = (),
    tensors: Any = (),
    data: bytes = b"",
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Return a file; `counts` of tensors and fields may differ from the contents."""
    tensor_count, field_count = counts or (len(tensors), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, tensor_count, field_count)
    head += b"".join((*fields, *tensors))
    return head + bytes(-len(head) % 32) + data


def item(kind: int, value: Any) -> bytes:
    """Return a string or a number as it is stored."""
    if kind == STRING:
        return text(str(value).encode("utf-8", "surrogatepass"))
    return struct.pack(f"<{SCALARS[kind]}", value)
