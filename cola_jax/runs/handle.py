"""`ModelHandle`: a model whose weights are loaded once they are needed."""

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import jax
from jax.sharding import Mesh

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.execute.inputs import check_tokens
from cola_jax.execute.memory import Memory, default_budget, default_limits
from cola_jax.formats import cache
from cola_jax.formats.identity import Identity
from cola_jax.metrics import Metrics
from cola_jax.params import Model, float_dtype, weight_bytes
from cola_jax.runs.devices import Devices, choose_dtype
from cola_jax.tasks.encoded import EncodedTask
from cola_jax.tasks.prepared import Prepared

if TYPE_CHECKING:
    from cola_jax.runs.ray import RayEngine

Result = TypeVar("Result")


class ModelHandle:
    """A checkpoint, its dtype and devices, and its weights once they are needed."""

    def __init__(
        self,
        source: str,
        devices: Devices,
        dtype: str | None = None,
        engine: "RayEngine | None" = None,
    ):
        """Read the metadata of a source that `cola_jax.load` takes."""
        self.source, self.devices, self.engine = source, devices, engine
        self.directory = cache.find(source, dtype=dtype)
        self.metadata = checkpoint.read_metadata(self.directory)
        self.config = ModelConfig.from_json(self.metadata["config"])
        backend = None if engine is None else engine.facts.backend
        self.dtype = choose_dtype(dtype, checkpoint.stored_dtype(self.metadata), backend)
        self.loaded: Model | None = None

    @property
    def identity(self) -> Identity:
        """The identity of the model, for files that name one."""
        return Identity.of(self.metadata)

    def prepare(self, prepare: Callable[..., Result]) -> Result:
        """Call a function that encodes questions with the tokenizer, as `TaskConfig.prepare`."""
        return prepare(
            checkpoint.load_tokenizer(self.directory),
            context=self.config.context,
            stop_tokens=lambda: checkpoint.stop_tokens(self.directory),
        )

    def encode(self, prepared: Prepared) -> EncodedTask:
        """Encode questions with their pictures; InputError for one that cannot be asked."""
        return EncodedTask.of(prepared, self.directory)

    def check(self, prepared: EncodedTask) -> None:
        """Raise InputError for tokens outside the vocabulary."""
        variants = (variant.encoded for variant in prepared.variants)
        for encoded in itertools.chain(prepared.encoded, prepared.held_out, *variants):
            check_tokens("token ids", encoded.prompts.ids, self.config.vocab_size)
            if encoded.prompts.targets is not None:
                check_tokens("targets", encoded.prompts.targets, self.config.vocab_size)

    def load(self, mesh: Mesh | None, metrics: Metrics | None = None) -> Model:
        """Load the weights, once; the metrics, or a bar, show the progress."""
        if self.loaded is None:
            if metrics is None:
                self.loaded = cache.load(self.source, dtype=self.dtype, mesh=mesh)
            else:
                place = self.source, self.directory, self.dtype, mesh
                self.loaded = cache.load_converted(*place, metrics.load)
        return self.loaded

    @functools.cached_property
    def memory(self) -> Memory:
        """The memory of workers on each device, known before the weights load."""
        if self.engine is not None:
            return self.engine.memory(self)
        budget, wide = self.devices.budget, float_dtype(self.dtype)
        if budget is None:
            weights = weight_bytes(self.config, self.dtype, wide)
            budget = default_budget(jax.local_devices()[0], weights // self.devices.tensor)
        return Memory(
            budget,
            sharing=default_limits().threads,
            itemsize=wide.itemsize,
            backend=jax.default_backend(),
            tile_tokens=self.devices.tile_tokens,
        )
