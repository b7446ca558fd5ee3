"""Writes tensors as safetensors files of a bounded size, holding one file's at a time."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cola_jax.formats.huggingface import INDEX

SHARD_BYTES = 2 * 2**30
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def plan_shards(sizes: Mapping[str, int], limit: int | None = None) -> dict[str, str]:
    """Assigns tensors, given their bytes in the order of writing, to files of at most `limit`.

    SHARD_BYTES if None. A tensor beyond the limit has a file of its own.
    """
    limit = SHARD_BYTES if limit is None else limit
    shards: list[list[str]] = []
    filled = limit
    for name, size in sizes.items():
        if filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return dict.fromkeys(shards[0], "model.safetensors")
    return {
        name: f"model-{number:05}-of-{len(shards):05}.safetensors"
        for number, names in enumerate(shards, start=1)
        for name in names
    }


def write_shards(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], files: Mapping[str, str]
) -> int:
    """Writes tensors into the files planned for them, and the index if there are several.

    Tensors arrive in the order of the plan. Returns the bytes of all tensors.
    """
    shard: dict[str, np.ndarray] = {}
    total, current = 0, None
    for name, array in tensors:
        if files[name] != current:
            write_shard(folder, current, shard)
            shard, current = {}, files[name]
        shard[name] = array
        total += array.nbytes
    write_shard(folder, current, shard)
    if len(set(files.values())) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return total


def write_shard(folder: Path, name: str | None, tensors: dict[str, np.ndarray]) -> None:
    """Writes one file, unless there is none yet."""
    if name is not None:
        save_tensors(folder / name, tensors)


def save_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a safetensors file that whoever may read its directory can read.

    OSError where it cannot be written, for which safetensors has an error of its own.
    """
    try:
        save_file(tensors, file, metadata={"format": "pt"})  # pt: readers demand it
    except SafetensorError as error:
        if not (found := SYSTEM_ERROR.search(str(error))):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors lets the owner alone read it
