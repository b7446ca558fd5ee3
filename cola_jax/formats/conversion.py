"""Convert a model of the Hub, a directory or a .gguf file into a checkpoint."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jax.typing import DTypeLike

from cola_jax import checkpoint
from cola_jax.dtypes import dtype_name
from cola_jax.errors import InputError, nearest, printed, reading
from cola_jax.files import building, check_apart, check_writable, exists, matching
from cola_jax.formats import demo_model
from cola_jax.formats.families import read_config
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.hub import SECONDS, download_error
from cola_jax.formats.huggingface import (
    CARD,
    CONFIG,
    FILES,
    TEXT_FILES,
    open_directory,
    open_folder_texts,
    read_config_file,
)
from cola_jax.formats.identity import HUB_ID
from cola_jax.formats.table import Source, Texts, stack, texts_of
from cola_jax.params import INT8
from cola_jax.progress import OnProgress, ignore_progress
from cola_jax.question import digest
from cola_jax.storage import AnyPath, check_local

SENTENCE = "Which planet is the largest? Jupiter, 11 times as wide as the Earth."
# some repositories hold a second copy of the weights in their authors' own format
SKIPPED = ["consolidated*", "*/*"]


def convert(
    source: str,
    destination: str | Path,
    *,
    dtype: DTypeLike | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    rooted_scales: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> dict[str, Any]:
    """Convert pretrained weights and their tokenizer into a checkpoint directory.

    Args:
      source: a local directory in Hugging Face layout, a `.gguf` file, a Hub id, also as
        ID@REVISION, or "smollm2", the demo's model.
      destination: the directory to create; it appears only when complete. A checkpoint for a URL
        is made in the cache and uploaded, its metadata last.
      dtype: float32, bfloat16 or float16; that of the source if None (float32 for GGUF). With
        int8, the matrices of layers have eight bits, by output channel or in the blocks of a file
        in Q8_0 or Q4_0, and all else has the source's dtype.
      revision: a branch, tag or commit of a Hub id.
      overwrite: replace an existing checkpoint, but never another kind of directory.
      rooted_scales: of Gemma 4, whose layers multiply their state by a scale s: a layer that a path
        runs N times multiplies by s^(1/N) each time, and not by s.
      on_progress: called with the bytes converted so far and the total.

    Returns:
      The metadata written to `cola.json`.

    Raises:
      InputError: if the source cannot be converted faithfully; no files are left behind.
      OSError: if the destination cannot be written.

    Holds one stacked weight at a time: peak memory is a few times the largest one.
    """
    check_local(source)
    place = checkpoint.absolute(destination)
    if os.path.exists(os.path.expanduser(source)):
        check_apart(place, source)
    check_destination(place, overwrite)
    dtype = dtype_name(dtype)
    open_source = locate(source, revision).open
    if rooted_scales:
        return convert_opened(lambda: with_roots(open_source()), place, dtype, on_progress)
    return convert_opened(open_source, place, dtype, on_progress)


def with_roots(source: Source) -> Source:
    """Return a source whose scales are rooted; InputError where it has none."""
    config = source.config
    if not any(kind.output_scales for kind in config.kinds):
        raise InputError(
            f"{source.origin['name']} is a {config.model_type}, whose layers have no scales: "
            "convert it without rooted scales."
        )
    return source._replace(config=dataclasses.replace(config, rooted_scales=True))


def check_destination(destination: epath.Path, overwrite: bool) -> None:
    """Raise InputError if the destination exists; nothing but a checkpoint can be overwritten.

    OSError where it cannot be written.
    """
    check_writable(destination)
    if not exists(destination):
        return
    if not overwrite:
        raise InputError(f"{destination} exists already: pass --overwrite to replace it.")
    written = {checkpoint.METADATA, checkpoint.WEIGHTS, checkpoint.TOKENIZER}
    is_file = os.path.isfile(destination)
    lists = ([destination],) if is_file else (matching(destination, x) for x in ("*", ".*"))
    if others := sorted({file.name for files in lists for file in files} - written):
        raise InputError(
            f"{destination} holds {printed(others[0])}, which is not of a checkpoint, and will not "
            "be overwritten: move it elsewhere, or choose another destination."
        )


def convert_opened(
    open_source: Callable[[], Source],
    destination: AnyPath,
    dtype: str | None = None,
    on_progress: OnProgress = ignore_progress,
) -> dict[str, Any]:
    """Convert an opened source; see `convert`. An existing destination is replaced."""
    with building(destination) as partial:
        source = open_source()
        pad_token = write_tokenizer(source, partial / checkpoint.TOKENIZER)
        floats = source.dtype if dtype in (None, INT8) else np.dtype(dtype)
        weights = stack(source, floats, int8=dtype == INT8, on_progress=on_progress)
        return checkpoint.save(
            partial,
            source.config,
            weights,
            source.origin,
            stop_tokens=source.stop_tokens,
            pad_token=pad_token,
            tower=None if source.tower is None else source.tower(),
        )


def write_tokenizer(source: Source, folder: Path) -> int | None:
    """Write the tokenizer, if the source has one, and try it; return its padding token."""
    folder.mkdir()
    tokenizer = load_written(texts_of(source), folder, str(source.origin["name"]))
    return None if tokenizer is None else tokenizer.pad_token_id


def load_written(source: Texts, folder: Path, name: str) -> Any:
    """Write the tokenizer of a source to a folder, load it and try it; None where it has none."""
    source.write_tokenizer(folder)
    if not any(folder.iterdir()):
        return None
    tokenizer = checkpoint.load_folder(folder, name)
    try_tokenizer(tokenizer, name, source.config.vocab_size)
    return tokenizer


def try_tokenizer(tokenizer: Any, name: str, vocab_size: int) -> None:
    """Raise InputError for a tokenizer that fails on a sentence, or that of another model."""
    with reading(f"the tokenizer of {name}", checkpoint.REPAIR):
        largest = max(tokenizer(SENTENCE).input_ids, default=0)
    if largest >= vocab_size:
        raise InputError(
            f"{name} has the tokenizer of another model: it encodes a sentence with token id "
            f"{largest}, but the model embeds {vocab_size}. {checkpoint.REPAIR}"
        )


class Located(NamedTuple):
    """A source that exists, and has not been opened."""

    key: str  # of its content: another one whenever a conversion may give another model
    open: Callable[[], Source]
    open_texts: Callable[[], Texts]  # the same without the weights
    folder: Callable[[], Path]  # of its files in Hugging Face layout


def locate(source: str, revision: str | None = None) -> Located:
    """Find a .gguf file, a directory in Hugging Face layout, a Hub id, also as ID@REVISION, or the
    demo's model.

    Raises InputError for other names, and for a model that the Hub or its cache does not give.
    """
    if demo_model.is_named(source):
        if revision is not None:
            raise InputError(f"--revision is for Hub ids, but {source} is the demo's model.")
        return Located(
            demo_model.KEY,
            demo_model.open_demo,
            lambda: texts_of(demo_model.open_demo()),
            demo_model.find_file,
        )
    local = Path(source).expanduser()
    if local.is_dir() or local.suffix == ".gguf":
        if revision is not None:
            raise InputError(f"--revision is for Hub ids, but {source} is a local path.")
        if not local.exists():
            raise InputError(f"{source} does not exist{similar_name(local)}.")
        is_directory = local.is_dir()
        return Located(
            stamp(local),
            lambda: open_directory(local) if is_directory else open_gguf(local),
            lambda: open_folder_texts(local) if is_directory else texts_of(open_gguf(local)),
            lambda: local,
        )
    name, _, suffix = source.partition("@")
    if suffix and revision is not None:
        raise InputError(f"{source} names a revision, and --revision {revision} another.")
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{source} is not a model: no such directory or .gguf file{similar_name(local)}, and "
            "it is not a Hub id like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    return locate_on_hub(name, suffix or revision)


def similar_name(local: Path) -> str:
    """Return a hint that names the most similar file or directory next to a missing one."""
    names = [file.name for file in local.parent.iterdir()] if local.parent.is_dir() else []
    near = nearest(local.name, names)
    return f" (did you mean {local.parent / near}?)" if near else ""


def stamp(local: Path) -> str:
    """Return a digest that changes with the files of a local source, without reading them."""
    read = [file for pattern in FILES for file in sorted(local.glob(pattern))]
    files = [file.resolve() for file in read or [local] if file.is_file()]
    stats = [(str(file), file.stat()) for file in files]
    return digest([[n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in stats])


@functools.cache
def locate_on_hub(name: str, revision: str | None) -> Located:
    """Ask the Hub, once in a process, for the commit that a revision means; see `locate`."""
    folder = download_snapshot(name, revision, [CONFIG])
    commit = folder.name  # a snapshot's folder is named after its commit

    def whole() -> Path:
        return download_snapshot(name, commit, [*FILES, CARD])

    def open_model() -> Source:
        with reading(f"the {CONFIG} of {name}"):
            read_config(read_config_file(folder))  # before the weights are downloaded
        source = open_directory(whole())
        hub = {"kind": "hub", "name": name, "revision": commit}
        return source._replace(origin=source.origin | hub)

    def open_tokenizer() -> Texts:
        return open_folder_texts(download_snapshot(name, commit, TEXT_FILES))

    return Located(f"{name}@{commit}", open_model, open_tokenizer, whole)


def download_snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download files of a model unless they are cached; return the folder of the snapshot.

    The cache of the Hub is asked where it cannot be reached, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=SKIPPED,
            etag_timeout=SECONDS,
        )
        return Path(folder)
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        local = "a local directory or a .gguf file"
        raise download_error(name, revision, error, local) from error
