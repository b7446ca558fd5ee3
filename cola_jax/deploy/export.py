"""Exports a path of a checkpoint as a Hugging Face model, or as a mergekit recipe."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.deploy.adapter import check_replication, write_adapter
from cola_jax.deploy.destination import check_empty, exporting, real_path
from cola_jax.deploy.model_card import Card, ReportedEffect
from cola_jax.deploy.shards import plan_shards, write_shards
from cola_jax.errors import InputError, shown
from cola_jax.files import read_json
from cola_jax.formats.hf_config import read_config, select_layers, write_config
from cola_jax.formats.huggingface import GENERATION
from cola_jax.formats.peers import mergekit_config
from cola_jax.formats.table import Row, expected, unstack
from cola_jax.int8 import cast
from cola_jax.params import shapes
from cola_jax.path import format_path, parse_path, parse_path_of, validate

BASE = "base"  # folder of the layers that an adapter runs
OnProgress = Callable[[int, int], None]


class Selected(NamedTuple):
    """The layers of a checkpoint that are written, in order, and the model that they make."""

    layers: tuple[int, ...]
    config: ModelConfig  # of the model that is written
    values: dict[str, Any]  # of its config.json
    rows: tuple[Row, ...]


def read_path(text: str, num_layers: int) -> tuple[int, ...]:
    """Reads a path from its text form, or from the field `path` of a JSON file.

    Raises ValueError if the file has no such field, or the path does not fit the model.
    """
    if not text.endswith(".json"):
        return parse_path(text, num_layers)
    path = read_json(Path(text)).get("path")
    if not isinstance(path, str):
        raise InputError(
            f"{text} has no path: the field path must be a text such as 0-5,7-29, it is "
            f"{shown(path)}."
        )
    return parse_path_of(text, path, num_layers)


def export(
    directory: epath.PathLike,
    path: tuple[int, ...],
    destination: Path,
    *,
    command: str,
    share: bool = False,
    effect: ReportedEffect | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> None:
    """Writes the model that a path makes of a checkpoint, in Hugging Face layout.

    Args:
      directory: the checkpoint, as `cola convert` makes it.
      path: ids of its layers, in the order in which they run.
      destination: directory to create; it appears only when complete.
      command: what made the export, for the model card.
      share: store a layer that runs several times once, as the base model of a PEFT adapter.
      effect: what the path changes, for the model card.
      on_progress: called with the bytes of weights written so far and the total.

    Raises:
      ValueError: before any work, if the destination has contents or is inside the checkpoint, or
        if the format cannot express the path.

    Holds one stacked weight and one file of weights at a time.
    """
    metadata = checkpoint.read_metadata(directory)
    config = ModelConfig.from_json(metadata["config"])
    path = validate(path, config.num_layers)
    check_empty(destination, Path(directory))
    model = checkpoint.model_digest(metadata)
    card = Card(path, config.num_layers, metadata["origin"], command, effect, model)
    if share:
        export_shared(directory, metadata, card, destination, on_progress)
        return
    selected = choose_layers(config, path, metadata["dtype"])
    with exporting(destination) as folder:
        write_checkpoint(directory, metadata, selected, folder, on_progress)
        (folder / "README.md").write_text(card.markdown(), encoding="utf-8")


def export_shared(
    directory: epath.PathLike,
    metadata: dict[str, Any],
    card: Card,
    destination: Path,
    on_progress: OnProgress,
) -> None:
    """Writes a PEFT adapter that repeats layers of a base model.

    The base is the original on the Hub where the checkpoint came from there, else a model of the
    layers that the path runs, each once, in the folder `base` beside the adapter.
    """
    if len(set(card.path)) == len(card.path):
        raise InputError(
            f"path {format_path(card.path)} runs no layer twice, so there is nothing to share: "
            "export without --share."
        )
    origin = metadata["origin"]
    on_hub = origin["kind"] == "hub"
    layers = tuple(range(card.num_layers)) if on_hub else tuple(sorted(set(card.path)))
    config = ModelConfig.from_json(metadata["config"])
    base = choose_layers(config, layers, metadata["dtype"])
    within = tuple(layers.index(layer) for layer in card.path)
    check_replication(base.config, within, format_path(card.path))
    name = origin["name"] if on_hub else str(real_path(destination) / BASE)
    where = origin["name"] if on_hub else f"THIS_FOLDER/{BASE}"
    text = dataclasses.replace(card, base=where).markdown()
    with exporting(destination) as folder:
        if not on_hub:
            write_checkpoint(directory, metadata, base, folder / BASE, on_progress)
        write_adapter(folder, within, base.config, name, origin["revision"])
        (folder / "README.md").write_text(text, encoding="utf-8")


def choose_layers(config: ModelConfig, layers: tuple[int, ...], dtype: str) -> Selected:
    """Chooses the layers to write; raises ValueError where config.json cannot describe them."""
    values = write_config(select_layers(config, layers), dtype)
    written, rows = read_config(values)
    return Selected(layers, written, values, rows)


def write_checkpoint(
    directory: epath.PathLike,
    metadata: dict[str, Any],
    selected: Selected,
    folder: Path,
    on_progress: OnProgress,
) -> None:
    """Writes layers of a checkpoint, and its tokenizer, into a new or empty directory."""
    folder.mkdir(exist_ok=True)
    copy_files(checkpoint.absolute(directory) / checkpoint.TOKENIZER, folder)
    tokens = special_tokens(directory, metadata)
    (folder / GENERATION).write_text(json.dumps(tokens, indent=2) + "\n")
    stored, dtype = checkpoint.restore_weights(directory, metadata), metadata["dtype"]
    weights = ((name, cast(name, weight, dtype)) for name, weight in stored)
    write_model(folder, selected, weights, tokens, on_progress)


def write_model(
    folder: Path,
    selected: Selected,
    weights: Iterable[tuple[str, Any]],
    tokens: dict[str, Any],
    on_progress: OnProgress,
) -> None:
    """Writes config and weights; `weights` are by field name, stacked over all layers."""
    (folder / "config.json").write_text(json.dumps(selected.values | tokens, indent=2) + "\n")
    sizes = tensor_sizes(selected)
    total, done = sum(sizes.values()), 0

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal done
        arrays = ((name, np.asarray(weight)) for name, weight in weights)
        for name, array in unstack(arrays, selected.rows, selected.config, selected.layers):
            yield name, array
            done += array.nbytes
            on_progress(done, total)

    write_shards(folder, tensors(), plan_shards(sizes))


def tensor_sizes(selected: Selected) -> dict[str, int]:
    """Returns the bytes of every tensor, in the order of `params.shapes`."""
    table = {row.ours: row for row in selected.rows}
    itemsize = jnp.dtype(selected.values["dtype"]).itemsize
    return {
        name: math.prod(shape) * itemsize
        for field in shapes(selected.config)
        for _, name, shape in expected(table[field], selected.config)
    }


def copy_files(source: epath.Path, folder: Path) -> None:
    """Copies the files of a tokenizer, if there are any."""
    for file in source.iterdir() if source.is_dir() else ():
        (folder / file.name).write_bytes(file.read_bytes())


def special_tokens(directory: epath.PathLike, metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the ids of the tokens that begin, end and pad a text, null for what is unknown.

    A family's defaults in transformers would be another vocabulary's.
    """
    try:
        tokenizer = checkpoint.load_tokenizer(directory)
    except ValueError:
        tokenizer = None
    stops = metadata.get("stop_tokens") or [getattr(tokenizer, "eos_token_id", None)]
    return {
        "bos_token_id": getattr(tokenizer, "bos_token_id", None),
        "eos_token_id": stops if len(stops) > 1 else stops[0],
        "pad_token_id": metadata.get("pad_token"),
    }


def write_recipe(path: Sequence[int], config: ModelConfig, model: str, destination: Path) -> None:
    """Writes a path as a passthrough merge of layer ranges, for `mergekit-yaml`.

    Args:
      path: ids of the layers of the original, whose config is `config`.
      model: what mergekit calls it: a Hub id, with `@revision` for one, or a directory.
      destination: file to create.

    Raises:
      ValueError: if the destination exists, or if the layers of the model differ in their kind of
        attention. mergekit sets `num_hidden_layers` and copies the rest of config.json, so the
        windows would stay where they were while the layers move.
    """
    check_empty(destination)
    if len({*zip(config.windows, config.layer_ropes, strict=True)}) > 1:
        raise InputError(
            f"path {format_path(path)} cannot be written as a mergekit recipe: the layers of this "
            "model differ in window or rotary embedding, which mergekit does not move with them. "
            "Export with --format hf."
        )
    text = mergekit_config(path, model)
    with exporting(destination, folder=False) as file:
        file.write_text(text, encoding="utf-8")
