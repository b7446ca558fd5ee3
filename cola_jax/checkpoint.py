"""Checkpoints in this project's own layout: Orbax weights, `cola.json`, and the tokenizer."""

import hashlib
import json
import logging
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax.config import ModelConfig
from cola_jax.params import Model, assemble, shapes, sharding

LAYOUT = 1  # raised whenever what is written below changes meaning
METADATA = "cola.json"
WEIGHTS = "weights"
TOKENIZER = "tokenizer"


def save(
    directory: epath.PathLike,
    config: ModelConfig,
    weights: dict[str, np.ndarray],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Writes weights (by field name, stacked) and, last, the metadata that makes them loadable.

    Returns the metadata: layout, config, dtype, digest of the weights, origin, versions.
    """
    directory = epath.Path(directory)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / WEIGHTS, weights)
        checkpointer.wait_until_finished()
    metadata = {
        "layout": LAYOUT,
        "config": config.to_json(),
        "dtype": str(weights["embedding"].dtype),
        "digest": digest(weights),
        "origin": origin,
        "versions": {name: version(name) for name in ("cola-jax", "jax", "orbax-checkpoint")},
    }
    (directory / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def digest(weights: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of names, dtypes, shapes and values; equal digests, equal models."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.reshape(-1).view(np.uint8))
    return sha.hexdigest()


def read_metadata(directory: epath.PathLike) -> dict[str, Any]:
    """Reads a checkpoint's metadata; ValueError where the directory is not one of ours."""
    directory = epath.Path(directory)
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory: make a checkpoint with `cola convert`.")
    file = directory / METADATA
    if not file.exists():
        hint = (
            f"it looks like a Hugging Face model: run `cola convert {directory} DESTINATION`."
            if (directory / "config.json").exists()
            else "it is another kind of directory, or a conversion that did not finish."
        )
        raise ValueError(f"{directory} has no {METADATA}: {hint}")
    try:
        metadata = json.loads(file.read_text())
        layout = metadata["layout"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}): convert the model again.") from error
    if layout != LAYOUT:
        raise ValueError(
            f"{directory} has layout {layout}, this version reads {LAYOUT}: convert the model again, "
            "or use the version of cola-jax that wrote it."
        )
    return metadata


def load(
    directory: epath.PathLike, *, dtype: DTypeLike | None = None, mesh: Mesh | None = None
) -> Model:
    """Restores a converted model straight onto its devices.

    Args:
      directory: what `cola convert` wrote; local or a URL such as gs://.
      dtype: of the parameters; the checkpoint's own when None.
      mesh: axes `data` and `tensor`; each weight is split over `tensor` as its field says. The
        default device when None.

    Raises:
      ValueError: where the directory is not a checkpoint, is damaged or cut short, or does not
        fit the mesh.
    """
    directory = epath.Path(directory)
    metadata = read_metadata(directory)
    config = ModelConfig.from_json(metadata["config"])
    kind = jnp.dtype(dtype or metadata["dtype"])
    target = {
        name: jax.ShapeDtypeStruct(shape, kind, sharding=sharding(name, shape, mesh))
        for name, shape in shapes(config).items()
    }
    weights = restore(directory / WEIGHTS, target)
    return assemble(config, weights, mesh)


def restore(directory: epath.Path, target: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads the weights onto the shardings of `target`."""
    if not directory.is_dir():
        raise ValueError(f"{directory} is missing: the checkpoint is incomplete, convert it again.")
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every step of a restore
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory, target)
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        raise ValueError(
            f"{directory} could not be restored; if it is damaged or cut short, convert the model "
            f"again: {error}"
        ) from error


def load_tokenizer(directory: epath.PathLike) -> Any:
    """Loads the tokenizer that was carried over with a model, as a transformers tokenizer.

    Raises ValueError where the checkpoint has none.
    """
    from transformers import AutoTokenizer

    folder = epath.Path(directory) / TOKENIZER
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(f"{directory} has no tokenizer: its source had none that can be carried over.")
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
