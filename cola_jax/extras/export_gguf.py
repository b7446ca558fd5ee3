"""Export a path of a GGUF file as another: tensors are copied as they are and renumbered."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter, ReaderTensor

from cola_jax.checkpoint import (
    arrays_of,
    bit_sum,
    read_metadata,
    restore_weights,
    stored_dtype,
)
from cola_jax.config import ModelConfig
from cola_jax.deploy import check_no_shares, exporting
from cola_jax.errors import InputError, check_belongs, shown
from cola_jax.formats import LARGEST, Row, is_left_out, open_gguf, read_file, stack
from cola_jax.params import INT8, Int8, kind_of_weight
from cola_jax.path import format_path, is_whole_path, validate
from cola_jax.progress import log
from cola_jax.steps import layer_of
from cola_jax.storage import AnyPath

# llama.cpp treats the layers of these alike, whatever their place
UNIFORM = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "olmoe", "phi3", "minimax-m2")
# of these, every n-th layer has full attention, by its place, and the others do not
PERIODS = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "qwen35": 4, "qwen35moe": 4}
FURTHER = "nextn_predict_layers"  # at the end, which predict further tokens
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
PATH_KEY = "cola.path"  # for people; no reader depends on it
BASE_MODEL = "general.base_model."
WRITTEN = ("general.architecture", PATH_KEY)  # keys that are not copied
FREE = ("context", "model_type", "rooted_scales")  # fields of a config that are not the file's
ORIGINAL = "give the .gguf file that the model was converted from, or search this one"


class Placed(NamedTuple):
    """A tensor to write: its new name, that of the source, and whether zeros take its place."""

    name: str
    tensor: ReaderTensor
    is_zeros: bool = False


def export_gguf(
    source: Path,
    path: Sequence[int],
    destination: AnyPath,
    checkpoint: AnyPath | None = None,
) -> None:
    """Write a GGUF file whose layers are those of a path, without requantising anything.

    Where a step lacks a part, the tensors of the output of this part are zeros.
    All keys are copied, the license among them, and the source is recorded as the base model.
    Layers that predict further tokens are left out. The path is one of `checkpoint`, which must be
    converted from the source; without it, of the source alone.
    Raises InputError, before any work, if the destination exists, the source is not a whole GGUF
    file of a supported architecture or not that of the checkpoint, or llama.cpp would treat a layer
    differently at its new place.
    """
    with exporting(destination, folder=False) as file:
        reader = read_file(source)
        architecture = str(field_value(reader, "general.architecture"))
        check_architecture(source, reader, architecture)
        layers = size_of(source, reader, f"{architecture}.block_count")
        layers -= size_of(source, reader, f"{architecture}.{FURTHER}", 0)
        path = validate(path, layers)
        check_no_shares(path)
        interval = f"{architecture}.full_attention_interval"
        period = PERIODS.get(architecture, 1)
        period = max(1, size_of(source, reader, interval, period))
        check_places(path, architecture, layers, period)
        if checkpoint is not None:
            check_original(source, checkpoint)
        rows = () if is_whole_path(path) else open_gguf(source).rows
        placed = list(place_tensors(source, reader, path, rows))
        writer = GGUFWriter(file, architecture, endianess=reader.endianess)
        copy_metadata(reader, writer, architecture, path)
        writer.data_alignment = reader.alignment
        copy_tensors(placed, writer, reader.endianess)
        writer.close()


def check_original(source: Path, checkpoint: AnyPath) -> None:
    """Raise InputError for a GGUF file that a checkpoint was not converted from.

    Converts each weight as those of the checkpoint were, and compares its digest.
    """
    log.info("comparing the layers of %s with those of %s", source, checkpoint)
    opened = open_gguf(source)
    metadata = read_metadata(checkpoint)
    config = ModelConfig.from_json(metadata["config"])
    theirs, ours = (
        {name: str(value) for name, value in each.fields().items() if name not in FREE}
        for each in (opened.config, config)
    )
    check_belongs(str(source), theirs, str(checkpoint), ours, ORIGINAL)
    rows = {row.ours: row for row in opened.rows}
    int8 = stored_dtype(metadata) == INT8
    for name, weight in stack(opened, np.dtype(metadata["dtype"]), int8=int8):
        sums = {key: bit_sum(array) for key, array in arrays_of(name, weight).items()}
        if any(metadata["sums"].get(key) != total for key, total in sums.items()):
            restored = restore_weights(checkpoint, metadata)
            stored = next(other for key, other in restored if key == name)
            raise InputError(
                f"{source} is not the file that {checkpoint} was converted from: it differs in "
                f"{describe_layers(rows[name], config, weight, stored)}. {ORIGINAL.capitalize()}."
            )


def describe_layers(row: Row, config: ModelConfig, weight: np.ndarray | Int8, stored: Any) -> str:
    """Name the tensor of a weight that differs from another, and the layers where it does."""
    if "{i}" not in row.theirs:
        return row.theirs
    ours, theirs = (arrays_of(row.ours, each) for each in (weight, stored))
    layers = [
        layer
        for place, layer in enumerate(config.layers_of(kind_of_weight(row.ours)))
        if any(not np.array_equal(ours[key][place], theirs[key][place]) for key in ours)
    ]
    return f"{row.theirs.partition('{i}.')[2]} (layers {format_path(layers)})"


def field_value(reader: GGUFReader, key: str) -> Any:
    """Return the value of a key, None where the file lacks it."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def size_of(source: Path, reader: GGUFReader, key: str, default: int | None = None) -> int:
    """Return a size; InputError if the file lacks it and there is no default."""
    value = field_value(reader, key)
    value = default if value is None else value
    if type(value) is not int or value < 0:
        raise InputError(f"{source} has no {key}, or {shown(value)}: it is not a whole model.")
    return value


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


