"""Find the path that a layer-edited model is of its base model, by the digests of its layers."""

import hashlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cola_jax.checkpoint import read_metadata, restore_weights
from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, check_belongs, count, shorten
from cola_jax.formats.conversion import locate
from cola_jax.formats.table import OUTPUTS, Row, Source, expected, read_floats
from cola_jax.params import field_of, kind_of_weight, shapes
from cola_jax.path import LayerPath
from cola_jax.progress import log
from cola_jax.question import digest
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, layer_of

# fields of a config that a path changes, or that change no result
FREE = (
    *("num_layers", "windows", "layer_ropes", "layer_kinds", "keys_of", "rooted_scales"),
    *("context", "model_type"),
)
Digests = dict[str, list[str]]  # of each weight and layer attribute: one a layer, or one in all


def path_of_model(model: str, directory: str | os.PathLike[str]) -> tuple[LayerPath, str]:
    """Return the path whose layers are those of an edited model, and the digest of that model.

    `model` is a Hub id, a directory in Hugging Face layout or a .gguf file, `directory` the
    checkpoint of its base. Reads one tensor of the model at a time, and compares in the dtype of
    the checkpoint. Of equal layers of the base, the path takes the one after its previous layer
    where there is one. A layer in which zeros are the output of the attention or of the MLP, as
    `cola export` writes, runs the other part alone. Raises InputError for a model that is not made
    of layers of the base, with the layers and tensors that differ.
    """
    metadata = read_metadata(directory)
    if metadata.get("scales"):
        raise InputError(
            f"{directory} has layers of int8, which no model can be compared with: give --model "
            "in another --dtype."
        )
    log.info("comparing the layers of %s with those of the base model", model)
    base = ModelConfig.from_json(metadata["config"])
    source = locate(model).open()
    if base.layer_input:
        raise InputError(
            f"the layers of {directory} have embeddings in one tensor, by which no model is "
            "compared: give its path as the claim."
        )
    action = "give as --model the one whose layers were edited"
    check_belongs(model, fixed_fields(source.config), str(directory), fixed_fields(base), action)
    dtype = np.dtype(metadata["dtype"])
    if not np.can_cast(dtype, source.dtype):
        action += f", converted with `cola convert --dtype {source.dtype}` as these were rounded"
    theirs = layer_attributes(source.config) | source_digests(model, source, dtype)
    ours = layer_attributes(base) | stored_digests(directory, metadata, source.rows)
    shared = {row.ours: row.theirs for row in source.rows if not of_layers(row)}
    if other := [shared[name] for name in shared if theirs[name] != ours[name]]:
        raise InputError(f"{model} differs from {directory} in {shorten(other)}: {action}.")
    names = {row.ours: tensor_name(row) for row in source.rows if of_layers(row)}
    names |= {name: name for name in layer_attributes(base)}
    edited = digests_by_layer(source.config, names, theirs)
    outputs = {
        part: {name: zeros_digest(base, name, dtype) for name in names if field_of(name) in fields}
        for part, fields in OUTPUTS.items()
    }
    path, foreign = match_layers(names, edited, digests_by_layer(base, names, ours), outputs)
    if foreign:
        raise InputError(
            f"{model} has {count(len(foreign), 'layer')} that {directory} lacks: "
            f"{'; '.join(foreign[:4])}{'; ...' * (len(foreign) > 4)}: {action}."
        )
    return path, digest(source.config.to_json(), theirs)


def fixed_fields(config: ModelConfig) -> dict[str, str]:
    """Return the fields of a config that any path of the model shares, as texts."""
    return {name: str(x) for name, x in config.fields().items() if name not in FREE}


def layer_attributes(config: ModelConfig) -> Digests:
    """Return the attributes that layers have in the config."""
    columns = zip(*config.layer_attributes, strict=True)
    named = zip(("attention window", "rotary embedding", "kind of layer"), columns, strict=True)
    return {name: list(map(str, column)) for name, column in named}


def of_layers(row: Row) -> bool:
    """Return whether each layer has a weight of a row."""
    return "{i}" in row.theirs


def tensor_name(row: Row) -> str:
    """Return the name of a weight within its layer."""
    return row.theirs.partition("{i}.")[2].replace("{e}", "*")


def source_digests(model: str, source: Source, dtype: np.dtype) -> Digests:
    """Return the digests of a source's weights in our layout and a dtype, tensor by tensor."""
    digests = {}
    for row in source.rows:
        hashes = defaultdict(hashlib.sha256)
        for index, name, _ in expected(row, source.config):  # the experts of a layer in order
            values = exact(model, name, read_floats(source, row, name), dtype)
            content = values.tobytes() if values.any() else bytes(values.nbytes)  # not of -0
            hashes[index[0] if of_layers(row) else 0].update(content)
        digests[row.ours] = [done.hexdigest() for done in hashes.values()]
    return digests


