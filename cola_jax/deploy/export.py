"""Export a path of a checkpoint as a Hugging Face model, or as a recipe for mergekit."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.numpy import save

from cola_jax import checkpoint, files
from cola_jax.config import ModelConfig
from cola_jax.deploy.effect import ReportedEffect
from cola_jax.deploy.model_card import model_card, write_eval_results
from cola_jax.errors import InputError
from cola_jax.files import check_apart, check_writable, exists
from cola_jax.formats.config_json import model_type_of, select_layers, write_config
from cola_jax.formats.families import FAMILIES, read_config
from cola_jax.formats.huggingface import GENERATION, INDEX
from cola_jax.formats.peers import mergekit_config
from cola_jax.formats.table import OUTPUTS, Row, expected, output_names, unstack
from cola_jax.params import cast, field_of, kind_of_weight, scale_of, shapes
from cola_jax.path import LayerPath, format_path, validate
from cola_jax.progress import OnProgress, ignore_progress
from cola_jax.steps import has_share, layer_of
from cola_jax.storage import AnyPath

SHARD_BYTES = 2**30


class Selected(NamedTuple):
    """The layers of a checkpoint that are written, in order, and the model that they make."""

    path: LayerPath  # layers, of which some may lack a part
    places: tuple[int, ...]  # of these in the stacks of their kinds
    config: ModelConfig  # of the model that is written
    values: dict[str, Any]  # of its config.json
    rows: tuple[Row, ...]


def export(
    directory: epath.PathLike,
    path: LayerPath,
    destination: AnyPath,
    *,
    effects: Sequence[ReportedEffect] = (),
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Write the model that a path makes of a checkpoint, in Hugging Face layout.

    Where a step lacks its attention or MLP, the weights of the output of this part are zeros.
    Holds one stacked weight and copies of one file of weights at a time; the destination appears
    only when complete.

    Args:
      effects: the measured effects of the path, for the model card and `.eval_results`.
      on_progress: called with the bytes of weights written so far and the total.

    Raises InputError, before any work, if the destination has contents or is inside the checkpoint,
    or if the format cannot express the path.
    """
    metadata = checkpoint.read_metadata(directory)
    config = ModelConfig.from_json(metadata["config"])
    path = validate(path, config.num_layers)
    with exporting(destination, Path(directory)) as folder:
        selected = choose_layers(config, path, metadata["dtype"])
        write_checkpoint(directory, metadata, selected, folder, on_progress)
        model_card(metadata, path, effects=effects).save(folder / "README.md")
        write_eval_results(folder, path, effects)


def write_recipe(
    path: Sequence[int], config: ModelConfig, model: str, destination: AnyPath
) -> None:
    """Write a path as a passthrough merge of layer ranges, for `mergekit-yaml`.

    The output of a part that a step lacks is scaled to zeros.
    `model` is the name of the original for mergekit: a Hub id, also with `@revision`, or a
    directory. Raises InputError if the destination exists, or if the layers of the model differ in
    their kind of attention: mergekit sets `num_hidden_layers` and copies the rest of config.json,
    so the windows would stay where they were while the layers move.
    """
    with exporting(destination, folder=False) as file:
        if len({*config.layer_attributes}) > 1:
            raise InputError(
                f"path {format_path(path)} cannot be written as a mergekit recipe: the layers of "
                "this model differ in kind, window or rotary embedding, which mergekit does not "
                "move with them. Export with --format hf."
            )
        check_no_shares(validate(path, config.num_layers))
        table = FAMILIES[model_type_of(config)].weights
        outputs = {part: output_names(table, part) for part in OUTPUTS}
        file.write_text(mergekit_config(path, model, outputs), encoding="utf-8")


@contextlib.contextmanager
def exporting(destination: AnyPath, *sources: Path, folder: bool = True) -> Iterator[Path]:
    """Yield an empty folder or file beside the destination, and move it there at the end.

    After an error, nothing is left of it. Raises InputError for a destination that has contents,
    or that lies inside a source.
    """
    check_writable(place := checkpoint.absolute(destination))
    for source in sources:
        check_apart(destination, source)
    is_folder = os.path.isdir(place)
    if exists(place) and (not is_folder or any(place.iterdir())):
        state = " and is not empty" if is_folder else ""
        raise InputError(
            f"{destination} exists already{state}: remove it, or choose another destination."
        )
    with files.building(destination, folder=folder) as partial:
        yield partial


