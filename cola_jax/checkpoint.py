"""Checkpoints in our own layout: Orbax weights, the metadata in `cola.json`, and the tokenizer."""

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax import orbax_errors
from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, first_line, printed, shorten, shown
from cola_jax.json_text import parse_object
from cola_jax.params import Model, assemble, shapes, sharding
from cola_jax.storage import check_links
from cola_jax.tokenizer_trial import load_folder

LAYOUT = 1  # increased whenever a change makes checkpoints unreadable for older versions
METADATA = "cola.json"
WEIGHTS = "weights"
TOKENIZER = "tokenizer"
ZARR = ".zarray"  # the shape and dtype of a weight, beside its values
DTYPES = ("float32", "bfloat16", "float16")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
LONGEST_METADATA = 4 * 2**20  # bytes


class DamagedError(InputError):
    """A checkpoint is damaged or incomplete."""


def save(
    directory: epath.PathLike,
    config: ModelConfig,
    weights: Iterable[tuple[str, np.ndarray]],
    origin: dict[str, Any],
    *,
    stop_tokens: Iterable[int] = (),
    pad_token: int | None = None,
) -> dict[str, Any]:
    """Writes weights (field name and stacked array) one by one, then the metadata.

    Each weight is an Orbax checkpoint of its own: Orbax holds two copies of what it saves at once,
    so a generator of weights keeps memory at a few times the largest. Returns the metadata: layout,
    config, dtype, the digest of the weights, what `load` checks them by, the ids of the tokens that
    end a generation and of the padding token, origin, versions.
    """
    directory = absolute(directory)
    digests, sums, dtype = {}, {}, None
    # one plain file per weight; the database that Orbax writes by default takes twice the time
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        for name, array in weights:
            with orbax_errors.writing():
                saved = ocp.args.PyTreeSave({name: array})
                checkpointer.save(directory / WEIGHTS / name, args=saved)
            digests[name] = digest(name, array)
            sums[name] = bit_sum(array)
            dtype = str(array.dtype)
    metadata = {
        "layout": LAYOUT,
        "config": config.to_json(),
        "dtype": dtype,
        "digest": hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest(),
        "files": file_sizes(directory / WEIGHTS),
        "sums": sums,
        "stop_tokens": sorted(stop_tokens),
        "pad_token": pad_token,
        "origin": origin,
        "versions": {name: version(name) for name in ("cola-jax", "jax", "orbax-checkpoint")},
    }
    (directory / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def is_file(path: epath.Path) -> bool:
    """Returns whether a path is a file; epath takes a local pipe or device for one."""
    text = os.fspath(path)
    return path.is_file() if "://" in text else os.path.isfile(text)


def absolute(directory: epath.PathLike) -> epath.Path:
    """Makes a local path absolute, as Orbax requires; returns URLs unchanged."""
    text = os.fspath(directory)
    return epath.Path(text if "://" in text else os.path.abspath(os.path.expanduser(text)))


def identity(metadata: dict[str, Any]) -> str:
    """Identifies a model by the digests of its weights and of its config.

    The same weights with another rope or window are another model.
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
    """Reads a checkpoint's metadata; raises ValueError if the directory is not a checkpoint."""
    directory = absolute(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: make a checkpoint with `cola convert`.")
    check_links(directory)
    file = directory / METADATA
    if file.exists() and not is_file(file):
        raise DamagedError(f"{file} is a directory, pipe or device: convert the model again.")
    if not file.exists():
        hint = (
            f"it looks like a Hugging Face model: run `cola convert {directory} DESTINATION`."
            if (directory / "config.json").exists()
            else "it is not a cola-jax checkpoint, or its conversion did not finish."
        )
        raise InputError(f"{directory} has no {METADATA}: {hint}")
    try:
        if (size := file.stat().length) > LONGEST_METADATA:
            raise InputError(f"it has {size:,} bytes, more than {LONGEST_METADATA:,}")
        metadata = parse_object(file.read_bytes(), str(file))
        layout = metadata.get("layout")
        if layout == LAYOUT:
            check_metadata(metadata)
    except ValueError as error:
        problem = str(error).removeprefix(f"{file}: ").rstrip(".")
        raise DamagedError(f"{file} is damaged ({problem}): convert the model again.") from error
    if type(layout) is not int:
        raise DamagedError(f"{file} is damaged (it has no layout): convert the model again.")
    if layout != LAYOUT:
        raise InputError(
            f"{directory} has layout {layout}, but this version reads {LAYOUT}: convert the model "
            "again, or use the version of cola-jax that wrote it."
        )
    return metadata


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises ValueError unless all parts of the metadata have the types that `save` writes."""
    kinds = {"config": dict, "dtype": str, "digest": str, "files": dict, "sums": dict}
    for name, kind in (kinds | {"origin": dict}).items():
        if not isinstance(metadata.get(name), kind):
            raise InputError(f"{name} must be a {kind.__name__}, got {shown(metadata.get(name))}")
    config = ModelConfig.from_json(metadata["config"])
    if metadata["dtype"] not in DTYPES:
        raise InputError(
            f"dtype must be one of {', '.join(DTYPES)}, got {shown(metadata['dtype'])}"
        )
    for name in ("files", "sums"):
        wrong = [k for k, v in metadata[name].items() if type(v) is not int or v < 0]
        if wrong:
            raise InputError(f"{name} of {printed(wrong[0])} must be a number of 0 or more")
    if set(metadata["sums"]) != set(shapes(config)):
        others = sorted(set(metadata["sums"]) ^ set(shapes(config)))
        raise InputError(
            f"sums and config have different weights: {shorten([printed(x) for x in others])}"
        )
    check_origin(metadata["origin"])
    check_tokens(metadata)


def check_origin(origin: dict[str, Any]) -> None:
    """Raises ValueError for what is no name of the Hub: exports write such a name into code."""
    if not isinstance(origin.get("kind"), str):
        raise InputError(f"origin must have a kind, got {shown(origin)}")
    names = (origin.get("name"), origin.get("revision"))
    named = all(isinstance(one, str) and HUB_NAME.fullmatch(one) for one in names)
    if origin["kind"] == "hub" and not named:
        raise InputError(f"origin must be a name and a revision of the Hub, got {shown(origin)}")


def check_tokens(metadata: dict[str, Any]) -> None:
    """Raises ValueError unless the stop tokens and the padding token are token ids."""
    stops, pad = metadata.get("stop_tokens", []), metadata.get("pad_token")
    if not isinstance(stops, list) or any(type(i) is not int or i < 0 for i in stops):
        raise InputError(f"stop_tokens must be a list of token ids, got {shown(stops)}")
    if pad is not None and (type(pad) is not int or pad < 0):
        raise InputError(f"pad_token must be a token id or null, got {shown(pad)}")


def stop_tokens(directory: epath.PathLike) -> tuple[int, ...]:
    """Returns the sorted ids of the tokens that end a generation.

    Falls back to the tokenizer's end of sequence if the checkpoint has none, as older ones do.
    Raises ValueError if there is neither.
    """
    ids = read_metadata(directory).get("stop_tokens")
    if not ids:
        end = load_tokenizer(directory).eos_token_id
        ids = [] if end is None else [end]
    if not ids:
        raise InputError(
            f"{directory} has no token that ends a generation, and neither has its tokenizer: "
            "convert the model again from a source whose generation_config.json has eos_token_id."
        )
    return tuple(ids)


def load(
    directory: epath.PathLike,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Model:
    """Restores a converted model directly onto its devices.

    Args:
      directory: a checkpoint made by `cola convert`; a local path or a URL such as gs://.
      dtype: of the parameters; that of the checkpoint if None.
      mesh: has axes `data` and `tensor`; each weight is split over `tensor` by the spec of its
        field in `params`. The default device if None.
      on_progress: called with the bytes read so far and in all, after each weight.

    Raises:
      ValueError: if the directory is not a checkpoint, is damaged or incomplete, or does not fit
        the mesh.
    """
    directory = absolute(directory)
    metadata = read_metadata(directory)
    kind = jnp.dtype(metadata["dtype"] if dtype is None else dtype)
    config, stored = ModelConfig.from_json(metadata["config"]), jnp.dtype(metadata["dtype"])
    total = sum(math.prod(shape) for shape in shapes(config).values()) * stored.itemsize
    weights, done = {}, 0
    on_progress(0, total)
    for name, weight in restore_weights(directory, metadata, mesh):
        weights[name] = weight.astype(kind)
        done += weight.nbytes
        on_progress(done, total)
    return assemble(config, weights, metadata.get("pad_token"), str(directory))


def restore_weights(
    directory: epath.PathLike, metadata: dict[str, Any], mesh: Mesh | None = None
) -> Iterator[tuple[str, jax.Array]]:
    """Restores the weights one by one: field name and stacked array, in the dtype they are stored.

    `metadata` is that of the checkpoint. Raises ValueError if the files are damaged or incomplete.
    """
    directory = absolute(directory)
    config, stored = ModelConfig.from_json(metadata["config"]), jnp.dtype(metadata["dtype"])
    check_files(directory / WEIGHTS, metadata["files"])
    for name, shape in shapes(config).items():
        check_stored(directory / WEIGHTS, name, shape, stored)
    orbax_errors.quieten()
    with ocp.StandardCheckpointer(multiprocessing_options=this_host_only()) as checkpointer:
        for name, shape in shapes(config).items():
            leaf = jax.ShapeDtypeStruct(shape, stored, sharding=sharding(name, shape, mesh))
            weight = restore(checkpointer, directory / WEIGHTS, name, leaf)
            check_sum(directory / WEIGHTS, name, weight, metadata["sums"][name])
            yield name, weight


def this_host_only() -> ocp.options.MultiprocessingOptions:
    """Lets each of several hosts restore on its own, without waiting for the others."""
    me = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"host-{me}"
    )


def check(directory: epath.PathLike) -> None:
    """Raises ValueError unless the directory is a checkpoint with all its files.

    The weights are not read, so a changed bit is found when they are loaded.
    """
    metadata = read_metadata(directory)
    check_files(absolute(directory) / WEIGHTS, metadata["files"])


def file_sizes(directory: epath.Path) -> dict[str, int]:
    """Returns the sizes of all files under a directory, by relative path."""
    sizes = {}
    for entry in sorted(directory.iterdir()):  # epath's glob does not recurse
        if entry.is_dir():
            below = file_sizes(entry)
            sizes |= {f"{entry.name}/{name}": size for name, size in below.items()}
        elif is_file(entry):  # a pipe would be waited for
            sizes[entry.name] = entry.stat().length
    return sizes


def check_files(directory: epath.Path, sizes: dict[str, int]) -> None:
    """Raises ValueError if files are missing or have another size.

    Orbax reports most of these too, but in thousands of lines of traceback.
    """
    found = file_sizes(directory) if directory.is_dir() else {}
    damaged = sorted(name for name, size in sizes.items() if found.get(name) != size)
    if damaged:
        raise DamagedError(
            f"{directory} is incomplete or damaged ({len(damaged)} files are missing or have "
            f"another size, such as {printed(damaged[0])}): convert the model again."
        )


def check_stored(directory: epath.Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raises ValueError unless a weight is stored in the shape and dtype of the metadata.

    Asked for another, Orbax would make room for it before it looks at the file.
    """
    file = directory / name / name / ZARR
    if not is_file(file) or file.stat().length > LONGEST_METADATA:
        raise DamagedError(f"{file} is missing or damaged: convert the model again.")
    try:
        stored = parse_object(file.read_bytes(), str(file))
    except ValueError as error:
        raise DamagedError(f"{error} It is damaged: convert the model again.") from None
    found, kind = stored.get("shape"), stored.get("dtype")
    if found != list(shape) or kind not in (dtype.str, dtype.name):
        raise DamagedError(
            f"{directory} is damaged or of another model, {name} is stored as {shown(kind)} "
            f"{shown(found)}, but {METADATA} says {dtype.name} {list(shape)}: convert the model "
            "again."
        )
    chunks = stored.get("chunks")
    if not isinstance(chunks, list) or not fits(chunks, shape):
        raise DamagedError(
            f"{file} is damaged, chunks is {shown(chunks)}: convert the model again."
        )


def fits(chunks: list[Any], shape: tuple[int, ...]) -> bool:
    """Returns whether chunks of a weight are no larger than it."""
    same = len(chunks) == len(shape)
    return same and all(
        type(chunk) is int and 1 <= chunk <= size for chunk, size in zip(chunks, shape, strict=True)
    )


@jax.jit
def device_bit_sum(weight: jax.Array) -> jax.Array:
    """Computes `bit_sum` of a weight on its own devices."""
    bits = jax.lax.bitcast_convert_type(weight, f"uint{8 * weight.dtype.itemsize}")
    return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)


def check_sum(directory: epath.Path, name: str, weight: jax.Array, wanted: int | None) -> None:
    """Raises ValueError if a weight has other bits than were saved.

    Weights are stored without a checksum, so a damaged file may restore without an error. The sum
    is computed on the weight's devices for any sharding, which a digest could not be.
    """
    if int(device_bit_sum(weight)) != wanted:
        raise DamagedError(f"{directory} is damaged, {name} has changed: convert the model again.")


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
        raise DamagedError(
            f"the weight {name} of {directory.parent} could not be restored "
            f"({first_line(error)}): its files are damaged, convert the model again."
        ) from error


def load_tokenizer(directory: epath.PathLike) -> Any:
    """Loads the tokenizer that was converted with a model, as a transformers tokenizer.

    Raises ValueError if the checkpoint has none, or one that transformers cannot load.
    """
    folder = absolute(directory) / TOKENIZER
    if not folder.is_dir() or not any(folder.iterdir()):
        raise InputError(
            f"{directory} has no tokenizer: its source had none that could be converted."
        )
    with tempfile.TemporaryDirectory() as local:  # transformers does not read storage URLs
        for file in folder.iterdir():
            if not is_file(file):
                raise InputError(f"{file} is a directory, pipe or device: convert the model again.")
            (epath.Path(local) / file.name).write_bytes(file.read_bytes())
        return load_folder(Path(local), str(directory))
