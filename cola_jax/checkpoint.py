"""Checkpoints in this project's own layout: Orbax weights, `cola.json`, and the tokenizer."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
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
    weights: Iterable[tuple[str, np.ndarray]],
    origin: dict[str, Any],
    stop_tokens: Iterable[int] = (),
) -> dict[str, Any]:
    """Writes weights (field name and stacked array) one by one, and then the metadata.

    Each weight is a checkpoint of its own: Orbax holds two copies of all that it saves at once, so
    weights that are made as they are taken never stand in memory together. Returns the metadata:
    layout, config, dtype, digest of the weights, what `load` checks them by, the ids of tokens that
    end a generation, origin, versions.
    """
    directory = absolute(directory)
    digests, sums, dtype = {}, {}, None
    with ocp.StandardCheckpointer() as checkpointer:
        for name, array in weights:
            checkpointer.save(directory / WEIGHTS / name, {name: array})
            digests[name] = digest(name, array)
            sums[name] = bit_sum(array)
            dtype = str(array.dtype)
            checkpointer.wait_until_finished()
    metadata = {
        "layout": LAYOUT,
        "config": config.to_json(),
        "dtype": dtype,
        "digest": hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest(),
        "files": file_sizes(directory / WEIGHTS),
        "sums": sums,
        "stop_tokens": sorted(stop_tokens),
        "origin": origin,
        "versions": {name: version(name) for name in ("cola-jax", "jax", "orbax-checkpoint")},
    }
    (directory / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def absolute(directory: epath.PathLike) -> epath.Path:
    """Makes a local path absolute, as Orbax demands; a URL is left alone."""
    text = os.fspath(directory)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


def identity(metadata: dict[str, Any]) -> str:
    """Returns what tells a model from others: the digest of its weights, and of its config.

    Converted anew with another rope or window, the same weights are another model.
    """
    config = ModelConfig.from_json(metadata["config"]).to_json()
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    return f"{metadata['digest']} {sha.hexdigest()[:16]}"


def digest(name: str, array: np.ndarray) -> str:
    """Returns the SHA-256 of a weight's name, dtype, shape and values."""
    sha = hashlib.sha256(f"{name} {array.dtype} {array.shape}\n".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def bit_sum(array: np.ndarray) -> int:
    """Returns the sum of an array's bit patterns, modulo 2**32; see `check_sum`."""
    bits = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
    return int(bits.sum(dtype=np.uint64) % 2**32)


def read_metadata(directory: epath.PathLike) -> dict[str, Any]:
    """Reads a checkpoint's metadata; ValueError where the directory is not one of ours."""
    directory = absolute(directory)
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
        if layout == LAYOUT:
            _ = [metadata[k] for k in ("config", "dtype", "digest", "files", "sums", "origin")]
            ModelConfig.from_json(metadata["config"])
            jnp.dtype(metadata["dtype"])
            check_stop_tokens(metadata.get("stop_tokens", []))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}): convert the model again."
        ) from error
    if layout != LAYOUT:
        raise ValueError(
            f"{directory} has layout {layout}, this version reads {LAYOUT}: convert the model "
            "again, or use the version of cola-jax that wrote it."
        )
    return metadata


def check_stop_tokens(ids: Any) -> None:
    """Raises ValueError for anything but a list of token ids."""
    if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids):
        raise ValueError(f"stop_tokens must be a list of token ids, it is {ids!r}")


