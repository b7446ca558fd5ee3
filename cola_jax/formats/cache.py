"""The cache of models: a source is converted once, and again when its files change.

A checkpoint on a URL is downloaded once, whatever its URL, as Orbax and tokenizers read files.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.dtypes import dtype_name
from cola_jax.errors import InputError, reading, shown
from cola_jax.files import building, cache_directory, hold, remove_partial, written_bytes
from cola_jax.formats import demo_model
from cola_jax.formats.conversion import convert_opened, load_written, locate
from cola_jax.formats.table import Source
from cola_jax.params import INT8, Model
from cola_jax.progress import OnProgress, byte_bar
from cola_jax.question import digest
from cola_jax.storage import download, is_url, path_of


def root() -> Path:
    """Return the folder of the converted models."""
    return cache_directory() / "models"


def load(
    source: epath.PathLike,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Model:
    """Load a model onto its devices, converting it first where that has not been done yet.

    Args:
      source: a checkpoint made by `cola convert`, also on a URL, a local directory in Hugging Face
        layout, a `.gguf` file, a Hub id, also as ID@REVISION, or "smollm2", the model of
        `cola demo`. All but local checkpoints are converted or downloaded once, into the cache
        that `cola cache` lists.
      dtype: of the parameters: float32, bfloat16 (bf16), float16 (fp16) or int8, also as
        `jnp.bfloat16`; that of the checkpoint if None. With int8 the matrices of layers have eight
        bits, in the blocks of a GGUF file in Q8_0 or Q4_0 and else by output channel.
      mesh: has axes `data` and `tensor`; each weight is split over `tensor` by the spec of its
        field in `params`. The default device if None.
      progress: shows a bar while the model is converted or loaded; by default in a notebook or on
        a terminal.

    Returns:
      The model, on its devices.

    Raises:
      InputError: if the source is none of these, is not supported, cannot be downloaded, is
        damaged or incomplete, or does not fit the mesh.
    """
    dtype = dtype_name(dtype)
    if not isinstance(mesh, Mesh | None):
        raise InputError(f"mesh must be a jax.sharding.Mesh, it is {shown(mesh)}.")
    directory = find(source, dtype, progress)
    with byte_bar("loading", progress) as on_progress:
        return load_converted(source, directory, dtype, mesh, on_progress)


def load_converted(
    source: epath.PathLike,
    directory: str,
    dtype: DTypeLike | None,
    mesh: Mesh | None,
    on_progress: OnProgress,
) -> Model:
    """Load a directory that `find` returned; a damaged copy in the cache is made again."""
    try:
        return checkpoint.load_model(directory, dtype=dtype, mesh=mesh, on_progress=on_progress)
    except checkpoint.DamagedError as error:
        if directory == os.fspath(source):  # not ours to replace
            raise
        discard(Path(directory), error)
        directory = find(source, dtype)
        with reading(source):
            return checkpoint.load_model(directory, dtype=dtype, mesh=mesh, on_progress=on_progress)


def load_tokenizer(source: epath.PathLike) -> Any:
    """Load the transformers tokenizer of a model; the source is as in `load`.

    Raises:
      InputError: if the source is not a model, or has no tokenizer.
    """
    return checkpoint.read_tokenizer(find(source))


class TextModel(NamedTuple):
    """The parts of a model that make prompts: all but its weights."""

    tokenizer: Any
    context: int
    stop_tokens: Callable[[], tuple[int, ...]]


def open_texts(source: str) -> TextModel:
    """Open a model to make prompts; reads no weights, and converts nothing.

    Raises InputError as `load`, and for a model without a tokenizer.
    """
    directory = converted(source)
    if directory is not None:
        config = ModelConfig.from_json(checkpoint.read_metadata(directory)["config"])
        tokenizer = checkpoint.read_tokenizer(directory)
        return TextModel(tokenizer, config.context, lambda: checkpoint.stop_tokens(directory))
    with reading(source), tempfile.TemporaryDirectory(prefix="cola-tokenizer-") as folder:
        texts = locate(source).open_texts()
        tokenizer = load_written(texts, Path(folder), source)
    if tokenizer is None:
        raise InputError(f"{source} has no tokenizer that can be read: give a model that has one.")

    def stop_tokens() -> tuple[int, ...]:
        return texts.stop_tokens or checkpoint.end_of_sequence(tokenizer, source)

    return TextModel(tokenizer, texts.config.context, stop_tokens)


def converted(source: str) -> str | None:
    """Return the checkpoint directory of a source, None where it is not converted yet."""
    if found := ready(source):
        return found
    folder = cache_folder(locate(source).key)
    return str(folder) if (folder / checkpoint.METADATA).exists() else None


def find(
    source: epath.PathLike, dtype: DTypeLike | None = None, progress: bool | None = False
) -> str:
    """Return the checkpoint directory of a source; see `load`.

    A local checkpoint is returned as it is, and one on a URL is downloaded. Other sources are
    converted. Neither is done again while the cache has a copy of their content; a damaged copy is
    replaced, with a line on stderr. Two processes convert or download a source once. int8 has a
    separate copy, as a source may have eight bits.
    """
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise InputError(
            f"a model is loaded by its name, path or Hub id, not from {shown(source)}."
        )
    text = os.fspath(source)
    if found := ready(text, progress):
        return found
    located = locate(text)
    key = located.key
    open_source = located.open
    if dtype is None or jnp.dtype(dtype) != INT8:
        return keep_converted(key, open_source, text, progress)
    return keep_converted(f"{key} {INT8}", open_source, text, progress, INT8)


def ready(source: str, progress: bool | None = False) -> str | None:
    """Return the directory of a source that is a checkpoint, local or on a URL; None for others."""
    if is_url(source):
        return find_in_storage(path_of(source), progress)
    is_checkpoint = os.path.exists(Path(source).expanduser() / checkpoint.METADATA)
    return source if is_checkpoint and not demo_model.is_named(source) else None


def find_in_storage(url: epath.Path, progress: bool | None) -> str:
    """Return a copy of the checkpoint at a URL, after reading its metadata alone."""
    try:
        identity = checkpoint.read_metadata_file(url / checkpoint.METADATA)["digest"]
    except FileNotFoundError as error:
        raise InputError(
            f"{url} has no {checkpoint.METADATA}: write a checkpoint there with `cola convert "
            f"SOURCE {url}`."
        ) from error

    def copy(folder: Path, on_progress: OnProgress) -> None:
        with building(folder) as partial:
            download(url, partial, on_progress)
            if checkpoint.read_metadata(partial)["digest"] != identity:
                raise InputError(f"{url} was replaced while it was downloaded: start again.")

    return keep(identity, copy, f"downloading {url}", progress)


def keep_converted(
    key: str,
    open_source: Callable[[], Source],
    name: str,
    progress: bool | None = None,
    dtype: str | None = None,
) -> str:
    """Return the folder of the cache with this key, converting the source into it if need be."""

    def convert(folder: Path, on_progress: OnProgress) -> None:
        convert_opened(open_source, folder, dtype, on_progress)

    return keep(key, convert, f"converting {name}", progress)


def keep(
    key: str, make: Callable[[Path, OnProgress], None], label: str, progress: bool | None
) -> str:
    """Return the folder of the cache with this key, making it if need be with a bar."""
    folder = cache_folder(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                checkpoint.read_metadata(folder)
                return str(folder)
            except InputError as error:
                discard(folder, error)
        with byte_bar(label, progress) as on_progress:
            make(folder, on_progress)
    return str(folder)


def cache_folder(key: str) -> Path:
    """Return the folder of the cache with a key."""
    return root() / f"{checkpoint.LAYOUT}-{digest(key)[:16]}"


def discard(folder: Path, error: Exception) -> None:
    """Remove a damaged copy, and say on stderr that it is made again."""
    print(f"the cached model {folder} is made again: {error}", file=sys.stderr)
    shutil.rmtree(folder)


class Entry(NamedTuple):
    """A converted model in the cache, as `cola cache` lists it."""

    key: str  # the name of its folder
    source: str  # the name, Hub id, file or directory that it was converted from
    revision: str | None  # the commit of a Hub id
    layers: int | None  # None where the checkpoint is damaged
    dtype: str | None
    bytes: int


def cached_models() -> list[Entry]:
    """Return the models of the cache, the largest first."""
    models = map(read_entry, root().glob("[!.]*/"))
    return sorted(models, key=lambda entry: (-entry.bytes, entry.key))


def read_entry(folder: Path) -> Entry:
    """Read the entry of a converted model."""
    size = written_bytes(folder)
    try:
        metadata = checkpoint.read_metadata(folder)
    except InputError:
        return Entry(folder.name, "damaged", None, None, None, size)
    origin = metadata["origin"]
    layers = metadata["config"]["num_layers"]
    dtype = checkpoint.stored_dtype(metadata)
    source = demo_model.NAME if origin.get("package") else str(origin["name"])
    return Entry(folder.name, source, origin.get("revision"), layers, dtype, size)


def remove(key: str, busy: str = "") -> None:
    """Remove a model, and leftovers of killed conversions, once nobody converts it.

    With a text `busy`, InputError with it while somebody does.
    """
    folder = root() / key
    lock = folder.with_suffix(".lock")
    with hold(lock, busy):
        remove_partial(folder)
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)


def clear() -> None:
    """Remove all models and leftovers, but for those that are being converted."""
    keys = {entry.key for entry in cached_models()} | {lock.stem for lock in root().glob("*.lock")}
    for key in keys:
        with contextlib.suppress(InputError):
            remove(key, busy="it is being converted")