def exact(model: str, name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast a tensor to the dtype of the checkpoint; InputError where that rounds a value."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype, copy=False)
        restored = cast.astype(values.dtype, copy=False)
    if not np.array_equal(restored, values):
        raise InputError(
            f"{model} is stored as {values.dtype}, and the base model as {dtype}, which cannot "
            f"hold {name} exactly: run `cola convert BASE DESTINATION --dtype {values.dtype}`, "
            "and give DESTINATION as --model."
        )
    return cast


def stored_digests(
    directory: str | os.PathLike[str], metadata: dict[str, Any], rows: Sequence[Row]
) -> Digests:
    """Return the digests of a checkpoint's weights, one stacked weight at a time."""
    layered = {row.ours: of_layers(row) for row in rows}
    digests = {}
    for name, weight in restore_weights(directory, metadata):
        layers = np.asarray(weight) if layered[name] else np.asarray(weight)[None]
        digests[name] = [hashlib.sha256(layer.tobytes()).hexdigest() for layer in layers]
    return digests


def digests_by_layer(
    config: ModelConfig, names: Iterable[str], digests: Digests
) -> list[tuple[str, ...]]:
    """Return the digests of each layer, in the order of names; "" where its kind lacks a weight."""
    attributes = layer_attributes(config)
    places = config.stack_index
    names = list(names)

    def of_layer(layer: int, name: str) -> str:
        if name in attributes:
            return digests[name][layer]
        of_kind = kind_of_weight(name) == config.kind_of(layer)
        return digests[name][places[layer]] if of_kind else ""

    return [tuple(of_layer(i, n) for n in names) for i in range(config.num_layers)]


def zeros_digest(config: ModelConfig, name: str, dtype: np.dtype) -> str:
    """Return the digest of a weight of one layer that is zeros."""
    size = math.prod(shapes(config)[name][1:]) * dtype.itemsize
    return hashlib.sha256(bytes(size)).hexdigest()


def match_layers(
    names: dict[str, str],
    edited: list[tuple[str, ...]],
    base: list[tuple[str, ...]],
    outputs: Mapping[int, Mapping[str, str]],
) -> tuple[LayerPath, list[str]]:
    """Return the base's step of each layer of a model, and descriptions of those without one.

    `outputs` are for each part the digests of zeros in the place of the weights of its output.
    """
    ids = ids_of(base)
    without = {part: ids_of(left_out(base, names, outputs[part])) for part in outputs}
    path: list[int] = []
    foreign = []
    for place, layer in enumerate(edited):
        found = {WHOLE: ids.get(layer, [])}
        for missing, kept in ((ATTENTION, MLP), (MLP, ATTENTION)):
            zeros = outputs[missing]
            own = {name: x for name, x in zip(names, layer, strict=True) if name in zeros and x}
            (rest,) = left_out([layer], names, zeros)
            if own and all(x == zeros[name] for name, x in own.items()):
                found[kept] = without[missing].get(rest, [])
        part = next((part for part, layers in found.items() if layers), None)
        if part is None:
            foreign.append(f"layer {place} differs from {nearest_layer(place, layer, base, names)}")
            continue
        following = layer_of(path[-1]) + 1 if path else 0
        path.append(Step(following if following in found[part] else found[part][0], part).id)
    return tuple(path), foreign


def ids_of(layers: list[tuple[str, ...]]) -> dict[tuple[str, ...], list[int]]:
    """Return the ids of layers by their digests."""
    ids = defaultdict(list)
    for i, layer in enumerate(layers):
        ids[layer].append(i)
    return dict(ids)


def left_out(
    layers: list[tuple[str, ...]], names: Iterable[str], outputs: Collection[str]
) -> list[tuple[str, ...]]:
    """Return the digests of layers without those of the outputs of a part."""
    kept = [name not in outputs for name in names]
    return [tuple(itertools.compress(layer, kept)) for layer in layers]


def nearest_layer(
    place: int, layer: tuple[str, ...], base: list[tuple[str, ...]], names: dict[str, str]
) -> str:
    """Describe the base's layer that has most in common with one at a place, and differences."""
    differing = [
        [name for name, a, b in zip(names.values(), layer, other, strict=True) if a != b]
        for other in base
    ]
    nearest = min(range(len(base)), key=lambda i: (len(differing[i]), abs(i - place)))
    return f"layer {nearest} in {shorten(differing[nearest], 3)}"
