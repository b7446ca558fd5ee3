"""Export a path as a PEFT adapter: layers of a base model are repeated without their weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.deploy.effect import ReportedEffect
from cola_jax.deploy.export import (
    Selected,
    check_no_shares,
    choose_layers,
    exporting,
    save_tensors,
    write_checkpoint,
    write_json,
)
from cola_jax.deploy.model_card import model_card, write_eval_results
from cola_jax.errors import InputError
from cola_jax.formats.config_json import model_type_of, select_layers
from cola_jax.formats.families import FAMILIES, has_attribute
from cola_jax.formats.table import expected
from cola_jax.path import LayerPath, ascending_ranges, format_path, is_whole_path, validate
from cola_jax.progress import OnProgress, ignore_progress
from cola_jax.steps import Step, runs_of
from cola_jax.storage import AnyPath

FOLDER = "base"  # of a base that is written, in that of the adapter


class Base(NamedTuple):
    """The model whose layers an adapter repeats."""

    hub: str | None  # its id, None where it is written into `FOLDER`
    revision: str | None  # on the Hub
    layers: Selected
    path: LayerPath  # through its layers
    types_differ: bool  # from those that its config has at the positions of the path


def export_adapter(
    directory: epath.PathLike,
    path: LayerPath,
    destination: AnyPath,
    *,
    effects: Sequence[ReportedEffect] = (),
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Write a path as a PEFT adapter, which repeats layers of a base model without their weights.

    The base is the original on the Hub where the checkpoint came from there, else the layers that
    the path runs, each once, in the folder `base` of the adapter: so is that of a path with parts
    of layers, and a layer that runs whole and in part is there twice. Arguments are those of
    `export`.

    Raises InputError, before any work, as `export`, and for a path that PEFT cannot run or that
    shares nothing.
    """
    metadata = checkpoint.read_metadata(directory)
    config = ModelConfig.from_json(metadata["config"])
    path = validate(path, config.num_layers)
    with exporting(destination, Path(directory)) as folder:
        base = choose_base(config, path, metadata)
        if base.hub is None:
            write_checkpoint(directory, metadata, base.layers, folder / FOLDER, on_progress)
        write_adapter(folder, base)
        card = model_card(
            metadata,
            path,
            base=base.hub or f"THIS_FOLDER/{FOLDER}",
            types_along=base.path if base.types_differ else (),
            effects=effects,
        )
        card.save(folder / "README.md")
        write_eval_results(folder, path, effects)


def choose_base(config: ModelConfig, path: LayerPath, metadata: dict[str, Any]) -> Base:
    """Choose the base of an adapter.

    PEFT's layer_replication clones layers in the order of the path and numbers them by position.
    What transformers looks up by position is `layer_types`, which PEFT leaves as it is: whoever
    loads the adapter puts the types in order first. Who does not gets an IndexError where the path
    is longer than the base, and wrong logits else, so such a path has a base of its own, which is
    shorter.

    Raises InputError where PEFT cannot run the path, and where there is nothing to share.
    """
    cannot = f"path {format_path(path)} cannot be a PEFT adapter: "
    if (
        config.layer_input
        or config.keys_of
        or (runs_of(config.with_runs(np.array(path))) > 1).any()
    ):
        raise InputError(
            f"{cannot}layers of this model have embeddings by their place, keys of other layers, "
            "or scales by how often they run. Export with --format hf."
        )
    origin = metadata["origin"]
    check_no_shares(path)
    if origin["kind"] == "hub" and "multimodal" not in origin and is_whole_path(path):
        original = choose_layers(config, tuple(range(config.num_layers)), metadata["dtype"])
        differ = types_differ(original, path)
        if len(path) > config.num_layers or not differ:
            check_slices(original, path, cannot)
            return Base(origin["name"], origin["revision"], original, path, differ)
    steps = tuple(sorted(set(path), key=Step.of))  # by layer
    if len(steps) == len(path):
        raise InputError(
            f"path {format_path(path)} runs no step twice, so an adapter would share nothing: "
            "export with --format hf."
        )
    selected = choose_layers(config, steps, metadata["dtype"])
    within = tuple(steps.index(step) for step in path)
    check_slices(selected, within, cannot)
    return Base(None, None, selected, within, types_differ(selected, within))


def types_differ(base: Selected, path: LayerPath) -> bool:
    """Return whether a path has other types of layers than the config of its base, or more."""
    types = base.values.get("layer_types")
    return types is not None and [types[layer] for layer in path] != types[: len(path)]


def check_slices(base: Selected, path: LayerPath, cannot: str) -> None:
    """Raise InputError where transformers would drop tokens within a path.

    It does so before the first layer that shares keys, the end of the base where none does.
    """
    model_type = model_type_of(base.config)
    if has_attribute(model_type, "num_kv_shared_layers") and len(path) > base.config.num_layers:
        raise InputError(
            f"{cannot}models of type {model_type} run no more layers than the base has, which are "
            f"{base.config.num_layers}. Export with --format hf."
        )


def write_adapter(folder: Path, base: Base) -> None:
    """Write a PEFT adapter that runs a path of the base's layers.

    The adapter itself does nothing: its only matrix, of rank 1, is zero, and belongs to the queries
    of the first layer that has any, as PEFT wants one. PEFT numbers layers by position.
    """
    config = select_layers(base.layers.config, base.path)
    attention = config.layers_of(0)
    if not attention:
        raise InputError(
            "a PEFT adapter needs a layer with attention, and the path has none: export with "
            "--format hf."
        )
    queries = FAMILIES[model_type_of(config)].weights["q"]
    _, name, (outputs, width) = next(expected(queries, config))
    name = name.removesuffix(".weight")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.hub or FOLDER,
        "revision": base.revision,
        "inference_mode": True,
        "r": 1,
        "target_modules": [name.rpartition(".")[2]],
        "layers_to_transform": [attention[0]],
        "layer_replication": [[run.start, run.stop] for run in ascending_ranges(base.path)],
    }
    write_json(folder / "adapter_config.json", settings)
    zeros = {
        f"base_model.model.{name}.lora_A.weight": np.zeros((1, width), np.float32),
        f"base_model.model.{name}.lora_B.weight": np.zeros((outputs, 1), np.float32),
    }
    save_tensors(folder / "adapter_model.safetensors", zeros)