def choose_layers(config: ModelConfig, path: LayerPath, dtype: str) -> Selected:
    """Choose the layers to write; InputError where weights or config.json cannot hold them."""
    check_no_shares(path)
    config.check_keys(path)
    values = write_config(select_layers(config, path), dtype)
    written, rows = read_config(values)
    places = tuple(config.stack_index[layer_of(step)] for step in path)
    return Selected(path, places, written, values, rows)


def check_no_shares(path: LayerPath) -> None:
    """Raise InputError for a path with a share of an update, which no weights can express."""
    if damped := [step for step in path if has_share(step)]:
        raise InputError(
            f"path {format_path(path)} adds a share of the update of a layer "
            f"({format_path(damped[:1])}), and weights cannot: its MLP reads all of what its "
            "attention adds. Export with --format vllm, or run it in transformers with "
            "cola_jax.apply_path."
        )


def write_checkpoint(
    directory: epath.PathLike,
    metadata: dict[str, Any],
    selected: Selected,
    folder: Path,
    on_progress: OnProgress,
) -> None:
    """Write layers of a checkpoint, and its tokenizer, into a new or empty directory."""
    folder.mkdir(exist_ok=True)
    words = checkpoint.absolute(directory) / checkpoint.TOKENIZER
    for file in words.iterdir() if words.is_dir() else ():
        (folder / file.name).write_bytes(file.read_bytes())
    tokens = special_tokens(directory, metadata)
    write_json(folder / GENERATION, tokens)
    config = ModelConfig.from_json(metadata["config"])
    stored = checkpoint.restore_weights(directory, metadata)
    dtype = metadata["dtype"]
    weights = (
        (name, cast(name, scaled(config, selected.path, name, weight), dtype))
        for name, weight in stored
    )
    write_model(folder, selected, weights, tokens, on_progress)


def scaled(config: ModelConfig, path: Sequence[int], name: str, weight: Any) -> Any:
    """Return a stacked weight of the layers of a path, scales as those of its steps."""
    if field_of(name) != "output_scale":
        return weight
    steps = np.arange(config.num_layers)
    ids = np.array(path)
    steps[layer_of(ids)] = config.with_runs(ids)
    of_kind = list(config.layers_of(kind_of_weight(name)))
    return scale_of(steps[of_kind], weight)


def write_model(
    folder: Path,
    selected: Selected,
    weights: Iterable[tuple[str, Any]],
    tokens: Mapping[str, Any],
    on_progress: OnProgress,
) -> None:
    """Write config and weights; `weights` are by field name, stacked over all layers."""
    write_json(folder / "config.json", selected.values | dict(tokens))
    plan = split_state_dict_into_shards_factory(
        tensor_sizes(selected),
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    total = plan.metadata["total_size"]
    done = 0
    shards: dict[str, dict[str, np.ndarray]] = {name: {} for name in plan.filename_to_tensors}
    arrays = ((name, np.asarray(weight)) for name, weight in weights)
    of_original = selected.path, selected.places
    for name, array in unstack(arrays, selected.rows, selected.config, *of_original):
        file = plan.tensor_to_filename[name]
        shards[file][name] = array
        if len(shards[file]) == len(plan.filename_to_tensors[file]):
            save_tensors(folder / file, shards.pop(file))
        done += array.nbytes
        on_progress(done, total)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / INDEX, index)


def tensor_sizes(selected: Selected) -> dict[str, int]:
    """Return the bytes of every tensor, in the order of `params.shapes`."""
    table = {row.ours: row for row in selected.rows}
    itemsize = jnp.dtype(selected.values["dtype"]).itemsize
    return {
        name: math.prod(shape) * itemsize
        for field in shapes(selected.config)
        for _, name, shape in expected(table[field], selected.config)
    }


def save_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file; not by `save_file`, whose errors are no OSError."""
    file.write_bytes(save(tensors, metadata={"format": "pt"}))  # pt: readers demand it


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, indented."""
    file.write_text(json.dumps(values, indent=2) + "\n")


def special_tokens(directory: epath.PathLike, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the ids of the tokens that begin, end and pad a text, null for unknown ones.

    A family's defaults in transformers would be another vocabulary's.
    """
    try:
        tokenizer = checkpoint.read_tokenizer(directory)
    except ValueError:
        tokenizer = None
    stops = metadata.get("stop_tokens") or [getattr(tokenizer, "eos_token_id", None)]
    return {
        "bos_token_id": getattr(tokenizer, "bos_token_id", None),
        "eos_token_id": stops if len(stops) > 1 else stops[0],
        "pad_token_id": metadata.get("pad_token"),
    }