def check_places(path: Sequence[int], architecture: str, layers: int, period: int) -> None:
    """Raise InputError where llama.cpp would run a layer of the path differently at its place."""
    start = f"path {format_path(path)} cannot be written as GGUF"
    for place, layer in enumerate(map(layer_of, path)):
        if (layer % period == period - 1) != (place % period == period - 1):
            raise InputError(
                f"{start}: in {architecture} files one layer in {period} has full attention, by "
                f"its place, but layer {layer} would run at place {place}. Export with --format hf."
            )
    largest = LARGEST.get(architecture)
    if (layers == largest) != (len(path) == largest):
        raise InputError(
            f"{start}: llama.cpp scales the queries of {architecture} files of {largest} layers "
            f"differently, and the original has {layers}. Export with --format hf."
        )


def copy_metadata(
    reader: GGUFReader, writer: GGUFWriter, architecture: str, path: Sequence[int]
) -> None:
    """Copy all keys but those of the source's own base model; lists of layers follow the path."""
    count = f"{architecture}.block_count"
    layers = field_value(reader, count)
    for field in reader.fields.values():
        written = (*WRITTEN, f"{architecture}.{FURTHER}")
        if field.name.startswith(("GGUF.", BASE_MODEL)) or field.name in written:
            continue
        kind = field.types[0]
        contents = field.contents()
        items = None
        if field.name == count:
            contents = len(path)
        elif kind == GGUFValueType.ARRAY:
            items = field.types[-1]
            if field.name.startswith(f"{architecture}.") and len(contents) == layers:
                contents = [contents[layer_of(step)] for step in path]
        writer.add_key_value(field.name, contents, kind, items)
    writer.add_string(PATH_KEY, format_path(path))
    if name := field_value(reader, "general.name"):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)


def copy_tensors(placed: list[Placed], writer: GGUFWriter, endianess: GGUFEndian) -> None:
    """Copy tensors from file to file one by one; nothing is held in memory."""
    for name, tensor, _ in placed:
        data = tensor.data
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor, is_zeros in placed:
        # of every type: values are a multiple of a scale, which then is zero, or are bits
        data = np.zeros_like(tensor.data) if is_zeros else tensor.data
        writer.write_tensor_data(data, tensor_endianess=endianess)


def place_tensors(
    source: Path, reader: GGUFReader, path: Sequence[int], rows: Sequence[Row]
) -> Iterator[Placed]:
    """Yield the tensors to write under their new names: those of no layer, then by place.

    `rows` are those of the file, where a step of the path lacks a part. Raises InputError if the
    file lacks a layer of the path.
    """
    layers: dict[int, list[tuple[str, ReaderTensor]]] = {}
    for tensor in reader.tensors:
        match = BLOCK.fullmatch(tensor.name)
        if match:
            layers.setdefault(int(match[1]), []).append((match[2], tensor))
        else:
            yield Placed(tensor.name, tensor)
    for place, step in enumerate(path):
        layer = layer_of(step)
        left_out = {row.theirs.partition("{i}.")[2] for row in rows if is_left_out(row, step)}
        if layer not in layers:
            raise InputError(f"{source} has no tensors of layer {layer}: it is not a whole model.")
        for name, tensor in layers[layer]:
            yield Placed(f"blk.{place}.{name}", tensor, name in left_out)
