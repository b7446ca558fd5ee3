"""mergekit's passthrough merges: a path as YAML that `mergekit-yaml` runs, and the way back.

A merge stacks slices, each the layers [start, end) of one model, in order (mergekit's
`docs/merge_methods.md`, `mergekit/config.py`).
"""

from pathlib import Path as FilePath
from typing import Any

import yaml

from cola_jax.errors import InputError, shown
from cola_jax.files import read_text
from cola_jax.formats.peers.document import MOST_LAYERS, Field, Path, parse_yaml
from cola_jax.path import STOP, Ids, ascending_ranges, format_path

DTYPES = ("float32", "bfloat16", "float16")

# The keys of a merge that leave the order of layers and their weights as they are.
HARMLESS = {"base_model", "dtype", "out_dtype", "tokenizer_source", "chat_template"}
KEYS = {"merge_method", "slices", "modules"} | HARMLESS
SLICE_KEYS = {"sources", "base_model"}
SOURCE_KEYS = {"model", "layer_range"}


def mergekit_config(path: Ids, model_name: str, dtype: str | None = None) -> str:
    """Writes a path of a model as the YAML of a passthrough merge.

    Args:
      path: layer ids in order; padding is ignored.
      model_name: a Hub id, with @revision if one is meant, or a local directory.
      dtype: of the merged model, float32, bfloat16 or float16; the model's own if None.

    Raises ValueError for a path without layers, and what mergekit would read otherwise.
    """
    check_model_name(model_name)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    slices = [
        {"sources": [{"model": model_name, "layer_range": [run.start, run.stop]}]}
        for run in ascending_ranges(layers_of(path))
    ]
    config: dict[str, Any] = {"merge_method": "passthrough", "slices": slices}
    if dtype is not None:
        config["dtype"] = dtype
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return f"# the path {format_path(path)}\n{text}"


def check_model_name(name: str) -> None:
    """Raises ValueError for a name that mergekit would take for a model with an adapter."""
    if not name.strip():
        raise InputError("a merge needs the name of its model: this one is empty.")
    if "+" in name:
        raise InputError(
            f"mergekit reads the model name {name!r} as a model + a LoRA: give a name without +."
        )
    if name.count("@") > 1:
        raise InputError(f"mergekit reads one @revision in a model name, {name!r} has more.")


def layers_of(path: Ids) -> list[int]:
    """Returns the layers of a path without padding; ValueError for none, and for other ids."""
    layers = [int(layer) for layer in path if layer != STOP]
    if not layers:
        raise InputError("a path needs at least one layer, this one has none.")
    if min(layers) < 0:
        raise InputError(f"a layer id is an integer from 0 up, the path has {min(layers)}.")
    return layers


def read_mergekit(file: FilePath) -> Path:
    """Reads the path of a passthrough merge of one model.

    Raises ValueError where the file is another merge: of several models, with scaled weights, or
    by another method.
    """
    return merge_path(parse_yaml(file, read_text(file)))


def merge_path(config: Field) -> Path:
    """Returns the path of a passthrough merge that was parsed."""
    method = config.require("merge_method")
    if method.value != "passthrough":
        raise method.error("only passthrough stacks layers as they are.")
    refuse_others(config, KEYS)
    path: list[int] = []
    models: list[Field] = [base] if (base := config.get("base_model")) else []
    for part in slices_of(config).items():
        source = only_source(part)
        models += [source.require("model"), *([base] if (base := part.get("base_model")) else [])]
        path += layer_range(source.require("layer_range"))
        if len(path) > MOST_LAYERS:
            raise part.error(f"a path has at most {MOST_LAYERS} layers.")
    if not path:
        raise config.error("'slices' is empty, so that the merge has no layer.")
    for model in models:
        if model.value != models[0].value:
            raise model.error(
                f"a path has the layers of one model, and {models[0].place} is "
                f"{shown(models[0].value)}."
            )
    return tuple(path)


def slices_of(config: Field) -> Field:
    """Returns the slices of a merge, which mergekit itself writes as those of its one module."""
    modules = config.get("modules")
    if modules is None:
        return config.require("slices")
    if config.has("slices") or len(modules.mapping()) != 1:
        raise modules.error("a path has the layers of one module, or of slices without modules.")
    (module,) = (modules.child(name) for name in modules.mapping())
    refuse_others(module, {"slices"})
    return module.require("slices")


def only_source(part: Field) -> Field:
    """Returns the one source of a slice."""
    refuse_others(part, SLICE_KEYS)
    sources = part.require("sources")
    if sources.size() != 1:
        raise sources.error("passthrough takes exactly one source.")
    source = sources.child(0)
    refuse_others(source, SOURCE_KEYS)
    return source


def refuse_others(field: Field, keys: set[str]) -> None:
    """Raises ValueError for keys that a path cannot express, such as `parameters`."""
    others = [name for name in field.mapping() if name not in keys]
    if others:
        raise field.child(others[0]).error(
            "this may change more than which layers run in what order, so no path expresses it."
        )


def layer_range(field: Field) -> range:
    """Reads [start, end), which runs at least one layer."""
    if field.size() != 2:
        raise field.error("a range is [start, end].")
    bounds = []
    for bound in field.items():
        bounds.append(bound.integer())
    start, end = bounds
    if start >= end:
        raise field.error("a range [start, end) runs at least one layer: start < end.")
    if end - start > MOST_LAYERS:
        raise field.error(f"a path has at most {MOST_LAYERS} layers.")
    return range(start, end)
