"""Export a path of a GGUF file as another: tensors are copied as they are and renumbered."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter, ReaderTensor

from cola_jax.deploy.export import exporting
from cola_jax.errors import InputError
from cola_jax.formats.gguf import GEMMA3_27B, read_file
from cola_jax.path import format_path, validate
from cola_jax.storage import AnyPath

# llama.cpp treats the layers of these alike, whatever their place
UNIFORM = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "olmoe")
# of these, every n-th layer has full attention, by its place, and the others a window
PERIODS = {"gemma3": 6}
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
PATH_KEY = "cola.path"  # for people; no reader depends on it
BASE_MODEL = "general.base_model."
WRITTEN = ("general.architecture", PATH_KEY)  # keys that are not copied


def export_gguf(source: Path, path: Sequence[int], destination: AnyPath) -> None:
    """Write a GGUF file whose layers are those of a path, without requantising anything.

    All keys are copied, the license among them, and the source is recorded as the base model.
    Raises InputError, before any work, if the destination exists, the source is not a whole GGUF
    file of a supported architecture, or llama.cpp would treat a layer differently at its new place.
    """
    with exporting(destination, folder=False) as file:
        reader = read_file(source)
        architecture = str(field_value(reader, "general.architecture"))
        check_architecture(source, reader, architecture)
        layers = int(field_value(reader, f"{architecture}.block_count"))
        path = validate(path, layers)
        check_places(path, architecture, layers)
        placed = list(place_tensors(source, reader, path))
        writer = GGUFWriter(file, architecture, endianess=reader.endianess)
        copy_metadata(reader, writer, architecture, path)
        writer.data_alignment = reader.alignment
        copy_tensors(placed, writer, reader.endianess)
        writer.close()


def field_value(reader: GGUFReader, key: str) -> Any:
    """Return the value of a key, None where the file lacks it."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def check_architecture(source: Path, reader: GGUFReader, architecture: str) -> None:
    """Raise InputError for an architecture that is not known to be safe, or a part of a model."""
    if architecture not in (*UNIFORM, *PERIODS):
        raise InputError(
            f"{source} has architecture {architecture!r}, whose layers llama.cpp may treat by "
            f"their place. Supported: {', '.join((*UNIFORM, *PERIODS))}."
        )
    if (field_value(reader, "split.count") or 1) > 1:
        raise InputError(
            f"{source} is one of several files of a model: join them with "
            "`llama-gguf-split --merge` first."
        )
    if type(field_value(reader, f"{architecture}.block_count")) is not int:
        raise InputError(f"{source} has no {architecture}.block_count: it is not a whole model.")


def check_places(path: Sequence[int], architecture: str, layers: int) -> None:
    """Raise InputError where llama.cpp would run a layer of the path differently at its place."""
    period = PERIODS.get(architecture)
    if period is None:
        return
    for place, layer in enumerate(path):
        if (layer % period == period - 1) != (place % period == period - 1):
            raise InputError(
                f"path {format_path(path)} cannot be written as GGUF: in {architecture} files "
                f"every {period}th layer has full attention and the others a window, by their "
                f"place, but layer {layer} would run at place {place}. Export with --format hf."
            )
    if (layers == GEMMA3_27B) != (len(path) == GEMMA3_27B):
        raise InputError(
            f"path {format_path(path)} cannot be written as GGUF: llama.cpp scales the queries of "
            f"{architecture} files of {GEMMA3_27B} layers differently, and the original has "
            f"{layers}. Export with --format hf."
        )


def copy_metadata(
    reader: GGUFReader, writer: GGUFWriter, architecture: str, path: Sequence[int]
) -> None:
    """Copy all keys but those of the source's own base model; lists of layers follow the path."""
    count = f"{architecture}.block_count"
    layers = field_value(reader, count)
    for field in reader.fields.values():
        if field.name.startswith(("GGUF.", BASE_MODEL)) or field.name in WRITTEN:
            continue
        kind, contents, items = field.types[0], field.contents(), None
        if field.name == count:
            contents = len(path)
        elif kind == GGUFValueType.ARRAY:
            items = field.types[-1]
            if field.name.startswith(f"{architecture}.") and len(contents) == layers:
                contents = [contents[layer] for layer in path]
        writer.add_key_value(field.name, contents, kind, items)
    writer.add_string(PATH_KEY, format_path(path))
    if name := field_value(reader, "general.name"):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)


def copy_tensors(
    placed: list[tuple[str, ReaderTensor]], writer: GGUFWriter, endianess: GGUFEndian
) -> None:
    """Copy tensors from file to file one by one; nothing is held in memory."""
    for name, tensor in placed:
        data = tensor.data
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in placed:
        writer.write_tensor_data(tensor.data, tensor_endianess=endianess)


def place_tensors(
    source: Path, reader: GGUFReader, path: Sequence[int]
) -> Iterator[tuple[str, ReaderTensor]]:
    """Yield the tensors to write under their new names: those of no layer, then by place.

    Raises InputError if the file lacks a layer of the path.
    """
    layers: dict[int, list[tuple[str, ReaderTensor]]] = {}
    for tensor in reader.tensors:
        match = BLOCK.fullmatch(tensor.name)
        if match:
            layers.setdefault(int(match[1]), []).append((match[2], tensor))
        else:
            yield tensor.name, tensor
    for place, layer in enumerate(path):
        if layer not in layers:
            raise InputError(f"{source} has no tensors of layer {layer}: it is not a whole model.")
        for name, tensor in layers[layer]:
            yield f"blk.{place}.{name}", tensor
