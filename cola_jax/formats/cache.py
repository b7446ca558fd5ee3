"""The cache of converted models: a source is converted once, and again when its files change."""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax import checkpoint
from cola_jax.errors import InputError
from cola_jax.files import cache_directory, check_local, hold, remove_partial
from cola_jax.formats.conversion import convert_opened
from cola_jax.formats.sources import locate
from cola_jax.formats.table import Source
from cola_jax.identity import digest
from cola_jax.int8 import INT8
from cola_jax.params import Model
from cola_jax.progress import byte_bar

Progress = Callable[[int, int], None]  # called with bytes done and in all
Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]  # shows them beside a name
NO_BAR = functools.partial(byte_bar, progress=False)


class Entry(NamedTuple):
    """A converted model in the cache."""

    folder: Path
    metadata: dict[str, Any]  # of the checkpoint; empty where it is damaged
    source: str  # the Hub id, or the file or directory, that it was converted from
    revision: str | None  # the commit of a Hub id
    bytes: int

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.folder.name


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
      source: a checkpoint made by `cola convert`, a local directory in Hugging Face layout, a
        `.gguf` file, or a Hub id, also as ID@REVISION. All but the first are converted once, into
        the cache that `cola cache` lists.
      dtype: of the parameters; that of the checkpoint if None. With int8 the matrices of layers
        have eight bits, in the blocks of a GGUF file in Q8_0 and else by output channel.
      mesh: has axes `data` and `tensor`; each weight is split over `tensor` by the spec of its
        field in `params`. The default device if None.
      progress: shows a bar while the model is converted or loaded; by default in a notebook or on
        a terminal.

    Returns:
      The model, on its devices.

    Raises:
      InputError: if the source is nothing of these, is not supported, cannot be downloaded, is
        damaged or incomplete, or does not fit the mesh.
    """
    directory = find(source, functools.partial(byte_bar, progress=progress), dtype)
    with byte_bar("loading", progress) as on_progress:
        return load_converted(source, directory, dtype, mesh, on_progress)


def load_converted(
    source: epath.PathLike,
    directory: str,
    dtype: DTypeLike | None,
    mesh: Mesh | None,
    on_progress: Progress,
) -> Model:
    """Load a directory that `find` returned; a damaged copy in the cache is converted again."""
    try:
        return checkpoint.load(directory, dtype=dtype, mesh=mesh, on_progress=on_progress)
    except checkpoint.DamagedError as error:
        if directory == os.fspath(source):  # not ours to replace
            raise
        discard(Path(directory), error)
        directory = find(source, dtype=dtype)
        return checkpoint.load(directory, dtype=dtype, mesh=mesh, on_progress=on_progress)


def load_tokenizer(source: epath.PathLike) -> Any:
    """Load the tokenizer of a model.

    Args:
      source: as for `load`.

    Returns:
      A transformers tokenizer.

    Raises:
      InputError: if the source is not a model, or has no tokenizer.
    """
    return checkpoint.load_tokenizer(find(source))


def find(source: epath.PathLike, bar: Bar = NO_BAR, dtype: DTypeLike | None = None) -> str:
    """Return the checkpoint directory of a source; see `load`.

    A checkpoint is its own. Others are converted where the cache has no copy of their content; one
    that is damaged is replaced, with a line on stderr. Two processes convert one source once.
    int8 has a copy of its own, as a source may have eight bits.
    """
    text = os.fspath(source)
    check_local(text)
    if (Path(text).expanduser() / checkpoint.METADATA).exists():
        return text
    located = locate(text)
    if dtype is None or jnp.dtype(dtype) != INT8:
        return keep(located.key, located.open, bar)
    return keep(f"{located.key} {INT8}", located.open, bar, INT8)


def keep(key: str, source: Callable[[], Source], bar: Bar, dtype: str | None = None) -> str:
    """Return the folder of the cache with this key, converting the source into it if need be."""
    folder = root() / f"{checkpoint.LAYOUT}-{digest(key)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                checkpoint.read_metadata(folder)
                return str(folder)
            except InputError as error:
                discard(folder, error)
        with bar("converting") as on_progress:
            convert_opened(source, folder, dtype=dtype, on_progress=on_progress)
    return str(folder)


def discard(folder: Path, error: Exception) -> None:
    """Remove a damaged copy, and say on stderr that it is converted again."""
    print(f"the cached model {folder} is converted again: {error}", file=sys.stderr)
    shutil.rmtree(folder)


def entries() -> list[Entry]:
    """Return the models of the cache, the largest first."""
    models = []
    for folder in root().glob("[!.]*/"):
        metadata: dict[str, Any] = {}
        with contextlib.suppress(InputError):
            metadata = checkpoint.read_metadata(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        origin = metadata.get("origin", {"name": "damaged"})
        models.append(Entry(folder, metadata, str(origin["name"]), origin.get("revision"), size))
    return sorted(models, key=lambda entry: (-entry.bytes, entry.key))


def remove(entry: Entry) -> None:
    """Remove a model from the cache, once nobody converts it."""
    lock = entry.folder.with_suffix(".lock")
    with hold(lock):
        shutil.rmtree(entry.folder)
        lock.unlink(missing_ok=True)


def forget() -> None:
    """Remove leftovers of conversions that were killed; those that go on keep theirs."""
    for lock in root().glob("*.lock"):
        with contextlib.suppress(InputError), hold(lock, "it is being converted"):
            remove_partial(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
