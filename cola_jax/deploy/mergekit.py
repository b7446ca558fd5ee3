"""Writes a path as a mergekit recipe: a passthrough merge of layer ranges of one model."""

from collections.abc import Sequence
from pathlib import Path

from cola_jax.config import ModelConfig
from cola_jax.deploy.destination import building, check_destination
from cola_jax.errors import InputError
from cola_jax.formats.peers.mergekit import mergekit_config
from cola_jax.path import format_path


def write_recipe(path: Sequence[int], config: ModelConfig, model: str, destination: Path) -> None:
    """Writes a YAML file for `mergekit-yaml`.

    Args:
      path: ids of the layers of the original, whose config is `config`.
      model: what mergekit calls it: a Hub id, with `@revision` for one, or a directory.
      destination: file to create.

    Raises:
      ValueError: if the destination exists, or if the layers of the model differ in their kind of
        attention. mergekit sets `num_hidden_layers` and copies the rest of config.json, so the
        windows would stay where they were while the layers move.
    """
    check_destination(destination)
    if len({*zip(config.windows, config.layer_ropes, strict=True)}) > 1:
        raise InputError(
            f"path {format_path(path)} cannot be written as a mergekit recipe: the layers of this "
            "model differ in window or rotary embedding, which mergekit does not move with them. "
            "Export with --format hf."
        )
    text = mergekit_config(path, model)
    with building(destination, folder=False) as file:
        file.write_text(text, encoding="utf-8")
