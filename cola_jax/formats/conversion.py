"""Convert a model of another format into a directory that `cola_jax.load` restores."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np

from cola_jax import checkpoint
from cola_jax.errors import InputError, printed, reading
from cola_jax.files import building, check_apart, check_local, check_writable
from cola_jax.formats.sources import locate
from cola_jax.formats.table import Source, stack
from cola_jax.int8 import INT8, weight_bytes

SENTENCE = "Which planet is the largest? Jupiter, 11 times as wide as the Earth."


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
    """Convert pretrained weights and their tokenizer into a checkpoint directory.

    Args:
      source: a local directory in Hugging Face layout, a `.gguf` file, or a Hub id, also as
        ID@REVISION.
      destination: the directory to create; it appears only when complete.
      dtype: float32, bfloat16 or float16; that of the source if None (float32 for GGUF). With
        int8, the matrices of layers have eight bits, by output channel or in the blocks of a file
        in Q8_0, and all else has the source's dtype.
      revision: a branch, tag or commit of a Hub id.
      overwrite: replace an existing checkpoint, but never another kind of directory.
      origin: the source's name to record, if a local path would mean nothing to others.
      on_progress: called with the bytes converted so far and the total.

    Returns:
      The metadata written to `cola.json`.

    Raises:
      InputError: if the source cannot be converted faithfully; no files are left behind.
      OSError: if the destination cannot be written.

    Holds one stacked weight at a time: peak memory is a few times the largest one.
    """
    destination = checkpoint.local(destination)
    check_local(source)
    if os.path.exists(os.path.expanduser(source)):
        check_apart(destination, source)
    check_destination(destination, overwrite)
    if dtype is not None and dtype not in checkpoint.DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(checkpoint.DTYPES)}.")
    located = locate(source, revision)

    def open_named() -> Source:
        model = located.open()
        return model._replace(origin=model.origin | ({"name": origin} if origin else {}))

    return convert_opened(open_named, destination, dtype=dtype, on_progress=on_progress)


def convert_opened(
    source: Callable[[], Source],
    destination: Path,
    *,
    dtype: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Convert an opened source; see `convert`. An existing destination is replaced."""
    with building(destination) as partial:
        model = source()
        q8 = model.q8 if dtype == INT8 else None
        kind = np.dtype(model.dtype if dtype in (None, INT8) else dtype)
        pad_token = write_tokenizer(model, partial / checkpoint.TOKENIZER)
        total = weight_bytes(model.config, dtype or kind, kind)
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            on_progress(done, total)

        return checkpoint.save(
            partial,
            model.config,
            stack(model.tensors, model.rows, model.config, kind, advance, q8),
            model.origin,
            stop_tokens=model.stop_tokens,
            pad_token=pad_token,
        )


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raise InputError if the destination exists; nothing but a checkpoint can be overwritten.

    OSError where it cannot be written.
    """
    check_writable(destination)
    if not destination.exists():
        return
    if not overwrite:
        raise InputError(f"{destination} exists already: pass --overwrite to replace it.")
    written = {checkpoint.METADATA, checkpoint.WEIGHTS, checkpoint.TOKENIZER}
    files = destination.iterdir() if destination.is_dir() else [destination]
    if others := sorted({file.name for file in files} - written):
        raise InputError(
            f"{destination} holds {printed(others[0])}, which is not of a checkpoint, and will not "
            "be overwritten: move it elsewhere, or choose another destination."
        )


def write_tokenizer(source: Source, folder: Path) -> int | None:
    """Write the tokenizer, if the source has one, and try it; return its padding token."""
    folder.mkdir()
    name = source.origin["name"]
    source.write_tokenizer(folder)
    if not any(folder.iterdir()):
        return None
    tokenizer = checkpoint.load_folder(folder, name)
    try_tokenizer(tokenizer, name, source.config.vocab_size)
    return tokenizer.pad_token_id


def try_tokenizer(tokenizer: Any, name: str, vocab_size: int) -> None:
    """Raise InputError for a tokenizer that fails on a sentence, or that of another model."""
    with reading(f"the tokenizer of {name}", checkpoint.REPAIR):
        largest = max(tokenizer(SENTENCE).input_ids, default=0)
    if largest >= vocab_size:
        raise InputError(
            f"{name} has the tokenizer of another model: it encodes a sentence with token id "
            f"{largest}, but the model embeds {vocab_size}. {checkpoint.REPAIR}"
        )