def stop_tokens(directory: epath.PathLike) -> tuple[int, ...]:
    """Returns the ids of the tokens that end a generation, in order.

    Where the checkpoint names none, as older ones do, that is the tokenizer's end of sequence.
    Raises ValueError where there is none at all.
    """
    ids = read_metadata(directory).get("stop_tokens")
    if not ids:
        end = load_tokenizer(directory).eos_token_id
        ids = [] if end is None else [end]
    if not ids:
        raise ValueError(
            f"{directory} names no token that ends a generation, and neither does its tokenizer: "
            "convert the model again from a source whose generation_config.json has eos_token_id."
        )
    return tuple(ids)


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
    directory = absolute(directory)
    metadata = read_metadata(directory)
    config = ModelConfig.from_json(metadata["config"])
    stored, sums = jnp.dtype(metadata["dtype"]), metadata["sums"]
    kind = stored if dtype is None else jnp.dtype(dtype)
    check_files(directory / WEIGHTS, metadata["files"])
    weights = {}
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax logs every step of a restore
    with ocp.StandardCheckpointer(multiprocessing_options=alone()) as checkpointer:
        for name, shape in shapes(config).items():
            leaf = jax.ShapeDtypeStruct(shape, stored, sharding=sharding(name, shape, mesh))
            weight = restore(checkpointer, directory / WEIGHTS, name, leaf)
            check_sum(directory / WEIGHTS, name, weight, sums.get(name))
            weights[name] = weight.astype(kind)
    return assemble(config, weights)


def alone() -> ocp.options.MultiprocessingOptions:
    """Tells Orbax that this host of maybe several reads for itself and waits for nobody."""
    me = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"host-{me}"
    )


def file_sizes(directory: epath.Path) -> dict[str, int]:
    """Returns the size of every file below a directory, by relative path."""
    sizes = {}
    for entry in sorted(directory.iterdir()):  # epath's glob does not recurse
        if entry.is_dir():
            below = file_sizes(entry)
            sizes |= {f"{entry.name}/{name}": size for name, size in below.items()}
        else:
            sizes[entry.name] = entry.stat().length
    return sizes


def check_files(directory: epath.Path, sizes: dict[str, int]) -> None:
    """Raises ValueError where files are missing or of another size.

    Orbax itself reports most of these, by thousands of lines of traces.
    """
    found = file_sizes(directory) if directory.is_dir() else {}
    damaged = sorted(name for name, size in sizes.items() if found.get(name) != size)
    if damaged:
        raise ValueError(
            f"{directory} is incomplete or damaged ({len(damaged)} files are missing or cut short, "
            f"{damaged[0]} is one): convert the model again."
        )


@jax.jit
def device_bit_sum(weight: jax.Array) -> jax.Array:
    """Computes `bit_sum` of a weight on its devices."""
    bits = jax.lax.bitcast_convert_type(weight, f"uint{8 * weight.dtype.itemsize}")
    return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)


def check_sum(directory: epath.Path, name: str, weight: jax.Array, wanted: int | None) -> None:
    """Raises ValueError for a weight with other bits than were saved.

    Chunks of weights are stored without a checksum, so a damaged file may well restore. The sum
    is made where the weight is, whatever its sharding, which a digest could not be.
    """
    if int(device_bit_sum(weight)) != wanted:
        raise ValueError(f"{directory} is damaged, {name} changed: convert the model again.")


def restore(
    checkpointer: ocp.StandardCheckpointer,
    directory: epath.Path,
    name: str,
    leaf: jax.ShapeDtypeStruct,
) -> jax.Array:
    """Reads one weight onto the sharding of `leaf`."""
    try:
        return checkpointer.restore(directory / name, {name: leaf})[name]
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        raise ValueError(
            f"the weight {name} of {directory.parent} could not be restored; if files are "
            f"damaged, cut short or missing, convert the model again: {error}"
        ) from error


def load_tokenizer(directory: epath.PathLike) -> Any:
    """Loads the tokenizer that was carried over with a model, as a transformers tokenizer.

    Raises ValueError where the checkpoint has none.
    """
    from transformers import AutoTokenizer

    folder = absolute(directory) / TOKENIZER
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ValueError(
            f"{directory} has no tokenizer: its source had none that can be carried over."
        )
    with tempfile.TemporaryDirectory() as local:  # transformers reads no storage URLs
        for file in folder.iterdir():
            (epath.Path(local) / file.name).write_bytes(file.read_bytes())
        return AutoTokenizer.from_pretrained(local, trust_remote_code=False)
