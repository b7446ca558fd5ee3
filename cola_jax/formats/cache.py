"""The cache of converted models: a source is converted once, and again when its files change."""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax import checkpoint
from cola_jax.errors import InputError, nearest
from cola_jax.files import cache_directory, check_local, hold, remove_partial
from cola_jax.formats.conversion import convert_opened, open_local
from cola_jax.formats.hub import HUB_ID, HubModel, open_hub, resolve
from cola_jax.formats.huggingface import GENERATION, INDEX, TOKENIZER_FILES
from cola_jax.formats.table import Source
from cola_jax.identity import digest
from cola_jax.params import Model
from cola_jax.progress import byte_bar

Progress = Callable[[int, int], None]  # called with bytes done and in all
Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]  # shows those of what it names
NO_BAR = functools.partial(byte_bar, progress=False)
READ = ("config.json", GENERATION, INDEX, *TOKENIZER_FILES)  # and the weights


class Entry(NamedTuple):
    """A converted model in the cache."""

    folder: Path
    metadata: dict[str, Any]  # of the checkpoint; empty where it is damaged
    bytes: int

    @property
    def key(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def source(self) -> str:
        """The Hub id, or the file or directory, that it was converted from."""
        return str(self.metadata.get("origin", {}).get("name", "damaged"))

    @property
    def revision(self) -> str | None:
        """The commit of a Hub id."""
        return self.metadata.get("origin", {}).get("revision")


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
      dtype: of the parameters; that of the checkpoint if None.
      mesh: has axes `data` and `tensor`; each weight is split over `tensor` by the spec of its
        field in `params`. The default device if None.
      progress: shows a bar while the model is converted or loaded; by default in a notebook or on
        a terminal.

    Returns:
      The model, on its devices.

    Raises:
      ValueError: if the source is nothing of these, is not supported, cannot be downloaded, is
        damaged or incomplete, or does not fit the mesh.
    """
    directory = find(source, functools.partial(byte_bar, progress=progress))
    with byte_bar("loading", progress) as on_progress:
        return load_converted(source, directory, dtype, mesh, on_progress)


def load_converted(
    source: epath.PathLike,
    directory: str,
    dtype: DTypeLike | None,
    mesh: Mesh | None,
    on_progress: Progress,
) -> Model:
    """Load what `find` returned of a source; a damaged copy in the cache is converted again."""
    try:
        return checkpoint.load(directory, dtype=dtype, mesh=mesh, on_progress=on_progress)
    except checkpoint.DamagedError as error:
        if directory == os.fspath(source):  # not ours to replace
            raise
        say_rebuilt(directory, error)
        shutil.rmtree(directory)
        found = find(source)
        return checkpoint.load(found, dtype=dtype, mesh=mesh, on_progress=on_progress)


def load_tokenizer(source: epath.PathLike) -> Any:
    """Load the tokenizer of a model, as a transformers tokenizer.

    Args:
      source: what `load` takes.

    Returns:
      A transformers tokenizer.

    Raises:
      ValueError: if the source is no model, or has no tokenizer.
    """
    return checkpoint.load_tokenizer(find(source))


def find(source: epath.PathLike, bar: Bar = NO_BAR) -> str:
    """Return the checkpoint directory of a source; see `load`.

    A checkpoint is its own. Others are converted where the cache has no copy of what they hold now;
    one that is damaged is replaced, with a line on stderr. Two processes convert one source once.
    """
    text = os.fspath(source)
    check_local(text)
    local = Path(os.path.expanduser(text))
    if (local / checkpoint.METADATA).exists():
        return text
    if local.is_dir() and not (local / "config.json").exists():
        raise InputError(
            f"{text} is not a model: it has neither {checkpoint.METADATA}, as `cola convert` "
            "writes, nor config.json, as a Hugging Face model has."
        )
    if local.is_dir() or local.suffix == ".gguf":
        if not local.exists():
            raise InputError(f"{text} does not exist{similar_name(local)}.")
        return keep(stamp(local), lambda: open_local(local), bar)
    model = find_on_hub(text)
    return keep(f"{model.name}@{model.commit}", lambda: open_hub(model), bar)


@functools.cache
def find_on_hub(text: str) -> HubModel:
    """Resolve ID or ID@REVISION, once in a process; raise InputError for what is neither."""
    name, _, revision = text.partition("@")
    local = Path(os.path.expanduser(text))
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{text} is not a model: no such directory or .gguf file{similar_name(local)}, and "
            "it is not a Hub id like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    return resolve(name, revision or None)


def similar_name(local: Path) -> str:
    """Return a hint at a file or directory beside a missing one, of the most similar name."""
    names = [one.name for one in local.parent.iterdir()] if local.parent.is_dir() else []
    near = nearest(local.name, names)
    return f" (did you mean {local.parent / near}?)" if near else ""


def keep(key: str, source: Callable[[], Source], bar: Bar) -> str:
    """Return the folder of the cache with this key, converting the source into it if need be."""
    folder = root() / f"{checkpoint.LAYOUT}-{digest(key)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                checkpoint.read_metadata(folder)
                return str(folder)
            except InputError as error:
                say_rebuilt(str(folder), error)
                shutil.rmtree(folder)
        with bar("converting") as on_progress:
            convert_opened(source, folder, on_progress=on_progress)
    return str(folder)


def say_rebuilt(folder: str, error: Exception) -> None:
    """Say on stderr that a copy is converted again, and why."""
    print(f"the cached model {folder} is converted again: {error}", file=sys.stderr)


def stamp(local: Path) -> str:
    """Return a digest of what tells whether a local source has changed, without reading it."""
    stats = ((str(file.resolve()), file.stat()) for file in source_files(local))
    return digest([[n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in stats])


def source_files(local: Path) -> list[Path]:
    """List what a conversion reads of a local source: a .gguf file, or files of a directory."""
    if local.is_file():
        return [local]
    files = [*(local / name for name in READ), *sorted(local.glob("*.safetensors"))]
    return [file for file in files if file.is_file()]


def entries() -> list[Entry]:
    """Return the models of the cache, the largest first."""
    found = []
    for folder in root().glob("*/"):
        if folder.name.startswith("."):
            continue
        try:
            metadata = checkpoint.read_metadata(folder)
        except ValueError:
            metadata = {}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found.append(Entry(folder, metadata, size))
    return sorted(found, key=lambda entry: (-entry.bytes, entry.folder.name))


def remove(entry: Entry) -> None:
    """Remove a model from the cache, once nobody converts it."""
    lock = entry.folder.with_suffix(".lock")
    with hold(lock):
        shutil.rmtree(entry.folder)
        lock.unlink(missing_ok=True)


def forget() -> None:
    """Remove what conversions that were killed have left; those that go on keep theirs."""
    for lock in root().glob("*.lock"):
        with contextlib.suppress(InputError), hold(lock, "it is being converted"):
            remove_partial(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
