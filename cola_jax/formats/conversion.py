"""Converts a model of another format into a directory that `cola_jax.load` restores."""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np

from cola_jax import checkpoint
from cola_jax.errors import InputError, printed
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.hub import open_hub, resolve
from cola_jax.formats.huggingface import open_directory
from cola_jax.formats.table import Source, stack
from cola_jax.params import shapes
from cola_jax.partial import partial_folder
from cola_jax.storage import check_apart, check_writable
from cola_jax.tokenizer_trial import load_folder, try_tokenizer

DTYPES = checkpoint.DTYPES


def convert(
    source: str,
    destination: str | Path,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    origin: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Converts pretrained weights and their tokenizer into a checkpoint directory.

    Args:
      source: a local directory in Hugging Face layout, a `.gguf` file, or a Hub id, also as
        ID@REVISION.
      destination: the directory to create; it appears only when complete.
      dtype: float32, bfloat16 or float16; that of the source if None (float32 for GGUF).
      revision: a branch, tag or commit of a Hub id.
      overwrite: replace an existing checkpoint, but never another kind of directory.
      origin: the source's name to record, if a local path would mean nothing to others.
      on_progress: called with the bytes converted so far and the total.

    Returns:
      The metadata written to `cola.json`.

    Raises:
      ValueError: if the source cannot be converted faithfully; no files are left behind.
      OSError: if the destination cannot be written.

    Holds one stacked weight at a time: peak memory is a few times the largest one.
    """
    destination = Path(destination)
    if os.path.exists(os.path.expanduser(source)):
        check_apart(destination, source)
    check_destination(destination, overwrite)
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")

    def opened() -> Source:
        found = open_source(source, revision)
        return found if origin is None else found._replace(origin=found.origin | {"name": origin})

    return convert_opened(opened, destination, dtype=dtype, on_progress=on_progress)


def convert_opened(
    source: Callable[[], Source],
    destination: Path,
    *,
    dtype: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Converts what `source` opens; see `convert`. An existing destination is replaced."""
    with partial_folder(destination) as partial:
        opened = source()
        metadata = write(opened, partial, np.dtype(dtype or opened.dtype), on_progress)
        replace(partial, destination)
    return metadata


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises ValueError if the destination exists; only a checkpoint can be overwritten.

    OSError where it cannot be written.
    """
    check_writable(destination)
    if not destination.exists():
        return
    if not overwrite:
        raise InputError(f"{destination} exists already: pass --overwrite to replace it.")
    is_empty = destination.is_dir() and not any(destination.iterdir())
    if not is_empty and not (destination / checkpoint.METADATA).exists():
        raise InputError(
            f"{destination} is not a cola-jax checkpoint and will not be overwritten: remove it, "
            "or choose another destination."
        )
    folders = {one.name for one in destination.iterdir() if one.is_dir()}
    if others := sorted(folders - {checkpoint.WEIGHTS, checkpoint.TOKENIZER}):
        raise InputError(
            f"{destination} holds {printed(others[0])} beside the checkpoint, which would be "
            "removed: move it elsewhere, or choose another destination."
        )


def open_source(source: str, revision: str | None) -> Source:
    """Opens a GGUF file, a local directory or a Hub id."""
    path = Path(os.path.expanduser(source))
    if path.suffix == ".gguf" or path.is_dir():
        if revision is not None:
            raise InputError(f"--revision is for Hub ids, but {source} is a local path.")
        return open_local(path)
    name, _, at = source.partition("@")
    if at and revision is not None:
        raise InputError(f"{source} names a revision, and --revision {revision} another.")
    return open_hub(resolve(name, at or revision))


def open_local(path: Path) -> Source:
    """Opens a GGUF file, or a directory in Hugging Face layout."""
    return open_gguf(path) if path.suffix == ".gguf" else open_directory(path)


def write(
    source: Source, target: Path, dtype: np.dtype, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Writes an opened source into the directory `target`."""
    pad_token = write_tokenizer(source, target / checkpoint.TOKENIZER)
    total = sum(math.prod(shape) for shape in shapes(source.config).values()) * dtype.itemsize
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress(done, total)

    weights = stack(source.tensors, source.rows, source.config, dtype, advance)
    return checkpoint.save(
        target,
        source.config,
        weights,
        source.origin,
        stop_tokens=source.stop_tokens,
        pad_token=pad_token,
    )


def write_tokenizer(source: Source, folder: Path) -> int | None:
    """Writes the tokenizer, if the source has one, and tries it; returns its padding token."""
    folder.mkdir()
    name = source.origin["name"]
    source.write_tokenizer(folder)
    if not any(folder.iterdir()):
        return None
    tokenizer = load_folder(folder, name)
    try_tokenizer(tokenizer, name, source.config.vocab_size)
    return tokenizer.pad_token_id


def replace(partial: Path, destination: Path) -> None:
    """Moves the finished directory into place; an old one is kept until that has succeeded."""
    old = destination.absolute().with_name(f".{destination.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if destination.exists():
        destination.rename(old)
    try:
        partial.rename(destination)
    except OSError:
        if old.exists():
            old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)
