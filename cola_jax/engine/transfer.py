"""Models on their way through the object store of Ray: files of a checkpoint, or weights.

Ray has `runtime_env`, for folders of 500 MB at most, and `sync_dir_between_nodes` in its tuner,
which cannot read the files of a driver that is not one of its nodes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from cola_jax.checkpoint import arrays_of
from cola_jax.params import Int8, Model, assemble, sharding, weights_of

if TYPE_CHECKING:
    from ray import ObjectRef  # its package is an extra

CHUNK = 256 << 20  # bytes of a file in one object

Files = Mapping[str, Sequence["ObjectRef"]]  # chunks of each, by its path


def put_files(folder: Path) -> Files:
    """Put the files of a folder into the object store."""
    import ray

    return {
        str(file.relative_to(folder)): [ray.put(chunk) for chunk in chunks_of(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def chunks_of(file: Path) -> Iterator[np.ndarray]:
    """Read a file in parts, as arrays of bytes."""
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            yield np.frombuffer(chunk, np.uint8)


def write_files(files: Files, folder: Path) -> None:
    """Write files of the object store into a folder."""
    import ray

    for name, chunks in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            for chunk in chunks:
                file.write(ray.get(chunk))


class Weights:
    """The weights of a model in the object store, and the rest of it."""

    def __init__(self, model: Model):
        """Put the weights of a model, one object each."""
        import ray

        self.config = model.config
        self.pad_token = model.pad_token
        self.objects = {
            name: ray.put(jax.tree.map(np.asarray, weight))
            for name, weight in weights_of(model)
            if weight is not None
        }

    def load(self, mesh: Mesh | None, checkpoint: str | None) -> Model:
        """Place the weights on the devices of this process; `checkpoint` has the tokenizer."""
        import ray

        weights = {name: place(name, ray.get(ref), mesh) for name, ref in self.objects.items()}
        return assemble(self.config, weights, self.pad_token, checkpoint)


def place(name: str, weight: Any, mesh: Mesh | None) -> Any:
    """Copy a weight of NumPy to the devices that it belongs on."""
    arrays = {
        key: jax.device_put(array, sharding(name, array.shape, mesh))
        for key, array in arrays_of(name, weight).items()
    }
    return Int8(*arrays.values()) if isinstance(weight, Int8) else arrays[name]
