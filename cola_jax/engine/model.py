"""`ModelHandle`: a model whose weights are loaded once they are needed."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.engine.devices import choose_dtype
from cola_jax.errors import InputError
from cola_jax.formats import cache
from cola_jax.formats.identity import Identity
from cola_jax.metrics import Metrics
from cola_jax.params import INT8, Int8, Model


class ModelHandle:
    """A checkpoint and the dtype that it runs in, or a model in memory."""

    def __init__(self, source: str, dtype: str | None = None, backend: str | None = None):
        """Read the metadata of a source that `cola_jax.load` takes.

        `backend` is that of the engine, by default the one that JAX uses here.
        """
        self.source: str | None = str(source)
        self.directory: str | None = cache.find(source, dtype=dtype)
        self.metadata: dict[str, Any] = checkpoint.read_metadata(self.directory)
        self.config = ModelConfig.from_json(self.metadata["config"])
        self.dtype = choose_dtype(dtype, checkpoint.stored_dtype(self.metadata), backend)
        self.given: Model | None = None  # a model in memory, which runs as it is
        self.fewest: int | None = None  # questions of a work, which bound its copies
        self.loaded: Model | None = None

    @classmethod
    def of(cls, model: Model) -> "ModelHandle":
        """Take a model in memory, as it is: also where it was changed since it was loaded."""
        handle = cls.__new__(cls)
        handle.source = handle.directory = model.checkpoint
        handle.metadata = checkpoint.read_metadata(model.checkpoint) if model.checkpoint else {}
        handle.config = model.config
        handle.dtype = dtype_of(model)
        handle.given = handle.loaded = model
        handle.fewest = None
        return handle

    def __getstate__(self) -> dict[str, Any]:
        """Leave weights out: a process that takes the handle has its own."""
        return self.__dict__ | {"given": None, "loaded": None}

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the weights that run: those of a model in memory are read."""
        if self.given is not None:
            return checkpoint.digest_of(self.given)
        return self.metadata["digest"]

    @property
    def is_changed(self) -> bool:
        """Whether the weights that run are those of no checkpoint."""
        return self.given is not None and self.digest != self.metadata.get("digest")

    @property
    def identity(self) -> Identity:
        """The identity of the model, for files that name one."""
        return Identity.of(self.metadata)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the checkpoint; InputError for a model without one."""
        if self.directory is None:
            raise InputError("this model was not loaded from a checkpoint with a tokenizer.")
        return checkpoint.read_tokenizer(self.directory)

    def stop_tokens(self) -> Any:
        """Return the ids that end a text; InputError where the model names none."""
        if self.directory is None:
            raise InputError("this model was not loaded from a checkpoint with a tokenizer.")
        return checkpoint.stop_tokens(self.directory)

    def load(self, mesh: Mesh | None = None, metrics: Metrics | None = None) -> Model:
        """Load the weights, once; the metrics, or a bar, show the progress."""
        if self.loaded is None:
            if metrics is None:
                self.loaded = cache.load(str(self.source), dtype=self.dtype, mesh=mesh)
            else:
                place = str(self.source), str(self.directory), self.dtype, mesh
                self.loaded = cache.load_converted(*place, metrics.load)
        return self.loaded


def dtype_of(model: Model) -> str:
    """Return the name of the dtype of a model's weights."""
    layers = jax.tree.leaves(model.layers, is_leaf=lambda leaf: isinstance(leaf, Int8))
    eight = any(isinstance(weight, Int8) for weight in layers)
    return INT8 if eight else str(model.embedding.dtype)
