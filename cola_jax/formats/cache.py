"""The cache of converted models: a source is converted once, and found again by what it holds."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from etils import epath
from jax.sharding import Mesh
from jax.typing import DTypeLike

from cola_jax import checkpoint
from cola_jax.cache_directory import cache_directory
from cola_jax.errors import InputError, nearest
from cola_jax.formats.conversion import convert_opened, open_local
from cola_jax.formats.hub import HUB_ID, HubModel, open_hub, resolve
from cola_jax.formats.huggingface import GENERATION, INDEX, TOKENIZER_FILES
from cola_jax.formats.table import Source
from cola_jax.params import Model
from cola_jax.progress_bar import byte_bar

Progress = Callable[[int, int], None]  # called with bytes done and in all
Bar = Callable[[str], contextlib.AbstractContextManager[Progress]]  # shows those of what it names
DIGESTS = "digests"  # the folder of what local sources held when they were last read
NO_BAR = functools.partial(byte_bar, progress=False)
PIECE = 1 << 24  # bytes of a file that are read at once
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
    """Returns the folder of the converted models."""
    return cache_directory() / "models"


def load(
    source: epath.PathLike,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> Model:
    """Loads a model onto its devices, converting it first where that has not been done yet.

    Args:
      source: a checkpoint made by `cola convert` (a local path or a URL such as gs://), a local
        directory in Hugging Face layout, a `.gguf` file, or a Hub id, also as ID@REVISION. All but
        the first are converted once, into the cache that `cola cache` lists.
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
    """Loads what `find` returned of a source; a damaged copy in the cache is converted again."""
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
    """Loads the tokenizer of a model, as a transformers tokenizer.

    Args:
      source: what `load` takes.

    Returns:
      A transformers tokenizer.

    Raises:
      ValueError: if the source is no model, or has no tokenizer.
    """
    return checkpoint.load_tokenizer(find(source))


def find(source: epath.PathLike, bar: Bar = NO_BAR) -> str:
    """Returns the checkpoint directory of a source; see `load`.

    A checkpoint is its own. Others are converted where the cache has no copy of what they hold now;
    one that is damaged is replaced, with a line on stderr. Two processes convert one source once.
    """
    text = os.fspath(source)
    if "://" in text:
        return text
    local = Path(os.path.expanduser(text))
    if (local / checkpoint.METADATA).exists():
        return text
    if local.is_dir() and not (local / "config.json").exists():
        raise InputError(
            f"{text} is not a model: it has neither {checkpoint.METADATA}, as `cola convert` writes, "
            "nor config.json, as a Hugging Face model has."
        )
    if local.is_dir() or local.suffix == ".gguf":
        if not local.exists():
            raise InputError(f"{text} does not exist{similar_name(local)}.")
        with bar("reading") as on_progress:
            key = digest(local, on_progress)
        return keep(key, lambda: open_local(local), bar)
    model = find_on_hub(text)
    key = hashlib.sha256(f"{model.name}@{model.commit}".encode()).hexdigest()
    return keep(key, lambda: open_hub(model), bar)


@functools.cache
def find_on_hub(text: str) -> HubModel:
    """Resolves ID or ID@REVISION, once in a process; raises ValueError for what is neither."""
    name, _, revision = text.partition("@")
    local = Path(os.path.expanduser(text))
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{text} is not a model: no such directory or .gguf file{similar_name(local)}, and "
            "it is not a Hub id like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    return resolve(name, revision or None)


def similar_name(local: Path) -> str:
    """Returns a hint at a file or directory beside a missing one, of the most similar name."""
    names = [one.name for one in local.parent.iterdir()] if local.parent.is_dir() else []
    near = nearest(local.name, names)
    return f" (did you mean {local.parent / near}?)" if near else ""


def keep(key: str, source: Callable[[], Source], bar: Bar) -> str:
    """Returns the folder of the cache with this key, converting the source into it if need be."""
    folder = root() / f"{checkpoint.LAYOUT}-{key[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                checkpoint.check(folder)
                return str(folder)
            except ValueError as error:
                say_rebuilt(str(folder), error)
                shutil.rmtree(folder)
        with bar("converting") as on_progress:
            convert_opened(source, folder, on_progress=on_progress)
    return str(folder)


def say_rebuilt(folder: str, error: Exception) -> None:
    """Says on stderr that a copy is converted again, and why."""
    print(f"the cached model {folder} is converted again: {error}", file=sys.stderr)


def digest(local: Path, on_progress: Progress) -> str:
    """Returns the SHA-256 of a local source: a .gguf file, or what is read of a directory.

    Files whose size and time of change are those of the last time are not read again.
    """
    files = [local] if local.is_file() else sorted(source_files(local))
    stats = [(str(file.resolve()), *file_stat(file)) for file in files]
    known = root() / DIGESTS / f"{hashlib.sha256(repr(stats).encode()).hexdigest()[:32]}.json"
    if known.exists():
        try:
            return str(json.loads(known.read_text())["digest"])
        except (ValueError, KeyError, TypeError):  # damaged: made again
            known.unlink(missing_ok=True)
    done, total = 0, sum(file.stat().st_size for file in files)

    def count(size: int) -> None:
        nonlocal done
        done += size
        on_progress(done, total)

    digests = [file_digest(file, count) for file in files]
    if local.is_file():
        (found,) = digests
    else:
        parts = [f"{file.name} {one}" for file, one in zip(files, digests, strict=True)]
        found = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    known.parent.mkdir(parents=True, exist_ok=True)
    partial = known.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(json.dumps({"source": str(local), "digest": found}))
    partial.replace(known)
    return found


def file_digest(file: Path, on_read: Callable[[int], None] = lambda size: None) -> str:
    """Returns the SHA-256 of a file; `on_read` is called with the bytes of each piece."""
    sha = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            sha.update(piece)
            on_read(len(piece))
    return sha.hexdigest()


def source_files(folder: Path) -> Iterator[Path]:
    """Yields the files of a directory in Hugging Face layout that a conversion reads."""
    yield from (folder / name for name in READ if (folder / name).is_file())
    yield from (file for file in folder.glob("*.safetensors") if file.is_file())


def file_stat(file: Path) -> tuple[int, int]:
    """Returns a file's size and time of change."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def entries() -> list[Entry]:
    """Returns the models of the cache, the largest first."""
    found = []
    for folder in root().glob("*/"):
        if folder.name == DIGESTS or folder.name.startswith("."):
            continue
        try:
            metadata = checkpoint.read_metadata(folder)
        except ValueError:
            metadata = {}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found.append(Entry(folder, metadata, size))
    return sorted(found, key=lambda entry: (-entry.bytes, entry.folder.name))


def remove(entry: Entry) -> None:
    """Removes a model from the cache, once nobody converts it."""
    lock = entry.folder.with_suffix(".lock")
    with filelock.FileLock(lock):
        shutil.rmtree(entry.folder)
    lock.unlink(missing_ok=True)


def forget() -> None:
    """Removes what is remembered of local sources, and what interrupted conversions left."""
    for folder in (root() / DIGESTS, *root().glob(".*.partial")):
        shutil.rmtree(folder, ignore_errors=True)
