"""`convert`: a foreign checkpoint becomes a directory that `cola_jax.load` restores."""

import contextlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes numpy know bfloat16 by name
import numpy as np

from cola_jax import checkpoint
from cola_jax.convert.gguf import open_gguf
from cola_jax.convert.huggingface import open_directory, open_hub
from cola_jax.convert.source import Source
from cola_jax.convert.table import stack
from cola_jax.params import shapes

DTYPES = ("float32", "bfloat16", "float16")


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
      source: a local directory in Hugging Face layout, a `.gguf` file, or a Hub id.
      destination: the directory to make; it appears only when complete.
      dtype: float32, bfloat16 or float16; the source's own when None (float32 for GGUF).
      revision: a branch, tag or commit of a Hub id.
      overwrite: replace an existing checkpoint; nothing else is ever replaced.
      origin: recorded as the source's name, where a path says nothing to those who come later.
      on_progress: called with bytes converted and bytes in all.

    Returns:
      The metadata written to `cola.json`.

    Raises:
      ValueError: for a source that cannot be converted faithfully, named in the message; nothing
        is left behind.
      OSError: where the destination cannot be written.

    Holds one stacked weight at a time: peak memory is a few times the largest of them, however
    many layers' worth of other weights the model has.
    """
    destination = Path(destination)
    check_destination(destination, overwrite)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    partial = destination.absolute().with_name(f".{destination.name}.partial")
    made = [folder for folder in partial.parents if not folder.exists()]
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{destination} cannot be written ({error}): choose another.") from error
    try:
        opened = open_source(source, revision)
        if origin is not None:
            opened = opened._replace(origin=opened.origin | {"name": origin})
        metadata = write(opened, partial, np.dtype(dtype or opened.dtype), on_progress)
        replace(partial, destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: it holds the result
                folder.rmdir()
    return metadata


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises ValueError for a destination that is taken; only a checkpoint can be overwritten."""
    if not destination.exists():
        return
    if not overwrite:
        raise ValueError(f"{destination} exists already: pass --overwrite to replace it.")
    is_empty = destination.is_dir() and not any(destination.iterdir())
    if not is_empty and not (destination / checkpoint.METADATA).exists():
        raise ValueError(
            f"{destination} is no checkpoint of ours, so it is not overwritten: remove it, "
            "or choose another destination."
        )


def open_source(source: str, revision: str | None) -> Source:
    """Opens whatever `source` names."""
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        opened = open_gguf
    elif path.is_dir():
        opened = open_directory
    else:
        return open_hub(source, revision)
    if revision is not None:
        raise ValueError(f"--revision belongs to a Hub id, but {source} is a local path.")
    return opened(path)


def write(
    source: Source, target: Path, dtype: np.dtype, on_progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Converts an opened source into the directory `target`."""
    (target / checkpoint.TOKENIZER).mkdir()
    source.write_tokenizer(target / checkpoint.TOKENIZER)
    total = sum(math.prod(shape) for shape in shapes(source.config).values()) * dtype.itemsize
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        on_progress(done, total)

    weights = stack(source.tensors, source.rows, source.config, dtype, advance)
    return checkpoint.save(target, source.config, weights, source.origin, source.stop_tokens)


def replace(partial: Path, destination: Path) -> None:
    """Puts the finished directory in place; an old one is kept until the new one stands."""
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
